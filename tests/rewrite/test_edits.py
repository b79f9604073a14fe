"""Edits of one definition: comments, blank lines, empty bodies, and what cannot be done."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from migrator.codemod import Insert, Remove, Replace
from migrator.recognise.index import Definition, FileIndex
from migrator.rewrite.comments import LABEL
from migrator.rewrite.edits import CannotEdit, apply, overlapping

SOURCE = """\
class A:
    # about f
    @property
    def f(self, x):
        '''Doc.'''

        # first
        a = x + 1  # one

        # second
        b = (a *
             2)
        return b

    def g(self): return 1
"""


def definition(text: str = SOURCE) -> Definition:
    return FileIndex(text).definitions[-1]


def node_at(here: Definition, line: int, kind: type[ast.AST] = ast.stmt) -> ast.AST:
    """The innermost node of a kind that starts on a line of the text."""
    found = [n for n in ast.walk(here.tree) if isinstance(n, kind) and getattr(n, "lineno", 0) == line]
    return found[-1]


def statement(here: Definition, line: int) -> ast.stmt:
    node = node_at(here, line)
    assert isinstance(node, ast.stmt)
    return node


def changed(text: str, *make: Callable[[Definition], Insert | Remove | Replace]) -> str:
    here = definition(text)
    return apply(here, [one(here) for one in make])


def test_no_edit_changes_nothing() -> None:
    assert apply(definition(), []) == SOURCE


BLOCK = """\
def f(x):
    a = 1

    # why b
    b = 2  # and how
    c = (
        3,  # three
    )
    return c
