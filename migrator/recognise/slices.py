"""Slices along the axis of positions, as loops that decode write them."""

from __future__ import annotations

import ast

from migrator.recognise.index import FileIndex


def until(loop: ast.For, column: int) -> str:
    """The slice up to and including position `t + column`."""
    assert isinstance(loop.target, ast.Name)
    name, end = loop.target.id, column + 1
    return f":{name}" if not end else f": {name} {'+' if end > 0 else '-'} {abs(end)}"


def goes_by_one(node: ast.expr) -> ast.expr | None:
    """n of `range(n)` and `range(start, n)`, with or without a progress bar around it."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    if called_name(node) in ("tqdm", "trange", "track") and isinstance(node.args[0], ast.Call):
        return goes_by_one(node.args[0])
    plain = isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords
    return node.args[-1] if plain and len(node.args) < 3 else None


def starts_at(node: ast.expr) -> int | None:
    """start of `range(start, n)`, 0 of `range(n)`, if the source says it."""
    assert isinstance(node, ast.Call)
    if called_name(node) != "range":
        return starts_at(node.args[0])
    try:
        start = ast.literal_eval(node.args[0]) if len(node.args) > 1 else 0
    except ValueError:
        return None
    return start if isinstance(start, int) else None


def called_name(node: ast.AST) -> str:
    """The last name of what is called."""
    if not isinstance(node, ast.Call):
        return ""
    return (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )


def base_name(node: ast.expr) -> str | None:
    """`x` of `x`, `x[...]`, `x.clone()` and the like, and of a choice between such."""
    if isinstance(node, ast.IfExp):
        return base_name(node.body)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return base_name(node.func.value)
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def concatenated(index: FileIndex, node: ast.expr) -> list[ast.expr]:
    """The two parts of `torch.cat((a, b), dim=1)`."""
    if not isinstance(node, ast.Call) or index.resolve(node.func) not in ("torch.cat", "torch.concat", "torch.hstack"):
        return []
    parts = node.args[0].elts if node.args and isinstance(node.args[0], ast.Tuple | ast.List) else []
    axis = (
        node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg in ("dim", "axis")), None)
    )
    along = index.resolve(node.func) == "torch.hstack" or (axis is not None and ast.unparse(axis) in ("1", "-1"))
    return list(parts) if along and len(parts) == 2 else []


def crop_of(node: ast.expr) -> tuple[str, ast.expr] | None:
    """(x, n) of `x[:, -n:]` and of `x if x.size(1) <= n else x[:, -n:]`."""
    if isinstance(node, ast.IfExp):
        inner = crop_of(node.orelse)
        if inner is None or ast.unparse(node.body) != inner[0] or not isinstance(node.test, ast.Compare):
            return None
        sizes = (f"{inner[0]}.size(1)", f"{inner[0]}.shape[1]", f"{inner[0]}.size(-1)", f"{inner[0]}.shape[-1]")
        test = ast.unparse(node.test)
        length = ast.unparse(inner[1])
        return inner if any(test in (f"{size} <= {length}", f"{size} < {length}") for size in sizes) else None
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    if len(items) != 2 or not is_everything(items[0]) or not isinstance(items[1], ast.Slice):
        return None
    lower, rest = items[1].lower, (items[1].upper, items[1].step)
    if isinstance(lower, ast.UnaryOp) and isinstance(lower.op, ast.USub) and rest == (None, None):
        return node.value.id, lower.operand
    return None


def is_last(node: ast.expr) -> bool:
    """`x[:, -1]`, `x[:, -1, :]`, `x[:, [-1], :]` and `x[:, -1:]`; of one sequence alone `x[0, -1]`."""
    if not isinstance(node, ast.Subscript):
        return False
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    if items and isinstance(items[0], ast.Constant) and type(items[0].value) is int:
        return is_last_place(ast.Tuple([ast.Slice(), *items[1:]], ast.Load()))
    return is_last_place(node.slice)


def is_last_place(index: ast.expr) -> bool:
    """The index of the last position: `:, -1`, with or without the axes behind it."""
    items = index.elts if isinstance(index, ast.Tuple) else []
    return len(items) > 1 and is_everything(items[0]) and ast.unparse(items[1]) in ("-1", "[-1]", "-1:")


def cropped_under_if(statement: ast.stmt) -> tuple[str, ast.IfExp] | None:
    """(y, choice) of `if x.size(1) > n: y = x[:, -n:]` with `else: y = x`, in either order."""
    if not isinstance(statement, ast.If) or len(statement.body) != 1 or len(statement.orelse) != 1:
        return None
    one, other, test = statement.body[0], statement.orelse[0], statement.test
    if not (isinstance(one, ast.Assign) and isinstance(other, ast.Assign) and isinstance(test, ast.Compare)):
        return None
    targets = [ast.unparse(target) for side in (one, other) for target in side.targets]
    if len(targets) != 2 or targets[0] != targets[1] or not targets[0].isidentifier():
        return None
    flipped = _FLIPPED.get(type(test.ops[0])) if len(test.ops) == 1 else None
    if flipped is None:
        return targets[0], ast.IfExp(test, one.value, other.value)
    return targets[0], ast.IfExp(ast.Compare(test.left, [flipped()], test.comparators), other.value, one.value)


_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.LtE, ast.GtE: ast.Lt}


def is_everything(item: ast.expr) -> bool:
    """`:` in an index."""
    return isinstance(item, ast.Slice) and item.lower is item.upper is item.step is None
