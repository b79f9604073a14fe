"""What is computed for small sizes: tables in many spellings, and what makes a table unknown."""

from __future__ import annotations

import time

import pytest

from migrator.recognise.index import FileIndex
from migrator.recognise.trial.waves import Wave, added_waves, waves

HEAD = "import math\nimport numpy as np\nimport torch\nfrom torch import nn\n\n\n"
CLASS = """class Positions(nn.Module):
    def __init__(self, width, length=200, rate=0.1):
        super().__init__()
{body}

    def forward(self, x):
        return x + self.table[:, : x.size(1)]
"""
FILLED = (
    "table = torch.zeros(length, width)",
    "place = torch.arange(length).unsqueeze(1)",
    "period = 10000.0 ** (torch.arange(0, width, 2) / width)",
    "table[:, 0::2] = torch.sin(place / period)",
    "table[:, 1::2] = torch.cos(place / period)",
)
KEPT = 'self.register_buffer("table", table)'


def found(*body: str, before: str = "") -> list[Wave]:
    text = HEAD + before + CLASS.format(body="\n".join(f"        {line}" for line in body))
    return waves(FileIndex(text).classes["Positions"])


SPELLINGS = {
    "plain": (*FILLED, KEPT),
    "attribute": (*FILLED, "self.table = table.unsqueeze(0)"),
    "outer product": (
        *FILLED[:1],
        "angle = torch.outer(torch.arange(length).float(), 1 / 10000 ** (torch.arange(0, width, 2) / width))",
        "table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()",
        KEPT,
    ),
    "stacked pairs": (
        "angle = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) / width * torch.arange(0, width, 2))[None]",
        "table = torch.stack((torch.sin(angle), torch.cos(angle)), dim=-1).view(length, width)",
        KEPT,
    ),
    "numpy, row by row": (
        "rows = [[p / np.power(10000, 2 * (j // 2) / width) for j in range(width)] for p in range(length)]",
        "table = np.array(rows)",
        "table[:, 0::2] = np.sin(table[:, 0::2])",
        "table[:, 1::2] = np.cos(table[:, 1::2])",
        "self.table = torch.from_numpy(table).float()",
    ),
    "a number at a time": (
        *FILLED[:1],
        "for p in range(length):",
        "    for j in range(width):",
        "        angle = p / math.pow(10000, (j - j % 2) / width)",
        "        table[p, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)",
        KEPT,
    ),
    "einsum": (
        *FILLED[:1],
        'angle = torch.einsum("i,j->ij", torch.arange(length), 10000 ** (-torch.arange(0, width, 2) / width))',
        "table[:, 0::2] = angle.sin()",
        "table[:, 1::2] = angle.cos()",
        KEPT,
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_sinusoid_is_seen_however_it_is_spelled(name: str) -> None:
    assert found(*SPELLINGS[name]) == [Wave("table", 10000.0)]


def test_the_base_is_measured() -> None:
    body = [line.replace("10000.0", "500.0") for line in FILLED]
    assert [wave.base for wave in found(*body, KEPT)] == [500.0]


def test_a_table_may_come_from_a_function_that_has_a_function_inside() -> None:
    before = (
        "def table_of(length, width):\n"
        "    def angle(p):\n        return [p / 10000 ** (2 * (j // 2) / width) for j in range(width)]\n\n"
        "    table = np.array([angle(p) for p in range(length)])\n"
        "    table[:, 0::2] = np.sin(table[:, 0::2])\n    table[:, 1::2] = np.cos(table[:, 1::2])\n"
        "    return torch.FloatTensor(table)\n\n\n"
    )
    frozen = "self.table = nn.Embedding.from_pretrained(table_of(length + 1, width), freeze=True)"
    assert found(frozen, before=before) == [Wave("table", 10000.0, "embedding")]
    assert found(frozen.replace("True", "False"), before=before) == [Wave("table", 10000.0, "embedding", learned=True)]
    assigned = ("self.table = nn.Embedding(length, width)", "self.table.weight = nn.Parameter(table_of(length, width))")
    assert found(*assigned, before=before) == [Wave("table", 10000.0, "embedding", learned=True)]


FREEZING = ("requires_grad = False", "requires_grad_(False)")


@pytest.mark.parametrize("words", FREEZING)
def test_an_embedding_may_be_frozen_once_it_is_filled(words: str) -> None:
    body = ("self.table = nn.Embedding(length, width)", *FILLED, "self.table.weight.data = table")
    assert found(*body) == [Wave("table", 10000.0, "embedding", learned=True)]
    assert found(*body, f"self.table.weight.{words}") == [Wave("table", 10000.0, "embedding")]


def test_an_empty_row_is_told() -> None:
    assert found(*FILLED, "table[0] = 0.0", KEPT) == [Wave("table", 10000.0, empty=0)]


UNKNOWN = {
    "changed by a method": (*FILLED, "table.normal_()", KEPT),
    "changed by a function": (*FILLED, "nn.init.zeros_(table)", KEPT),
    "changed in place": ("other = torch.zeros(length, width)", "table = other", *FILLED[1:], "other *= 2", KEPT),
    "changed through a view": (*FILLED[:1], "flat = table.view(-1)", *FILLED[1:], "flat[0] = 1.0", KEPT),
    "changed once it is kept": (*FILLED, KEPT, "table[0] = 1.0"),
    "changed under a condition": (*FILLED, "if rate > 0:", "    table[0] = 1.0", KEPT),
    "changed until something happens": (
        *FILLED, "for p in range(length):", "    if p > 1:", "        break", "    table[p] = 1.0", KEPT
    ),
    "filled with what was there": ("table = torch.empty(length, width)", *FILLED[1:4], KEPT),
    "scaled": (*FILLED, 'self.register_buffer("table", table * 0.1)'),
    "cosine first": (*FILLED[:3], FILLED[3].replace("sin", "cos"), FILLED[4].replace("cos", "sin"), KEPT),
    "base that is given": (FILLED[0], FILLED[1], FILLED[2].replace("10000.0", "length"), *FILLED[3:], KEPT),
    "counted from one": (FILLED[0], FILLED[1].replace("(length)", "(1, length + 1)"), *FILLED[2:], KEPT),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_be_another_table_is_not_taken_for_one(name: str) -> None:
    assert not found(*UNKNOWN[name])


HEAVY = {
    "a long loop": "for p in range(10**9): pass",
    "a long list": "rows = list(range(10**9))",
    "a giant": "number = 10 ** 10 ** 10",
    "endless recursion": "self.again = (lambda: 0)(); again(1)",
    "a wide table": "rows = torch.zeros(10**6, 10**6)",
    "a long range": "rows = torch.arange(10**10)",
}


@pytest.mark.parametrize("name", HEAVY)
def test_what_takes_long_is_given_up(name: str) -> None:
    start = time.monotonic()
    before = "def again(n):\n    return again(n + 1)\n\n\n"
    assert found(HEAVY[name], *FILLED, KEPT, before=before) in ([], [Wave("table", 10000.0)])
    assert time.monotonic() - start < 5


def test_a_kept_table_is_not_one_that_is_computed_anew() -> None:
    text = HEAD + CLASS.format(body="\n".join(f"        {line}" for line in (*FILLED, KEPT)))
    info = FileIndex(text).classes["Positions"]
    assert not added_waves(info, info.methods["forward"])
