"""ALiBi, moved norms and renamed feed-forwards, each with the ways in which it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import AlibiPart, Claim, MovedNormPart, Promise, SwiGLUPart
from migrator.prove import Prover
from migrator.rewrite.plan import Stage
from tests.prove.texts import EXACT, changed, one_stage, swap

PATH = Path("small_model.py")

ALIBI = changed(
    EXACT,
    ("import SinusoidalPositionalEncoding,", "import Alibi, SinusoidalPositionalEncoding,"),
    ("        self.pos_enc = Positions(len_max=1e4)\n        nb_heads", "        nb_heads"),
    ("        self.pos_enc = Positions(len_max=1e4)\n        self.block", "        self.block"),
    ("        h = self.pos_enc(h)\n", ""),
    ("        x = self.pos_enc(x)\n", ""),
    ("        self.causal = causal\n", "        self.causal = causal\n        self.alibi = Alibi(nb_heads)\n"),
    ("attention(q, k, v, ", "attention(q, k, v, bias=self.alibi(q, k), "),
)

_POST = """\
import torch
from torch import Tensor, nn


class Mix(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.keep = nn.Linear(dim, dim)

    def forward(self, x):
        return self.keep(x.cumsum(1))


class Block(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.mix = Mix(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, x):
        x = self.norm1(x + self.mix(x))
        x = self.norm2(x + self.mlp(x))
        return x


class Stack(nn.Module):
    def __init__(self, dim=16, hidden=48):
        super().__init__()
        self.layers = nn.ModuleList([Block(dim, hidden) for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""
_PRE = changed(
    _POST,
    ("self.norm1(x + self.mix(x))", "x + self.mix(self.norm1(x))"),
    ("self.norm2(x + self.mlp(x))", "x + self.mlp(self.norm2(x))"),
)
_SEQUENTIAL = "nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))"
_GATED = changed(
    _PRE,
    ("from torch import Tensor, nn\n", "from torch import Tensor, nn\nfrom runtime import SwiGLU, swiglu_width\n"),
    (_SEQUENTIAL, "SwiGLU(dim, swiglu_width(hidden))"),
)
_RENAMED = tuple(
    ("Block", f"mlp.{old}.{kind}", f"mlp.{new}.{kind}")
    for old, new in ((0, "gate"), (2, "down"))
    for kind in ("weight", "bias")
)

STAGES = {
    "alibi": Stage(
        ("alibi",), Promise.NEW, EXACT, ALIBI,
        (Claim(
            ("Encoder", "Decoder", "Attention"), ("Attention", "Encoder", "Decoder"),
            off=(swap(EXACT, "self.pos_enc(h)", "h"), swap(EXACT, "self.pos_enc(x)", "x")),
            parts=(AlibiPart("Attention", "alibi"),), changes=(("absolute position", "distances alone"),),
        ),),
    ),
    "pre_norm": Stage(
        ("pre_norm",), Promise.NEW, _POST, _PRE,
        (Claim(
            ("Block",), ("Block",),
            off=(swap(_POST, "self.norm1(x + self.mix(x))", "(x + self.mix(x))"),
                 swap(_POST, "self.norm2(x + self.mlp(x))", "(x + self.mlp(x))")),
            parts=(MovedNormPart("Block", "norm1"), MovedNormPart("Block", "norm2")),
            changes=(("normalised output", "the residual stays raw"),),
        ),),
    ),
    "swiglu": Stage(
        ("swiglu",), Promise.NEW, _PRE, _GATED,
        (Claim(
            ("Block",), ("Block",), off=(swap(_PRE, "nn.ReLU()", "nn.Identity()"),),
            parts=(SwiGLUPart("Block", "mlp.gate", "mlp.up", "mlp.down"),), renamed=_RENAMED,
        ),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_the_correct_change_is_proved(prover: Prover, name: str) -> None:
    verification = prover.prove(one_stage(STAGES[name], PATH), timeout=60)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]


def test_given_up_invariants_are_said(prover: Prover) -> None:
    verification = prover.prove(one_stage(STAGES["pre_norm"], PATH), timeout=60)
    assert "CHANGED: normalised output: the residual stays raw" in verification.notes


def test_renamed_tensors_and_counts_are_told(prover: Prover) -> None:
    verification = prover.prove(one_stage(STAGES["swiglu"], PATH), timeout=60)
    rows = {row.name: (row.status, row.before, row.after) for row in verification.tensors}
    assert rows["layers.0.mlp.0.weight -> layers.0.mlp.gate.weight"] == ("resized", "(48, 16)", "(32, 16)")
    assert rows["layers.2.mlp.up.bias"] == ("new", "", "(32,)")
    assert rows["layers.1.norm1.weight"] == ("reused", "(16,)", "(16,)")
    before, after = 2 * 16 * 48 + 48 + 16, 3 * 16 * 32 + 2 * 32 + 16
    rest = 3 * (16 * 16 + 16 + 4 * 16)
    assert verification.parameters == (
        ("Stack", 3 * before + rest, 3 * after + rest),
        ("feed-forward of Block", before, after),
    )


@pytest.mark.parametrize(
    ("name", "symbol", "check", "old", "new"),
    [
        ("alibi", "Attention", "ALiBi reference", "Alibi(nb_heads)", "Alibi(2 * nb_heads)"),
        ("alibi", "Attention", "ALiBi reference", "bias=self.alibi(q, k)", "bias=-self.alibi(q, k)"),
        ("alibi", "Attention", "ALiBi reference", "bias=self.alibi(q, k), ", ""),
        ("alibi", "Attention", "ALiBi reference", "bias=self.alibi(q, k)", "bias=self.alibi(q, k)[:, :1]"),
        ("alibi", "Attention", "ALiBi reference", "bias=self.alibi(q, k)", "bias=self.alibi(q, k).flip(0)"),
        ("pre_norm", "Block", "pre-norm reference", "x + self.mix(self.norm1(x))", "self.norm1(x) + self.mix(self.norm1(x))"),
        ("pre_norm", "Block", "pre-norm reference", "self.mix(self.norm1(x))", "self.norm1(self.mix(x))"),
        ("pre_norm", "Block", "pre-norm reference", "self.mix(self.norm1(x))", "self.mix(x)"),
        ("pre_norm", "Block", "pre-norm reference", "self.norm2(x)", "self.norm2(self.norm2(x))"),
        ("pre_norm", "Block", "isolation", "x + self.mlp(self.norm2(x))", "x - self.mlp(self.norm2(x))"),
        ("pre_norm", "Block", "isolation", "x + self.mix(self.norm1(x))", "self.mix(self.norm1(x))"),
        ("swiglu", "Block", "isolation", "SwiGLU(dim, swiglu_width(hidden))", "SwiGLU(dim, swiglu_width(hidden), bias=False)"),
        ("swiglu", "Block", "isolation", "SwiGLU(dim, swiglu_width(hidden))", _SEQUENTIAL),
        ("swiglu", "Block", "isolation", "self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_rejected(prover: Prover, name: str, symbol: str, check: str, old: str, new: str) -> None:
    stage = STAGES[name]
    verification = prover.prove(one_stage(stage, PATH, changed(stage.after, (old, new))), timeout=60)
    assert verification.status in ("failed", "not verified")
    assert (symbol, check) in {(c.symbol, c.name) for c in verification.checks if not c.passed}, verification.notes


def test_a_renaming_that_is_wrong_is_rejected(prover: Prover) -> None:
    stage = STAGES["swiglu"]
    claim = stage.claims[0]
    swapped = tuple(
        (owner, old.replace("0", "2") if "0" in old else old.replace("2", "0"), new) for owner, old, new in _RENAMED
    )
    wrong = Stage(
        stage.codemods, stage.promise, stage.before, stage.after,
        (Claim(claim.definitions, claim.models, claim.off, claim.parts, swapped),),
    )  # fmt: skip
    assert prover.prove(one_stage(wrong, PATH), timeout=60).status == "failed"
