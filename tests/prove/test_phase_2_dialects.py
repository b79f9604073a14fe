"""Whole cases of phase 2 in dialects whose parts stand in several classes, proved as a user's file is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrator.prove import Prover
from tests.cases import FIXTURES, Case

CASES = [
    "depth_init/pairs_in_a_module_list",
    "final_norm/one_of_several_results",
    "final_norm/two_names_in_the_loop",
    "pre_norm/sublayers_as_arguments",
    "pre_norm/sums_in_the_sublayer_classes",
    "pre_norm/weights_returned_beside",
    "swiglu/gelu_by_hand",
    "swiglu/layers_that_give_tuples",
    "swiglu/lambda_over_a_module_dict",
    "swiglu/noise_on_branches",
    "swiglu/products_of_their_own",
    "swiglu/products_with_more_arguments",
    "swiglu/split_over_two_classes",
    "swiglu/sublayers_as_arguments",
    "swiglu/sums_under_a_condition",
    "swiglu_warm/split_over_two_classes",
]


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_proved_without_help(prover: Prover, name: str) -> None:
    case = Case(FIXTURES / name)
    planned = replace(case.plan(case.before), path=case.folder / "before.py")
    verification = prover.prove(planned, timeout=90)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ("mean = self.final_norm(x)", "norm reference"),
        ("x = self.final_norm(x + mean.unsqueeze(1))", "isolation"),
    ],
)
def test_a_norm_of_something_else_is_rejected(prover: Prover, wrong: str, check: str) -> None:
    case = Case(FIXTURES / "final_norm/one_of_several_results")
    planned = case.plan(case.before)
    (stage,) = planned.stages
    assert stage.after.count("x = self.final_norm(x)") == 1
    stage = replace(stage, after=stage.after.replace("x = self.final_norm(x)", wrong))
    verification = prover.prove(replace(planned, text=stage.after, stages=(stage,)), timeout=90)
    assert verification.status == "failed"
    assert {one.name for one in verification.checks if not one.passed} == {check}
