"""What a function changes in place: tensors, lists and dictionaries, under whatever name it knows them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import walk_statements
from migrator.recognise.values import Flow, Value

MUTATORS = frozenset({"append", "extend", "insert", "add", "update", "pop", "popitem", "clear", "setdefault", "remove"})


def changed_in_place(flow: Flow) -> Iterator[tuple[Value, ast.stmt]]:
    """(value, statement) for everything that a function changes in place."""
    for value in flow.values:
        if value.args and value.statement is not None and _is_in_place(flow, value):
            yield value.args[0], value.statement
    for statement in walk_statements(flow.function.body):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            held = flow.before.get(statement, {}).get(statement.target.id)
            if held is not None and held.op != "const":
                yield held, statement


def _is_in_place(flow: Flow, value: Value) -> bool:
    if value.op == "setitem":
        return True
    name = value.data if isinstance(value.data, str) else ""
    if value.op == "method" and name in MUTATORS:
        return True
    if name.endswith("_") and not name.endswith("__") and value.op not in ("module", "attr", "param"):
        return True
    inside = value.keywords.get("inplace")
    if inside is not None:
        return not inside.is_const(False)
    kept = made_by(flow.owner, name.removeprefix("self.")) if flow.owner is not None and "self." in name else None
    made = kept if isinstance(kept, ast.Call) else None
    given = [*made.args[-1:], *(k.value for k in made.keywords if k.arg == "inplace")] if made is not None else []
    return any(isinstance(one, ast.Constant) and one.value is True for one in given)


def made_by(info: ClassInfo, name: str) -> ast.expr | None:
    """The value of an attribute, of the class or the nearest one above that sets it."""
    return next((one for one in info.lineage if name in one.attributes), info).attribute(name)
