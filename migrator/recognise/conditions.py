"""Conditions of branches that can be taken for true or false: a flag, a name, `x is None`, and what `not` makes."""

from __future__ import annotations

import ast

Assumed = frozenset[tuple[str, bool]]  # text of a condition, whether it holds


def atom(test: ast.expr) -> tuple[str, bool] | None:
    """The plain condition in a test, and whether it holds where the test does: `x is not None` is not `x is None`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = atom(test.operand)
        return (inner[0], not inner[1]) if inner is not None else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Is | ast.IsNot):
        right = test.comparators[0]
        if _is_plain(test.left) and isinstance(right, ast.Constant) and right.value is None:
            return f"{ast.unparse(test.left)} is None", isinstance(test.ops[0], ast.Is)
        return None
    return (ast.unparse(test), True) if _is_plain(test) else None


def _is_plain(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def holds(test: ast.expr, assumed: Assumed) -> bool | None:
    """Whether a test holds under assumptions; None where they do not say."""
    if not assumed:
        return None
    if isinstance(test, ast.BoolOp):
        settles = isinstance(test.op, ast.Or)
        answers = [holds(part, assumed) for part in test.values]
        return settles if settles in answers else None if None in answers else not settles
    found = atom(test)
    if found is None:
        return None
    text, value = found
    return next((value == truth for known, truth in assumed if known == text), None)


def denied(test: ast.expr) -> list[tuple[str, bool]] | None:
    """What has to be assumed for a test not to hold, if that can be said of plain conditions."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        parts = [denied(part) for part in test.values]
        return [one for part in parts if part is not None for one in part] if None not in parts else None
    found = atom(test)
    return [(found[0], not found[1])] if found is not None else None


def text_of(assumed: Assumed) -> str:
    """The condition that all assumptions hold, as source: what is None first, then the flags."""
    words = []
    for text, truth in sorted(assumed, key=lambda one: (not one[0].endswith(" is None"), one)):
        if text.endswith(" is None"):
            words.append(text if truth else text.replace(" is None", " is not None"))
        else:
            words.append(text if truth else f"not {text}")
    return " and ".join(words)
