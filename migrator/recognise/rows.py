"""The newest row of the logits, where the model is called inside of a larger expression: `f(model(x)[:, -1])`."""

from __future__ import annotations

import ast

_UNSURE = ast.IfExp | ast.BoolOp | ast.Lambda | ast.comprehension | ast.NamedExpr | ast.Await


def row_inside(value: ast.expr, call: ast.Call, results: int) -> ast.Subscript | None:
    """What takes the row, if the call may as well stand in a statement before: it happens once, and first of all.

    A model with several `results` gives out a tuple that begins with the logits.
    """
    way = _path_to(value, call)
    if any(isinstance(node, _UNSURE) for node in way) or _happens_before(value, call, way):
        return None
    if results > 1:
        first = way.pop() if way else None
        if not isinstance(first, ast.Subscript) or ast.unparse(first.slice) != "0":
            return None
    row = way[-1] if way else None
    return row if isinstance(row, ast.Subscript) and (row is not value or results > 1) else None


def _path_to(root: ast.expr, node: ast.AST) -> list[ast.AST]:
    """The nodes around `node`, from `root` to the innermost one."""
    for child in ast.iter_child_nodes(root):
        if child is node:
            return [root]
        if any(inner is node for inner in ast.walk(child)):
            return [root, *_path_to(child, node)]  # type: ignore[arg-type]
    return []


def _happens_before(root: ast.expr, call: ast.Call, way: list[ast.AST]) -> bool:
    """Whether another call inside of `root` runs before this one does; those around it run later."""
    inside = {id(node) for node in ast.walk(call)} | {id(node) for node in way}
    return any(
        (node.lineno, node.col_offset) < (call.lineno, call.col_offset)
        for node in ast.walk(root)
        if isinstance(node, ast.Call) and id(node) not in inside
    )
