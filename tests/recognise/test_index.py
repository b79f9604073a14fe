"""The index of a file: slices that add up to the file, names, classes, calls; and the index after a change."""

from __future__ import annotations

import ast

import pytest

from migrator.recognise.index import FileIndex
from migrator.recognise.syntax import bind, parameters, split_lines, stored_names
from tests.cases import FIXTURES

TEXT = '''"""Doc."""
import torch.nn as nn, os.path
from torch.nn import functional as F, Linear
from . import sibling
try:
    from fast import Norm
except ImportError:
    from torch.nn import LayerNorm as Norm

WIDTH = 4
WIDTH_TWICE = WIDTH_TWICE = 8
nn2 = torch.nn


class Base(nn.Module):
    def __init__(self, a, b=2, *, c=3):
        self.a = a
        self.b, self.c = b, c
        self.a2: int = a
        if a:
            self.maybe = 1
        else:
            self.maybe = 2

    def late(self):
        self.b += 1


class Derived(Base):
    pass


@decorator(Base(1, c=5))
def build(**kwargs):
    return Derived(**kwargs), Base(*[1])
'''


def test_names() -> None:
    index = FileIndex(TEXT)
    assert index.imports["nn"] == "torch.nn" and index.imports["os"] == "os"
    assert index.imports["F"] == "torch.nn.functional" and index.imports["sibling"] == "..sibling"
    assert index.resolve(ast.parse("F.relu").body[0].value) == "torch.nn.functional.relu"  # type: ignore[attr-defined]
    assert index.resolve(ast.parse("nn2.Linear").body[0].value) == "torch.nn.Linear"  # type: ignore[attr-defined]
    assert index.resolve(ast.parse("f().relu").body[0].value) is None  # type: ignore[attr-defined]
    assert set(index.constants) == {"WIDTH", "nn2"}
    assert {"Base", "build", "WIDTH", "nn2"} <= index.shadowed and not {"nn", "F", "Norm"} & index.shadowed


def test_classes() -> None:
    index = FileIndex(TEXT)
    base = index.classes["Base"]
    assert base.is_module and index.classes["Derived"].is_module
    assert list(base.init_parameters) == ["a", "b", "c"]
    assert ast.unparse(base.attribute("b")) == "b" and ast.unparse(base.attribute("c")) == "c"  # type: ignore[arg-type]
    assert base.attribute("maybe") is None and base.attribute("nothing") is None
    assert base.stores_outside_init == {"b"}
    assert index.subclasses == {"torch.nn.Module": ["Base"], "Base": ["Derived"]}


def test_calls_know_their_scope() -> None:
    index = FileIndex(TEXT)
    calls = {name: [(ast.unparse(site.call), len(site.scope)) for site in sites] for name, sites in index.calls.items()}
    assert sorted(calls["Base"]) == [("Base(*[1])", 1), ("Base(1, c=5)", 1)]
    assert calls["Derived"] == [("Derived(**kwargs)", 1)]


def test_binding_arguments() -> None:
    function = FileIndex(TEXT).classes["Base"].methods["__init__"]
    known = parameters(function)

    def bound(call: str) -> dict[str, str] | None:
        node = ast.parse(call).body[0].value  # type: ignore[attr-defined]
        found = bind(known, node)
        return None if found is None else {name: ast.unparse(value) for name, value in found.items()}

    assert bound("f(7, c=x)") == {"a": "7", "b": "2", "c": "x"}
    assert bound("f(*a)") is None and bound("f(**a)") is None and bound("f(1, 2, 3, 4)") is None


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_slices_are_the_lines_of_the_file(newline: str) -> None:
    text = TEXT.replace("\n", newline)
    index = FileIndex(text)
    lines = split_lines(text)
    assert "".join(lines) == text
    for definition in index.definitions:
        assert "".join(lines[definition.first_line - 1 : definition.last_line]) == definition.text
    build = index.functions["build"]
    assert build.text.startswith("@decorator") and build.source(build.tree).startswith("def build")


def test_lines_are_those_of_python() -> None:
    text = "a = 1\x0c\n\x0cb = 2\nc = '\u2028\x85\x1c'\nd = 4"
    index = FileIndex(text)
    assert [definition.text for definition in index.definitions] == [
        "a = 1\x0c\n",
        "\x0cb = 2\n",
        "c = '\u2028\x85\x1c'\n",
        "d = 4",
    ]


def test_two_statements_on_a_line_share_their_text() -> None:
    index = FileIndex("a = 1; b = 2\nc = 3\n")
    assert [(d.first_line, d.last_line, d.text) for d in index.definitions] == [
        (1, 1, "a = 1; b = 2\n"),
        (1, 1, "a = 1; b = 2\n"),
        (2, 2, "c = 3\n"),
    ]


def test_source_counts_bytes() -> None:
    index = FileIndex("class A:\n    x = 'äöü', y.z\n")
    node = next(n for n in ast.walk(index.definitions[0].tree) if isinstance(n, ast.Attribute))
    assert index.definitions[0].source(node) == "y.z"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_replaced_definition_moves_the_others(newline: str) -> None:
    index = FileIndex(TEXT.replace("\n", newline))
    position = next(p for p, d in enumerate(index.definitions) if d.name == "Base")
    new = f"class Base(nn.Module):{newline}    x = 1{newline}{newline}    y = 2{newline}"
    after = index.replaced({position: new})
    again = FileIndex(after.source)
    assert [(d.name, d.first_line, d.text) for d in after.definitions] == [
        (d.name, d.first_line, d.text) for d in again.definitions
    ]
    for one, other in zip(after.definitions, again.definitions, strict=True):
        assert one.line(one.tree) == other.line(other.tree)
    build = after.functions["build"]
    assert build.tree is index.functions["build"].tree and build.memo is index.functions["build"].memo
    assert build.source(build.tree) == again.functions["build"].source(again.functions["build"].tree)


def test_one_definition_may_become_several_or_none() -> None:
    index = FileIndex("import a\nx = 1\ny = 2\n")
    after = index.replaced({0: "import a\nimport b\n", 1: ""})
    assert after.source == "import a\nimport b\ny = 2\n"
    assert [(d.first_line, d.text) for d in after.definitions] == [(1, "import a\n"), (2, "import b\n"), (3, "y = 2\n")]
    assert after.imports == {"a": "a", "b": "b"}


def test_the_whole_target_can_be_replaced_piece_by_piece() -> None:
    text = (FIXTURES / "latent_drift_trajectory.py").read_text(encoding="utf-8")
    index = FileIndex(text)
    same = index.replaced({position: d.text for position, d in enumerate(index.definitions)})
    assert same.source == text


def test_of_two_classes_with_one_name_the_last_counts() -> None:
    index = FileIndex("class A:\n    x = 1\n\nclass A:\n    y = 2\n")
    assert index.classes["A"].definition.first_line == 4


def test_stored_names() -> None:
    body = ast.parse(
        "import a.b, c as d\nfor e in x: pass\nwith f as g: h = 1\n"
        "try: pass\nexcept E as i: pass\ndef j(): pass\nmatch k:\n    case [l, *m]: pass\n(n := 1)\n"
    ).body
    assert stored_names(body) == {"a", "d", "e", "g", "h", "i", "j", "l", "m", "n"}
