"""Programs put together at random: the rewriting never fails, is complete at once, and computes what it did before.

`MIGRATE_FUZZ=1000 python -m pytest tests/rewrite/test_fuzz.py` tries more of them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from tests.cases import load
from tests.parity import assert_exact, double_precision
from tests.rewrite.programs import programs

CASES = int(os.environ.get("MIGRATE_FUZZ", "50"))
FUZZ = settings(max_examples=CASES, deadline=None, derandomize=CASES <= 50, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


@FUZZ
@given(programs())
def test_programs_are_rewritten_without_a_difference(program: tuple[str, list[str]]) -> None:
    text, names = program
    exact = rewritten(text, Phase.DROP_IN)
    for name in names:
        for inputs in attention_inputs():
            if runs(text, name, inputs):
                assert_exact(text, exact, name, (8, 2), inputs)


@FUZZ
@given(programs())
def test_architectures_are_rewritten_to_something_that_runs(program: tuple[str, list[str]]) -> None:
    text, _ = program
    after = rewritten(text, Phase.ARCHITECTURE)
    assert after == rewritten(rewritten(text, Phase.DROP_IN), Phase.ARCHITECTURE)
    tokens = torch.randint(11, (3, 5))
    if runs(text, "Model", (tokens,)):
        model = load(after, "after").Model(8, 2)
        old = load(text, "before").Model(8, 2)
        assert model(tokens).shape == old(tokens).shape
        model(tokens).sum().backward()


def rewritten(text: str, phase: Phase) -> str:
    """What the plan makes of a text: valid Python, a fixed point, with nothing left to do."""
    planned = plan(Path("program.py"), text, phase=phase)
    ast.parse(planned.text)
    again = plan(Path("program.py"), planned.text, phase=phase)
    assert again.text == planned.text
    assert not [outcome for outcome in again.outcomes if outcome.status == "migrated"]
    return planned.text


def attention_inputs() -> Iterator[tuple[torch.Tensor | None, ...]]:
    """Without a mask, and with one that leaves each query its own key, for one head and for the batch alike."""
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(5))
    yield x, None
    yield x, (torch.rand(5, 5, generator=torch.Generator().manual_seed(6)) > 0.5) | torch.eye(5, dtype=torch.bool)


def runs(text: str, name: str, inputs: tuple[torch.Tensor | None, ...]) -> bool:
    """Whether the legacy program itself runs: some spellings do not go together."""
    try:
        getattr(load(text, "before"), name)(8, 2)(*inputs)
    except (RuntimeError, UnboundLocalError, TypeError, IndexError):
        return False
    return True
