"""What the switch does in the rewritten fixtures of `gradient_checkpointing`: blocks run twice, gradients stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from runtime import GradientCheckpointing
from tests.cases import Case, all_cases, load, probes
from tests.parity import double_precision

CASES = [case for case in all_cases() if case.codemod == "gradient_checkpointing" and case.rewritten]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


def trained(text: str, name: str, arguments: Any, inputs: Any, checkpointing: bool) -> tuple[list[Any], int]:
    """Gradients of one training step with dropout, and how often a block was run."""
    torch.manual_seed(0)
    model = getattr(load(text, "case"), name)(*arguments)
    calls: list[nn.Module] = []
    for module in model.modules():
        if type(module).__name__ == "Block":
            module.register_forward_pre_hook(lambda block, given: calls.append(block))
    if checkpointing:
        model.gradient_checkpointing_enable()
    torch.manual_seed(1)
    output = model(*inputs)
    output.square().sum().backward()
    return [parameter.grad for parameter in model.parameters()], len(calls)


def the_same(ones: list[Any], others: list[Any]) -> bool:
    pairs = zip(ones, others, strict=True)
    return all(
        one is other is None or (one is not None and other is not None and torch.equal(one, other))
        for one, other in pairs
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_switched_on_blocks_run_twice_and_gradients_stay(case: Case) -> None:
    for name, arguments, inputs in probes(case):
        legacy, once = trained(case.before, name, arguments, inputs, False)
        off, still_once = trained(case.after, name, arguments, inputs, False)
        on, twice = trained(case.after, name, arguments, inputs, True)
        assert the_same(legacy, off) and the_same(legacy, on), name
        assert once > 1 and still_once == once and twice == 2 * once, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_class_that_is_named_in_the_report_has_the_switch(case: Case) -> None:
    module = load(case.after, "case")
    for line in case.text("report.txt").splitlines():
        heir = line.rpartition(": ")[2].partition(".")[0]
        assert issubclass(getattr(module, heir), GradientCheckpointing), heir
