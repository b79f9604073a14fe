"""A final norm behind blocks that are pairs in a ModuleList, which no hook can tell the end of."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import Claim, NormPart, Promise
from migrator.prove import Prover
from migrator.rewrite.plan import Stage
from tests.prove.texts import one_stage

CASE = Path(__file__).parents[2] / "fixtures" / "final_norm" / "pairs_in_a_module_list"
BEFORE = (CASE / "before.py").read_text(encoding="utf-8")
AFTER = (CASE / "after.py").read_text(encoding="utf-8")
_LOOP = """\
        for attn, ff in self.layers:
            x = attn(x) + x
            x = x + ff(x)
"""
_NORM = "        x = self.final_norm(x)\n"


def _proved(prover: Prover, after: str) -> tuple[str, str]:
    claims = tuple(
        Claim((owner,), (owner,), parts=(NormPart(owner, "final_norm", source),))
        for owner, source in (("Filled", "layers"), ("Listed", "stages"))
    )
    stage = Stage(("final_norm",), Promise.NEW, BEFORE, after, claims)
    verification = prover.prove(one_stage(stage, CASE / "before.py"), timeout=90)
    return verification.status, " ".join(check.name for check in verification.checks if not check.passed)


def test_the_norm_behind_the_loop_is_proved(prover: Prover) -> None:
    assert _proved(prover, AFTER) == ("proved", "")


@pytest.mark.parametrize(
    "wrong",
    [
        _NORM + _LOOP,
        _LOOP.replace("x = x + ff(x)", "x = self.final_norm(x + ff(x))"),
        _LOOP.replace("x = x + ff(x)", "x = x + self.final_norm(ff(x))"),
    ],
    ids=["before the loop", "in each step", "on the branch alone"],
)
def test_a_norm_in_another_place_is_rejected(prover: Prover, wrong: str) -> None:
    assert _LOOP + _NORM in AFTER
    status, failed = _proved(prover, AFTER.replace(_LOOP + _NORM, wrong, 1))
    assert status == "failed" and "norm reference" in failed