"""


GONE = f"    {LABEL}"


def lines_after(*make: Callable[[Definition], Insert | Remove | Replace]) -> list[str]:
    return changed(BLOCK, *make).split("\n")[1:-1]


def test_comments_of_removed_statements_move_to_the_edited_one() -> None:
    after = lines_after(
        lambda d: Remove(d, statement(d, 5)),
        lambda d: Remove(d, statement(d, 6)),
        lambda d: Replace(d, statement(d, 9), "return g(x)"),
    )
    assert after == ["    a = 1", "", "    # why b", GONE, "    # and how", "    # three", "    return g(x)"]


def test_a_comment_is_said_as_often_as_before() -> None:
    here = definition("def f(x):\n    # now\n    a = x  # (B, T)\n    b = x  # (B, T, C)\n    return a + b  # (B, T)\n")
    removed = [Remove(here, node_at(here, line)) for line in (3, 4)]
    after = apply(here, [*removed, Replace(here, node_at(here, 5), "return g(x)")])
    assert after == f"def f(x):\n    # now\n{GONE}\n    # (B, T)\n    # (B, T, C)\n    return g(x)  # (B, T)\n"


def test_the_edited_statement_may_stand_before_the_removed_one_or_further_down() -> None:
    before = lines_after(lambda d: Replace(d, statement(d, 2), "a = 0"), lambda d: Remove(d, statement(d, 5)))
    assert before[:4] == ["    # why b", GONE, "    # and how", "    a = 0"]
    down = lines_after(lambda d: Remove(d, statement(d, 5)), lambda d: Replace(d, statement(d, 9), "return 4"))
    assert down[-4:] == ["    # why b", GONE, "    # and how", "    return 4"]


def test_what_a_replacement_has_taken_over_is_not_said_again() -> None:
    here = definition("def f(x):\n    a = x  # (B, T)\n    b = x  # (B, T)\n    return a + b\n")
    code = "a, b = g(\n    x,  # (B, T)\n    x,  # (B, T)\n)"
    after = apply(here, [Replace(here, node_at(here, 3), code), Remove(here, node_at(here, 2))])
    assert (
        after
        == "def f(x):\n    a, b = g(\n        x,  # (B, T)\n        x,  # (B, T)\n    )  # (B, T)\n    return a + b\n"
    )


def test_a_second_edit_puts_its_comments_under_the_same_label() -> None:
    text = f"def f(x):\n    b = x  # two\n    # what\n{GONE}\n    # one\n    return g(x)\n"
    after = changed(text, lambda d: Remove(d, statement(d, 2)), lambda d: Replace(d, statement(d, 6), "return 1"))
    assert after == f"def f(x):\n    # what\n{GONE}\n    # two\n    # one\n    return 1\n"


def test_comments_that_nothing_replaces_stay_and_say_nothing_of_what_follows() -> None:
    after = lines_after(lambda d: Remove(d, statement(d, 5)))
    assert after[:6] == ["    a = 1", "", "    # why b", GONE, "    # and how", ""]
    last = lines_after(lambda d: Remove(d, statement(d, 9)))
    assert last == BLOCK.split("\n")[1:-2]


def test_comments_at_the_end_of_a_block_stay_in_it() -> None:
    text = "def f(x):\n    if x:\n        y = 1\n        # last\n        z = 2  # words\n    return x\n"
    after = changed(text, lambda d: Remove(d, statement(d, 5)))
    assert after == text.replace("        z = 2  # words\n", f"    {GONE}\n        # words\n")


def test_comments_inside_a_replaced_expression_come_to_stand_above() -> None:
    text = "def f(x):\n    # first\n    return g(\n        x,  # input\n    )  # out\n"
    here = definition(text)
    call = next(n for n in ast.walk(here.tree) if isinstance(n, ast.Call))
    assert apply(here, [Replace(here, call, "h(x)")]) == (
        f"def f(x):\n    # first\n{GONE}\n    # input\n    return h(x)  # out\n"
    )


def test_instructions_to_tools_go_with_their_line() -> None:
    text = "def f(x):\n    a = x  # noqa: F841\n    b = x  # type: ignore[assignment]\n    return x\n"
    after = changed(text, lambda d: Remove(d, statement(d, 2)), lambda d: Remove(d, statement(d, 3)))
    assert after == "def f(x):\n    return x\n"


def test_the_comment_that_opens_a_block_stays() -> None:
    text = "def f(x):\n    # whole\n    a = 1\n    return x\n"
    assert changed(text, lambda d: Remove(d, statement(d, 3))) == "def f(x):\n    # whole\n    return x\n"


def test_an_empty_body_gets_a_pass() -> None:
    text = "def f(x):\n    if x:\n        a = 1\n    return x\n"
    assert changed(text, lambda d: Remove(d, statement(d, 3))) == "def f(x):\n    if x:\n        pass\n    return x\n"


def test_replacing_keeps_comments_around() -> None:
    after = changed(SOURCE, lambda d: Replace(d, statement(d, 8), "a = x\na = a + 2"))
    assert "        # first\n        a = x\n        a = a + 2  # one\n" in after


def test_replacing_an_expression_keeps_its_parentheses() -> None:
    text = "def f(x):\n    return 2 * (x + 1)\n"
    here = definition(text)
    inner = next(n for n in ast.walk(here.tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Add))
    assert apply(here, [Replace(here, inner, "x - 1")]) == "def f(x):\n    return 2 * (x - 1)\n"


def test_inserts_take_over_the_blank_line_above() -> None:
    after = changed(SOURCE, lambda d: Insert(d, statement(d, 8), "z = 0", "before"))
    assert "\n\n        # first\n        z = 0\n        a = x + 1  # one\n" in after
    after = changed(SOURCE, lambda d: Insert(d, statement(d, 8), "z = 0"))
    assert "        a = x + 1  # one\n        z = 0\n\n        # second\n" in after


def test_end_of_a_decorated_function() -> None:
    text = "class A:\n    @deco\n    def __init__(self):\n        x = 1\n\n    y = 2\n"
    after = changed(text, lambda d: Insert(d, statement(d, 3), "self.z = 3", "end"))
    assert after == text.replace("        x = 1\n", "        x = 1\n        self.z = 3\n")


def test_columns_are_counted_in_bytes() -> None:
    text = "def f(x):\n    s = 'äöü—'; \n    return s + 'é' + g(x)\n"
    here = definition(text)
    call = next(n for n in ast.walk(here.tree) if isinstance(n, ast.Call))
    assert apply(here, [Replace(here, call, "h")]) == text.replace("g(x)", "h")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(x):\n    a = 1; b = 2\n    return x\n", 2),
        ("def f(x):\n    if x: a = 1\n    return x\n", 2),
    ],
)
def test_shared_lines_cannot_be_edited(text: str, line: int) -> None:
    here = definition(text)
    inner = next(n for n in ast.walk(here.tree) if isinstance(n, ast.Assign) and n.lineno == line)
    with pytest.raises(CannotEdit):
        apply(here, [Remove(here, inner)])


@pytest.mark.parametrize(
    "text",
    [
        "def f(x): return x\n",
        "def f(x):\n    if x:\n        return\n    y = 1\n",
    ],
)
def test_nothing_is_put_where_control_may_not_come(text: str) -> None:
    here = definition(text)
    with pytest.raises(CannotEdit):
        apply(here, [Insert(here, here.tree, "z = 1", "end")])


def test_a_nested_return_is_no_return() -> None:
    text = "def f(x):\n    def g():\n        return 1\n    y = g()\n"
    after = changed(text, lambda d: Insert(d, d.tree, "z = 1", "end"))
    assert after == text + "    z = 1\n"


def test_code_that_is_no_python_is_an_obstacle() -> None:
    with pytest.raises(CannotEdit):
        changed(SOURCE, lambda d: Replace(d, statement(d, 8), "a = )"))


def test_overlaps() -> None:
    here = definition()
    whole, inner = statement(here, 8), node_at(here, 8, ast.BinOp)
    other = statement(here, 11)
    in_g = statement(here, 15)
    assert overlapping([Replace(here, whole, "a = 1")], [Replace(here, inner, "1")])
    assert overlapping([Replace(here, inner, "1")], [Insert(here, other, "a = 1")])
    assert not overlapping([Remove(here, whole)], [Remove(here, in_g)])
    assert overlapping([Remove(here, whole), Remove(here, in_g)], [Remove(here, in_g)])
    elsewhere = definition()
    assert not overlapping([Remove(here, whole)], [Remove(elsewhere, statement(elsewhere, 8))])


def test_edits_in_several_methods_at_once() -> None:
    text = SOURCE.replace("def g(self): return 1", "def g(self):\n        return 1")
    after = changed(
        text,
        lambda d: Replace(d, statement(d, 8), "a = x"),
        lambda d: Replace(d, statement(d, 16), "return 2"),
    )
    assert "a = x  # one" in after and "return 2" in after and "'''Doc.'''" in after
