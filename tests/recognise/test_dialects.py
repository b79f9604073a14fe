"""Spellings that no fixture can run, because they need packages that the tests do without, and what is read off them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from migrator.codemod import Phase
from migrator.recognise.index import FileIndex
from migrator.recognise.shapes import one_letter_each
from migrator.recognise.syntax import answer
from migrator.recognise.tables import table_of
from migrator.rewrite.engine import plan

ATTENTION = """from einops import einsum, rearrange
from torch import nn


class Attention(nn.Module):
    def forward(self, q, k, v):
        sim = einsum(q, k, "{scores}")
        return einsum(sim.softmax(dim=-1), v, "{values}")
"""


def planned(scores: str, values: str) -> str:
    return plan(Path("a.py"), ATTENTION.format(scores=scores, values=values), phase=Phase.DROP_IN).text


def test_einsum_of_einops() -> None:
    assert "return attention(q, k, v, scale=1.0)" in planned(
        "b h i d, b h j d -> b h i j", "b h i j, b h j d -> b h i d"
    )
    words = planned(
        "batch query width, batch key width -> batch query key", "batch query key, batch key value -> batch query value"
    )
    assert "return attention(q, k, v, scale=1.0)" in words


def test_the_softmax_tells_which_operand_asks() -> None:
    assert "return attention(k, q, v, scale=1.0)" in planned(
        "b h i d, b h j d -> b h j i", "b h j i, b h i d -> b h j d"
    )


@pytest.mark.parametrize("scores", ["b h i d, b h j d, b -> b h i j", "b h (i d), b h j d -> b h i j"])
def test_other_einsums_of_einops_stay(scores: str) -> None:
    values = "b h i j, b h j d -> b h i d"
    assert planned(scores, values) == ATTENTION.format(scores=scores, values=values)


def test_words_become_letters() -> None:
    assert one_letter_each("batch query, query -> batch") == "a b, b -> a"
    assert one_letter_each("b (h d) -> b h d") is None


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("def exists(x): return x is not None", ["x"]),
        ("def lowest(t):\n    'a comment'\n    return -torch.finfo(t.dtype).max", ["t"]),
        ("def first(x): return x[0]", None),
        ("def asks(x): return check(x) is not None", None),
        ("def given(x=None): return x is not None", None),
        ("def many(*x): return x is not None", None),
        ("def noisy(x):\n    print(x)\n    return x is not None", None),
        ("@cache\ndef kept(x): return x is not None", None),
    ],
)
def test_functions_that_only_answer(text: str, parameters: list[str] | None) -> None:
    found = answer(ast.parse(text).body[0])
    assert (found[0] if found else None) == parameters


TABLE = """import math
import torch
from torch import nn


class Positions(nn.Module):
    def __init__(self, dim, length=64):
        super().__init__()
        pe = torch.zeros(length, dim)
        position = torch.arange(0, length).unsqueeze(1)
        rate = {rate}
        pe[:, {even}] = torch.{first}(position * rate)
        pe[:, {odd}] = torch.cos(position * rate)
        self.register_buffer("pe", pe)
"""
RATE = "torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))"


@pytest.mark.parametrize(
    ("rate", "even", "first", "odd", "base"),
    [
        (RATE, "0::2", "sin", "1::2", 10000.0),
        (RATE.replace("10000.0", "500"), "::2", "sin", "1::2", 500.0),
        ("1 / 10000 ** (torch.arange(0, dim, 2) / dim)", "0::2", "sin", "1::2", 10000.0),
        (RATE, "0::2", "cos", "1::2", None),
        (RATE, "1::2", "sin", "0::2", None),
        (RATE, ": dim // 2", "sin", "dim // 2 :", None),
        (RATE.replace("/ dim", "/ (dim - 2)"), "0::2", "sin", "1::2", None),
        (RATE.replace("0, dim, 2", "0, dim"), "0::2", "sin", "1::2", None),
    ],
)
def test_tables_are_told_by_their_numbers(rate: str, even: str, first: str, odd: str, base: float | None) -> None:
    index = FileIndex(TABLE.format(rate=rate, even=even, first=first, odd=odd))
    found = table_of(index.modules["Positions"])
    assert (found.base if found else None) == base
