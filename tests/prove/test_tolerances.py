"""What the configuration says about tolerances decides, and is said in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from migrator.config import Tolerances
from migrator.prove import Prover
from tests.prove.test_hostile import after_with, why
from tests.prove.texts import STAGES, one_stage

PATH = Path("small_model.py")
OFF = after_with("q = q * 1.0001")
LOOSE = Tolerances(float64=0.1, float32=0.1)


def test_a_difference_passes_only_where_it_was_asked_for(prover: Prover) -> None:
    usual = prover.prove(OFF, timeout=60)
    assert usual.status == "failed" and "parity float64" in {check.name for check in usual.checks if not check.passed}
    loose = prover.prove(replace(OFF, tolerances=LOOSE), timeout=60)
    assert loose.status == "proved", why(loose)
    assert "LOOSER than usual: pyproject.toml has float64 = 0.1, and the usual is 1e-10" in loose.notes
    limits = {check.name: check.limit for check in loose.checks}
    assert limits["parity float64"] == limits["parity float32"] == 0.1


def test_a_stricter_limit_is_kept_to(prover: Prover) -> None:
    plan = replace(one_stage(STAGES["exact"], PATH), tolerances=Tolerances(float64=1e-30))
    strict = prover.prove(plan, timeout=60)
    assert strict.status == "failed" and "at most 1e-30 is allowed" in why(strict)
    assert "stricter than usual: pyproject.toml has float64 = 1e-30, and the usual is 1e-10" in strict.notes


def test_the_usual_is_not_worth_a_note(prover: Prover) -> None:
    found = prover.prove(one_stage(STAGES["exact"], PATH), timeout=60)
    assert found.status == "proved" and not any("than usual" in note for note in found.notes)
