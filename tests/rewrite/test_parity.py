"""The comparison that exact fixtures rely on rejects what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity import assert_exact, double_precision

LEGACY = """\
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        self.q = nn.Linear(6, 6)
        self.k = nn.Linear(6, 6)
        self.p = p

    def forward(self, x, mask):
        q, k = self.q(x), self.k(x)
        scores = (q @ k.transpose(-2, -1) / 6 ** 0.5).masked_fill(mask, -1e9)
        weights = F.dropout(torch.softmax(scores, dim=-1), self.p, self.training)
        return weights @ x
"""
SAME = LEGACY.replace("/ 6 ** 0.5", "* 6 ** -0.5")
WRONG = {
    "scale": ("/ 6 ** 0.5", "/ 6.01 ** 0.5"),
    "scale lost": (" / 6 ** 0.5", ""),
    "queries and keys swapped": ("q @ k", "k @ q"),
    "mask inverted": ("masked_fill(mask", "masked_fill(~mask"),
    "mask lost": (".masked_fill(mask, -1e9)", ""),
    "other fill": ("-1e9", 'float("-inf")'),
    "values": ("weights @ x", "weights @ k"),
    "residual": ("return weights @ x", "return x + weights @ x"),
    "softmax over queries": ("dim=-1", "dim=-2"),
    "gradient of the queries lost": ("self.q(x), self.k(x)", "self.q(x).detach(), self.k(x)"),
    "order of the parameters": (
        "self.q = nn.Linear(6, 6)\n        self.k = nn.Linear(6, 6)",
        "self.k = nn.Linear(6, 6)\n        self.q = nn.Linear(6, 6)",
    ),
    "random numbers drawn before": ("super().__init__()", "super().__init__()\n        torch.randn(1)"),
    "dead parameter": ("self.p = p", "self.p = p\n        self.more = nn.Parameter(torch.zeros(1))"),
    "dtype": ("return weights @ x", "return (weights @ x).float()"),
    "shape": ("return weights @ x", "return (weights @ x)[None]"),
}
WRONG_IN_TRAINING = {
    "dropout lost": ("self.p, self.training", "0.0"),
    "dropout in eval mode": ("self.p, self.training", "self.p"),
}


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


def compare(after: str, p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 5, 5, generator=generator) > 0.5
    mask[0, 0], mask[1, 1] = True, False
    assert_exact(LEGACY, after, "Attention", (p,), (torch.randn(2, 5, 6, generator=generator), mask))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_same_function_passes(p: float) -> None:
    compare(LEGACY, p)
    compare(SAME, p)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_functions_are_rejected(change: tuple[str, str]) -> None:
    assert LEGACY.count(change[0]) == 1
    with pytest.raises((AssertionError, RuntimeError)):
        compare(LEGACY.replace(*change), 0.0)


@pytest.mark.parametrize("change", WRONG_IN_TRAINING.values(), ids=WRONG_IN_TRAINING)
def test_wrong_dropout_is_rejected(change: tuple[str, str]) -> None:
    assert LEGACY.count(change[0]) == 1
    with pytest.raises(AssertionError):
        compare(LEGACY.replace(*change), 0.5)
