"""What a model did before must still hold: each invariant has a change that loses it and is rejected for that alone.

The change is switched off in the text before by its swap, so that isolation has nothing to say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import Claim, Promise
from migrator.prove import Prover, Verification
from migrator.rewrite.plan import Plan, Stage
from tests.prove.texts import EXACT, STAGES, changed, one_stage, swap

PATH = Path("small_model.py")


def proved_removal(prover: Prover, symbol: str, expression: str, off: str, text: str = EXACT) -> Verification:
    """The proof of a change that claims to be nothing but `expression` -> `off`."""
    claim = Claim((symbol,), (symbol,), off=(swap(text, expression, off),))
    after = changed(text, (expression, off))
    return prover.prove(Plan(PATH, text, after, (Stage(("mutant",), Promise.NEW, text, after, (claim,)),)), timeout=60)


def failures(verification: Verification) -> set[tuple[str, str]]:
    assert verification.status == "failed", verification.notes
    return {(check.symbol, check.name) for check in verification.checks if not check.passed}


@pytest.mark.parametrize(
    ("symbol", "expression", "off", "check"),
    [
        ("Attention", "causal=self.causal, ", "", "causality"),
        ("Encoder", "self.trunk(x)", "self.trunk(x + x.mean(0, keepdim=True))", "batch independence"),
        ("Encoder", "self.trunk(x)", "self.trunk(x) + torch.rand(())", "eval determinism"),
        ("Encoder", "self.pos_enc(x)", "x", "position sensitivity"),
        ("Decoder", "self.pos_enc(h)", "h * 0", "position sensitivity"),
        ("Encoder", "self.trunk(x)", "self.trunk(x.detach())", "gradients"),
        ("Encoder", "self.trunk(x)", "(self.trunk(x) * 1e-9 + 1e3 * self.trunk[1](x))", "gradients"),
        ("Decoder", "self.proj_out(h)", "self.proj_out(h).float()", "shapes, dtypes, tied weights"),
        ("Encoder", "self.trunk(x)", "self.trunk(x)[:, :1]", "shapes, dtypes, tied weights"),
    ],
)
def test_a_lost_invariant_is_rejected(prover: Prover, symbol: str, expression: str, off: str, check: str) -> None:
    assert (symbol, check) in failures(proved_removal(prover, symbol, expression, off))


def test_weights_that_are_no_longer_tied_are_rejected(prover: Prover) -> None:
    tied = "        self.proj_out.weight = self.token_emb.weight\n"
    line = "        self.proj_out = nn.Linear(width, vocab_size)\n"
    text = changed(EXACT, (line, line + tied))
    verification = proved_removal(
        prover, "Decoder", "self.proj_out.weight = self.token_emb.weight", "self.tied = False", text
    )
    assert ("Decoder", "shapes, dtypes, tied weights") in failures(verification)


def test_absolute_positions_may_only_go_if_the_claim_says_so(prover: Prover) -> None:
    stage = STAGES["rotary"]
    claim = stage.claims[0]
    silent = Claim(claim.definitions, claim.models, claim.off, claim.parts)
    verification = prover.prove(
        one_stage(Stage(stage.codemods, stage.promise, stage.before, stage.after, (silent,)), PATH), timeout=60
    )
    assert ("Encoder", "absolute position") in failures(verification)
    said = prover.prove(one_stage(stage, PATH), timeout=60)
    changes = [check.message for check in said.checks if check.name == "absolute position"]
    assert said.status == "proved" and any(message.startswith("CHANGED: ") for message in changes)


def test_a_wrong_derivative_is_rejected(prover: Prover) -> None:
    wrong = """
class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.01


class Positions("""
    text = changed(EXACT, ("\nclass Positions(", wrong))
    assert ("Encoder", "gradcheck") in failures(
        proved_removal(prover, "Encoder", "self.trunk(x)", "self.trunk(Wrong.apply(x))", text)
    )


def test_a_new_parameter_without_a_gradient_is_rejected(prover: Prover) -> None:
    stage = STAGES["final_norm"]
    unused = changed(
        stage.after, ("        x = self.final_norm(x)\n", "        x = self.final_norm(x).detach() * 0 + x\n")
    )
    verification = prover.prove(one_stage(stage, PATH, unused), timeout=60)
    assert "Encoder" in {symbol for symbol, _ in failures(verification)}
