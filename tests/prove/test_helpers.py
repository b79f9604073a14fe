"""Attention fused where a helper was called: the helper, and what it holds, may go."""

from __future__ import annotations

from dataclasses import replace

from migrator.prove import Prover
from tests.cases import FIXTURES, Case


def test_a_helper_goes_with_the_parts_that_it_holds(prover: Prover) -> None:
    case = Case(FIXTURES / "attention/weights_of_a_helper")
    planned = replace(case.plan(case.before), path=case.folder / "before.py")
    verification = prover.prove(planned, timeout=90)
    wrong = [check for check in verification.checks if not check.passed and check.symbol == "Joined"]
    assert not wrong
    assert any(check.symbol == "Joined" and check.name == "parity float64" for check in verification.checks)
