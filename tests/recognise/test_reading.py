"""Small questions that recognisers ask: sizes, axes, masks, constants, spelling."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from migrator.codemod import Import
from migrator.recognise.constants import init_values, number
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import FileIndex
from migrator.recognise.masks import constant, hides_future, is_number
from migrator.recognise.shapes import einsum_of, is_axis, rank, swaps_last_two, symbol
from migrator.recognise.spelling import bound_names, call, free_name, parenthesised, runtime_name
from migrator.recognise.values import Value
from tests.cases import ROOT


def value_of(expression: str, before: str = "") -> Value:
    lines = "".join(f"    {line}\n" for line in before.split("\n") if line)
    text = f"import math\nimport torch\nfrom torch import nn\n\n\ndef f(x, y, n):\n{lines}    return {expression}\n"
    index = FileIndex(text)
    flow = flow_of(index, index.functions["f"], index.functions["f"].tree)  # type: ignore[arg-type]
    return flow.returns[-1][0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("torch.triu(torch.ones(n, n), diagonal=1)", True),
        ("torch.triu(torch.ones(n, n), 1).bool()", True),
        ("torch.ones(1, 1, n, n).triu(1) == 1", True),
        ("torch.tril(torch.ones((n, n))) == 0", True),
        ("torch.tril(torch.ones(n, n))", False),
        ("~torch.tril(torch.ones(n, n, dtype=torch.bool))", True),
        ("torch.arange(n)[:, None] < torch.arange(n)[None, :]", True),
        ("torch.arange(n)[None, :] > torch.arange(n)[:, None]", True),
        ("torch.arange(n)[:, None] >= torch.arange(n)", False),
        ("torch.arange(n).unsqueeze(1) < torch.arange(n).unsqueeze(0)", True),
        ("torch.triu(torch.ones(n, n))", None),
        ("torch.triu(torch.ones(n, n), 2)", None),
        ("torch.tril(torch.ones(n, n), -1) == 0", None),
        ("torch.tril(torch.ones(n, n + 1)) == 0", None),
        ("torch.tril(torch.ones(1, 1)) == 0", None),
        ("torch.tril(torch.ones_like(x)) == 0", None),
        ("torch.tril(y.float()) == 0", None),
        ("torch.tril(torch.zeros(n, n)) == 0", None),
        ("torch.arange(n)[:, None] <= torch.arange(n)[None, :]", None),
        ("torch.arange(n)[:, None] < torch.arange(x.size(0))[None, :]", None),
        ("torch.arange(n)[:, None] < y", None),
        ("torch.arange(n)[:, None] < torch.arange(n)[:, None]", None),
    ],
)
def test_which_masks_hide_the_future(expression: str, expected: bool | None) -> None:
    assert hides_future(value_of(expression)) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("float('-inf')", -float("inf")),
        ("-float('inf')", -float("inf")),
        ("-math.inf", -float("inf")),
        ("-torch.inf", -float("inf")),
        ("-1e9", -1e9),
        ("-(10)", -10.0),
        ("n", None),
        ("torch.finfo(x.dtype).min", None),
    ],
)
def test_constants(expression: str, expected: float | None) -> None:
    assert constant(value_of(expression)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("math.sqrt(x.size(-1))", True),
        ("x.shape[-1] ** -0.5", True),
        ("int(math.sqrt(x.size(1) // 2))", True),
        ("1 / (2 - 1)", True),
        ("n", False),
        ("torch.sqrt(x)", False),
        ("x.mean()", False),
        ("y ** 0.5", False),
    ],
)
def test_plain_numbers(expression: str, expected: bool) -> None:
    assert is_number(value_of(expression), None) is expected


@pytest.mark.parametrize(
    ("expression", "before", "expected"),
    [
        ("x", "b, t, c = x.shape", 3),
        ("x.transpose(0, 1)", "b, t, c = x.size()", 3),
        ("nn.Dropout()(x)", "b, t = x.shape", 2),
        ("x.view(1, 2, 3, 4)", "", 4),
        ("x.view(*y)", "", None),
        ("x.permute(0, 2, 1)", "", 3),
        ("torch.bmm(x, y)", "", 3),
        ("torch.einsum('abc,cd->abd', x, y)", "", 3),
        ("q", "b, t, c = x.shape\nq, k = x.chunk(2, -1)", 3),
        ("q", "b, t, c = x.shape\nq, k = x.unbind(-1)", 2),
        ("x[0]", "b, t, c = x.shape", 2),
        ("x[0, :]", "b, t, c = x.shape", None),
        ("x", "b, *rest = x.shape", None),
        ("x", "b, t = x.shape[:2]", None),
    ],
)
def test_ranks(expression: str, before: str, expected: int | None) -> None:
    assert rank(value_of(expression, before)) == expected


@pytest.mark.parametrize(
    ("expression", "dims", "expected"),
    [
        ("x.transpose(-2, -1)", None, True),
        ("x.transpose(-1, -2)", None, True),
        ("x.transpose(1, 2)", None, False),
        ("x.transpose(1, 2)", 3, True),
        ("x.view(1, 2, 3, 4).transpose(2, 3)", None, True),
        ("x.view(1, 2, 3, 4).transpose(1, 2)", None, False),
        ("x.permute(0, 1, 3, 2)", None, True),
        ("x.permute(0, 1, -1, -2)", None, True),
        ("x.permute(0, 2, 3, 1)", None, False),
        ("x.mT", None, True),
        ("x.swapaxes(-1, -2)", None, False),
    ],
)
def test_transposes(expression: str, dims: int | None, expected: bool) -> None:
    assert swaps_last_two(value_of(expression), dims) is expected


def test_axes() -> None:
    of = value_of("x.view(1, 2, 3, 4)")
    assert is_axis(value_of("-1"), -1, of) and is_axis(value_of("3"), -1, of)
    assert not is_axis(value_of("2"), -1, of) and not is_axis(value_of("3"), -1, value_of("x"))
    assert not is_axis(value_of("n"), -1, of) and not is_axis(None, -1, of)


def test_symbols_are_equal_only_for_certain() -> None:
    assert symbol(value_of("x.size(-1)")) == symbol(value_of("x.shape[-1]"))
    assert symbol(value_of("n // 2")) == symbol(value_of("n // 2"))
    assert symbol(value_of("x.size(-1)")) != symbol(value_of("y.size(-1)"))
    assert symbol(value_of("x.mean()")) != symbol(value_of("x.mean()"))


@pytest.mark.parametrize("equation", ["ab,bc", "...ab,bc->...ac", "ab,bc,cd->ad"])
def test_einsums_that_are_not_read(equation: str) -> None:
    assert einsum_of(value_of(f"torch.einsum({equation!r}, x, y)")) is None


SIZES = """
import math
from torch import nn

