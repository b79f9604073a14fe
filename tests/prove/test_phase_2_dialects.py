"""Whole cases of phase 2 in dialects whose parts stand in several classes, proved as a user's file is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrator.prove import Prover
from tests.cases import FIXTURES, Case

CASES = [
    "depth_init/pairs_in_a_module_list",
    "pre_norm/sublayers_as_arguments",
    "pre_norm/sums_in_the_sublayer_classes",
    "swiglu/gelu_by_hand",
    "swiglu/lambda_over_a_module_dict",
    "swiglu/products_of_their_own",
    "swiglu/split_over_two_classes",
    "swiglu/sublayers_as_arguments",
    "swiglu_warm/split_over_two_classes",
]


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_proved_without_help(prover: Prover, name: str) -> None:
    case = Case(FIXTURES / name)
    planned = replace(case.plan(case.before), path=case.folder / "before.py")
    verification = prover.prove(planned, timeout=90)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]
