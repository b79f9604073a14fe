"""Legacy code that makes tensors of float32 whatever the default is, and so can't be built or run in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from migrator import prove
from migrator.codemod import Phase
from migrator.prove.isolation import Unbuilt, unpaired
from migrator.prove.ledger import Tally
from migrator.prove.remote import BoxError
from migrator.rewrite.engine import plan

LEGACY = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from runtime import attention


class Mix(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        table = torch.zeros(8, dim)
        rows = F.one_hot(torch.arange(8), num_classes=8).float()
        self.register_buffer("table", rows @ table)

    def forward(self, x):
        q, k, v = self.qkv(x + self.table[: x.size(1)]).unsqueeze(1).chunk(3, dim=-1)
        return attention(q, k, v).squeeze(1)


class Block(nn.Module):
    def __init__(self, dim=16, hidden=24):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mix = Mix(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        x = x + self.mix(self.norm1(x))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))
"""


@pytest.fixture(scope="module")
def prover() -> Iterator[prove.Prover]:
    with prove.start() as prover:
        yield prover


def test_a_model_that_float64_cannot_build_is_proved_with_float64_weights(prover: prove.Prover) -> None:
    verification = prover.prove(plan(Path("model.py"), LEGACY, phase=Phase.ARCHITECTURE), timeout=60)
    assert verification.status == "proved", verification


def test_a_wrong_gate_is_still_found(prover: prove.Prover) -> None:
    planned = plan(Path("model.py"), LEGACY, phase=Phase.ARCHITECTURE)
    (stage,) = planned.stages
    right, wrong = "self.up(normed)", "self.up(x)"
    assert stage.after.count(right) == 1
    stage = replace(stage, after=stage.after.replace(right, wrong))
    verification = prover.prove(replace(planned, text=stage.after, stages=(stage,)), timeout=60)
    assert verification.status == "failed", verification


def test_code_that_cannot_be_built_is_no_fault_of_the_change() -> None:
    tally = Tally(1e-10)
    unpaired(tally, Unbuilt("no default"))
    assert tally.failure is None and tally.skipped == 1
    unpaired(tally, BoxError("no such argument"))
    assert tally.failure is not None
