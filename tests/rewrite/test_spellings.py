"""Attention assembled from interchangeable spellings: each is migrated exactly or refused, and none breaks the tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from tests.parity import assert_exact, double_precision

PROJECTIONS = {
    "linear": ("q, k, v = (f(x).view(b, t, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))", "bhtd"),
    "named": (
        "q = self.q(x).view(b, t, 3, 4).transpose(1, 2)\n"
        "k = self.k(x).view(b, t, 3, 4).transpose(1, 2)\n"
        "v = self.v(x).view(b, t, 3, 4).transpose(1, 2)",
        "bhtd",
    ),
    "helper": ("q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))", "bhtd"),
    "late": ("q = self.q(x).view(b, t, 3, 4)\nk = self.k(x).view(b, t, 3, 4)\nv = self.v(x).view(b, t, 3, 4)", "bthd"),
    "weights": (
        'q = torch.einsum("btc,hdc->bhtd", x, self.w)\nk = torch.einsum("btc,hdc->bhtd", x, self.w * 2)\nv = q + k',
        "bhtd",
    ),
}
PRODUCTS = {
    "bhtd": [
        "q @ k.transpose(-2, -1)",
        "torch.matmul(q, k.permute(0, 1, 3, 2))",
        "q.matmul(k.mT)",
        'torch.einsum("bhtd,bhsd->bhts", q, k)',
        'torch.einsum("nhkd,nhqd->nhqk", k, q)',
        "torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).view(b, 3, t, t)",
        "(q * 0.5) @ (k * 2).transpose(2, 3)",
    ],
    "bthd": ['torch.einsum("bthd,bshd->bhts", q, k)', "q.transpose(1, 2) @ k.permute(0, 2, 3, 1)"],
}
SCALES = [
    "",
    "s = s / math.sqrt(4)",
    "s = s / q.size(-1) ** 0.5",
    "s = s * self.scale",
    "s = s * k.shape[-1] ** -0.5",
    "s /= math.sqrt(q.size(3))",
    "s = s * (1.0 / math.sqrt(self.width))",
    "s = s / self.width",
]
MASKS = [
    "",
    's = s.masked_fill(self.tril[:t, :t] == 0, float("-inf"))',
    "s = s.masked_fill(torch.triu(torch.ones(t, t), 1).bool(), -1e9)",
    "s = s.masked_fill(mask, -1e9)",
    "s = torch.where(~mask, s, torch.finfo(s.dtype).min)",
    "s = s + mask.to(s.dtype) * -1e4",
    "if mask is not None:\n    s = s.masked_fill(mask == 1, -math.inf)",
    "if self.causal:\n    i = torch.arange(t)\n    s = s.masked_fill(i[:, None] < i[None, :], -math.inf)",
    's = s + torch.full((t, t), float("-inf")).triu(1)',
    "s.masked_fill_(mask, -1e9)",
    "s = s.masked_fill(mask, -1e9).masked_fill(self.tril[:t, :t] == 0, -1e9)",
    "s = s + self.bias[:, :t, :t]",
]
SOFTMAXES = [
    "w = torch.softmax(s, dim=-1)",
    "w = F.softmax(s, -1)",
    "w = s.softmax(dim=3)",
    "w = nn.Softmax(dim=-1)(s)",
    "w = self.softmax(s)",
    "w = torch.softmax(s, dim=2)",
]
DROPOUTS = [
    "",
    "w = F.dropout(w, self.p, self.training)",
    "w = self.drop(w)",
    "if self.training:\n    w = F.dropout(w, p=self.p)",
    "w = self.drop(w) if self.causal else w",
]
SUMS = {
    "bhtd": [
        "y = w @ v\ny = y.transpose(1, 2).reshape(b, t, 12)",
        "y = torch.matmul(w, v).transpose(1, 2).contiguous().view(b, t, -1)",
        'y = torch.einsum("bhts,bhsd->bthd", w, v).flatten(2)',
        "y = x + self.q((w @ v).transpose(1, 2).flatten(2))",
        "y = (w @ v).sum(1)",
        "y = v.transpose(-2, -1) @ w.transpose(-2, -1)",
        "y = (w @ v, w)",
    ],
    "bthd": ['y = torch.einsum("bhts,bshd->bthd", w, v).flatten(2)', "y = w @ v.transpose(1, 2)"],
}
TEMPLATE = """import math

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, causal=True, p=0.0):
        super().__init__()
        self.q = nn.Linear(12, 12)
        self.k = nn.Linear(12, 12)
        self.v = nn.Linear(12, 12)
        self.w = nn.Parameter(torch.randn(3, 4, 12))
        self.bias = nn.Parameter(torch.randn(3, 9, 9))
        self.scale, self.width = 4 ** -0.5, 4
        self.causal, self.p = causal, p
        self.drop = nn.Dropout(p)
        self.softmax = nn.Softmax(dim=-1)
        self.register_buffer("tril", torch.tril(torch.ones(9, 9)))

    def heads(self, x):
        return x.view(x.size(0), x.size(1), 3, 4).transpose(1, 2)

    def forward(self, x, mask):
        b, t, _ = x.shape
{body}
        return y
