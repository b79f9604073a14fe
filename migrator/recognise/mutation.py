"""What a function changes in place: tensors, lists and dictionaries, under whatever name it knows them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import walk_statements
from migrator.recognise.values import Flow, Value

MUTATORS = frozenset({"append", "extend", "insert", "add", "update", "pop", "popitem", "clear", "setdefault", "remove"})
# Where torch's functions take `inplace`; its modules take it one place earlier, and dropout two.
_PLACES = {
    **dict.fromkeys(("relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid"), 1),
    **dict.fromkeys(("leaky_relu", "leakyrelu", "elu", "celu"), 2),
    **dict.fromkeys(("hardtanh", "threshold", "dropout", "dropout1d", "dropout2d", "alpha_dropout", "alphadropout"), 3),
}


def changed_in_place(flow: Flow) -> Iterator[tuple[Value, ast.stmt]]:
    """(value, statement) for everything that a function changes in place."""
    for value in flow.values:
        if value.args and value.statement is not None and is_in_place(flow, value):
            yield value.args[0], value.statement
        if "out" in value.keywords and value.statement is not None:
            yield value.keywords["out"], value.statement
    for statement in walk_statements(flow.function.body):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            held = flow.before.get(statement, {}).get(statement.target.id)
            if held is not None and held.op != "const":
                yield held, statement


def is_in_place(flow: Flow, value: Value) -> bool:
    """Whether an operation changes its first operand."""
    if value.op == "setitem":
        return True
    name = value.data if isinstance(value.data, str) else ""
    if value.op == "method" and name in MUTATORS:
        return True
    if name.endswith("_") and not name.endswith("__") and value.op not in ("module", "attr", "param"):
        return True
    kind = (value.data if value.op == "call" else value.op) or ""
    inside = value.argument(_PLACES.get(str(kind).rpartition(".")[2], 99), "inplace")
    if inside is not None:
        return not inside.is_const(False)
    if flow.owner is None or not (value.op == "module" or "self." in name):
        return False
    return _is_module_in_place(flow.owner, made_by(flow.owner, name.removeprefix("self.")))


def _is_module_in_place(info: ClassInfo, made: ast.expr | None) -> bool:
    """`nn.ReLU(inplace=True)` and `nn.Dropout(0.1, True)`, also at the start of an nn.Sequential."""
    if not isinstance(made, ast.Call):
        return False
    kind = (info.index.resolve(made.func) or "").rpartition(".")[2]
    if kind == "Sequential":
        return bool(made.args) and _is_module_in_place(info, made.args[0])
    place = _PLACES.get(kind.lower(), 99) - (2 if "Dropout" in kind else 1)
    given = [k.value for k in made.keywords if k.arg == "inplace"] + made.args[place : place + 1]
    return any(not (isinstance(one, ast.Constant) and one.value is False) for one in given)


def made_by(info: ClassInfo, name: str) -> ast.expr | None:
    """The value of an attribute, of the class or the nearest one above that sets it."""
    return next((one for one in info.lineage if name in one.attributes), info).attribute(name)
