"""Parameters that a constructor leaves as the memory was: they must not look like a change."""

from __future__ import annotations

from pathlib import Path

from migrator.codemod import Phase
from migrator.prove import Prover
from migrator.rewrite.engine import plan

LEGACY = """
import torch
import torch.nn as nn


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.kept = [torch.full((dim, dim), 7.0) for _ in range(64)]
        del self.kept
        self.query = nn.Parameter(torch.empty(dim, dim))
        self.key = nn.Parameter(torch.Tensor(dim, dim))
        self.value = nn.Parameter(torch.empty_like(self.query))

    def forward(self, x):
        q, k, v = x @ self.query, x @ self.key, x @ self.value
        return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
"""


def test_memory_that_nobody_set_is_the_same_in_both_texts(prover: Prover) -> None:
    verification = prover.prove(plan(Path("model.py"), LEGACY, phase=Phase.DROP_IN), timeout=60)
    assert verification.status == "proved", verification