"""


@dataclass(frozen=True)
class Spelling:
    """One choice for each step; masks may come before and after the scale, and there may be two."""

    projection: str
    product: str
    scale: str
    mask: str
    other_mask: str
    scale_first: bool
    softmax: str
    dropout: str
    total: str

    @property
    def text(self) -> str:
        middle = [self.scale, self.mask] if self.scale_first else [self.mask, self.scale]
        steps = [
            self.projection,
            f"s = {self.product}",
            *middle,
            self.other_mask,
            self.softmax,
            self.dropout,
            self.total,
        ]
        lines = [line for step in steps for line in step.split("\n") if line]
        return TEMPLATE.format(body="\n".join(" " * 8 + line for line in lines))


@st.composite
def spellings(draw: st.DrawFn) -> Spelling:
    projection, layout = draw(st.sampled_from(list(PROJECTIONS.values())))
    often_none = st.one_of(st.just(""), st.sampled_from(MASKS))
    return Spelling(
        projection,
        draw(st.sampled_from(PRODUCTS[layout])),
        draw(st.sampled_from(SCALES)),
        draw(st.sampled_from(MASKS)),
        draw(often_none),
        draw(st.booleans()),
        draw(st.sampled_from(SOFTMAXES)),
        draw(st.sampled_from(DROPOUTS)),
        draw(st.sampled_from(SUMS[layout])),
    )


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    mask = torch.rand(2, 1, length, length, generator=generator) > 0.6
    mask[0, 0, 0] = True
    return torch.randn(2, length, 12, generator=generator), mask


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


@seed(20170612)
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(spellings())
def test_every_spelling_is_migrated_exactly_or_refused(spelling: Spelling) -> None:
    planned = plan(Path("model.py"), spelling.text, phase=Phase.DROP_IN)
    assert [outcome for outcome in planned.outcomes if outcome.codemod == "attention"]
    if not planned.changed:
        assert planned.outcomes[0].status == "refused"
        return
    assert not plan(Path("model.py"), planned.text, phase=Phase.DROP_IN).changed
    for length in (1, 5):
        assert_exact(spelling.text, planned.text, "Attention", (), inputs(length))
    assert_exact(spelling.text, planned.text, "Attention", (False, 0.5), inputs(4))


def test_most_spellings_are_migrated() -> None:
    """Each choice alone, beside plain ones: a tool that refuses everything would pass the test above."""
    plain = Spelling(
        PROJECTIONS["named"][0],
        PRODUCTS["bhtd"][0],
        SCALES[2],
        MASKS[3],
        "",
        True,
        SOFTMAXES[0],
        DROPOUTS[1],
        SUMS["bhtd"][0],
    )
    choices = {
        "product": PRODUCTS["bhtd"],
        "scale": SCALES,
        "mask": MASKS,
        "softmax": SOFTMAXES,
        "dropout": DROPOUTS,
        "total": SUMS["bhtd"],
    }
    refused = []
    for name, options in choices.items():
        for option in options:
            values = {field.name: getattr(plain, field.name) for field in fields(plain)} | {name: option}
            text = Spelling(**values).text
            if not plan(Path("model.py"), text, phase=Phase.DROP_IN).changed:
                refused.append(option)
    assert refused == [
        PRODUCTS["bhtd"][5],  # scores that are folded and unfolded
        MASKS[5],  # a mask that needs the scores
        SOFTMAXES[5],  # over the queries
        SUMS["bhtd"][5],  # values on the left
        SUMS["bhtd"][6],  # weights given out
    ]