WIDTH = 12
DEPTH = WIDTH // 4
DEPTH2 = unknown()


class Head(nn.Module):
    def __init__(self, dim, heads=3, width=None):
        super().__init__()
        per_head = dim // heads
        self.per_head = per_head


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.a = Head(size)
        self.b = Head(dim=size * 2, heads=4)
        self.c = Head(*size)


def main():
    size = 24
    return Model(size), Model(WIDTH)
"""


def test_values_at_all_call_sites() -> None:
    index = FileIndex(SIZES)
    info = index.classes["Head"]
    values = init_values(index, info, ast.parse("dim // heads", mode="eval").body)
    assert sorted(value for value in values if value is not None) == [4, 6, 8, 12]
    assert 12 in values and 24 // 3 in values and None in values  # Head(*size) cannot be told
    assert init_values(index, info, ast.parse("per_head", mode="eval").body) == values
    assert init_values(index, info, ast.parse("self.per_head", mode="eval").body) == values


def test_module_constants() -> None:
    index = FileIndex(SIZES)
    assert number(index, ast.parse("DEPTH * 2 + int(1.5)", mode="eval").body) == 7
    for expression in ("DEPTH2", "missing", "1 / 0", "2 ** 9999", "True"):
        assert number(index, ast.parse(expression, mode="eval").body) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\n", ("attention", Import("runtime", "attention"))),
        ("from runtime import attention\n", ("attention", Import("runtime", "attention"))),
        ("from runtime import attention as a\n", ("a", Import("runtime", "attention as a"))),
        ("def attention(): pass\n", ("runtime.attention", Import("runtime"))),
        ("def f(attention): pass\n", ("runtime.attention", Import("runtime"))),
        ("from other import attention\n", ("runtime.attention", Import("runtime"))),
        ("import runtime\nattention = 1\n", ("runtime.attention", Import("runtime"))),
        ("attention = runtime = 1\n", ("runtime_attention", Import("runtime", "attention as runtime_attention"))),
        (
            "attention = runtime = runtime_attention = 1\n",
            ("runtime_attention_", Import("runtime", "attention as runtime_attention_")),
        ),
    ],
)
def test_what_a_runtime_function_is_called(text: str, expected: tuple[str, Import]) -> None:
    assert runtime_name(FileIndex(text), "attention") == expected


def test_free_names() -> None:
    index = FileIndex("import a\n\n\ndef f(b):\n    c = [d for d in b]\n    import e as g\n")
    assert bound_names(index) == {"a", "f", "b", "c", "d", "g"}
    definition = index.definitions[-1]
    assert free_name(index, definition, "a", "b", "e") == "e"
    assert free_name(index, definition, "a", "b") == "b_"


def test_calls_fit_their_line() -> None:
    assert call("f", ["a", "b"], prefix="y = ") == "y = f(a, b)"
    assert call("f", ["a" * 45, "b" * 41], prefix="y = ") == f"y = f(\n    {'a' * 45}, {'b' * 41}\n)"
    assert call("f", ["a" * 50, "b" * 50], suffix=".c") == f"f(\n    {'a' * 50},\n    {'b' * 50},\n).c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "x"),
        ("x.y(1)[2]", "x.y(1)[2]"),
        ("x + y", "(x + y)"),
        ("-x", "(-x)"),
        ("not x", "(not x)"),
        ("x if y else z", "(x if y else z)"),
        ("x\n+ y", "(x\n+ y)"),
    ],
)
def test_parentheses(text: str, expected: str) -> None:
    assert parenthesised(text) == expected


def test_parentheses_that_may_be_left_out() -> None:
    assert parenthesised("x + y", ast.BinOp) == "x + y"
    assert parenthesised("not x", ast.UnaryOp) == "(not x)"


def test_recognising_loads_neither_libcst_nor_torch() -> None:
    modules = sorted(
        f"migrator.recognise.{path.stem}"
        for path in (ROOT / "migrator/recognise").glob("*.py")
        if path.stem != "__init__"
    )
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(sorted(sys.modules.keys() & {'libcst', 'torch', 'rich', 'runtime', 'codemods'}))"
    )
    command = [sys.executable, "-c", code, "migrator.codemod", *modules]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"
