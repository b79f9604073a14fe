"""Runs `__init__`, a method or a function on sizes that are made up, to see what numbers come out.

What cannot be told is forgotten: a name that was given it is unknown from then on.
"""

from __future__ import annotations

import ast

from migrator.recognise.syntax import FunctionNode, first_parameter, stored_names, walk_statements
from migrator.recognise.trial.arrays import Array, Unknown
from migrator.recognise.trial.expressions import FAILURES, NOTHING, Closure, Expressions, Kept, Machine


class _Return(Exception):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


def run(machine: Machine, function: FunctionNode, given: dict[str, object]) -> object:
    """What a function or a method returns. Raises Unknown where that cannot be told."""
    self_name = first_parameter(function) if machine.owner is not None else ""
    return Statements(machine, dict(given), self_name).run(function)


class Statements(Expressions):
    """A method for each kind of statement; the others are forgotten."""

    def run(self, function: FunctionNode) -> object:
        try:
            self.block(function.body)
        except _Return as result:
            if result.value is NOTHING:
                raise Unknown from None
            return result.value
        return None

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            try:
                self.statement(statement)
            except FAILURES:
                self.forget(statement)

    def forget(self, statement: ast.stmt) -> None:
        """What a statement that is not understood may have changed is unknown."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                _lose(self.names.get(node.id))
            elif isinstance(node, ast.Attribute) and self.is_own(node):
                _lose(self.machine.attributes.pop(node.attr, None))
        for name in stored_names([statement]):
            self.names.pop(name, None)
        if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            raise _Return(NOTHING)

    def statement(self, statement: ast.stmt) -> None:
        self.count()
        handler = getattr(self, f"do_{type(statement).__name__}", None)
        if handler is None:
            raise Unknown
        handler(statement)

    def do_Assign(self, statement: ast.Assign) -> None:
        value = self.expression(statement.value)
        for target in statement.targets:
            self.bind(target, value)

    def do_AnnAssign(self, statement: ast.AnnAssign) -> None:
        if statement.value is not None:
            self.bind(statement.target, self.expression(statement.value))

    def do_AugAssign(self, statement: ast.AugAssign) -> None:
        if not isinstance(statement.target, ast.Name):
            raise Unknown
        name = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement.target)
        whole = ast.copy_location(ast.BinOp(name, statement.op, statement.value), statement.target)
        value, old = self.expression(whole), self.names.get(statement.target.id)
        _lose(old)  # it has changed, and so has whatever shares its memory
        self.names[statement.target.id] = value

    def bind(self, target: ast.expr, value: object) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = list(value) if isinstance(value, list | tuple) else []
            if len(parts) != len(target.elts):
                raise Unknown
            for element, part in zip(target.elts, parts, strict=True):
                self.bind(element, part)
        elif isinstance(target, ast.Attribute):
            self.set_attribute(target, value)
        elif isinstance(target, ast.Subscript):
            self.set_part(target, value)
        else:
            raise Unknown

    def set_attribute(self, target: ast.Attribute, value: object) -> None:
        """`self.name = value`, and `self.name.weight = table` of an nn.Embedding."""
        if self.is_own(target):
            self.machine.attributes[target.attr] = value
            return
        if target.attr == "requires_grad" and isinstance(value, bool):
            self.set_learned(target.value, value)
            return
        name, table = self.holder(target), value.table if isinstance(value, Kept) else value
        if not name or not isinstance(table, Array):
            raise Unknown
        learned = value.learned if isinstance(value, Kept) else True
        self.machine.attributes[name] = Kept(table, "embedding", learned)

    def holder(self, node: ast.expr) -> str:
        """`name` of `self.name.weight` and `self.name.weight.data`, or ""."""
        while isinstance(node, ast.Attribute) and not self.is_own(node) and node.attr in ("weight", "data"):
            node = node.value
        return node.attr if isinstance(node, ast.Attribute) and self.is_own(node) else ""

    def set_learned(self, node: ast.expr, learned: bool) -> None:
        """`self.name.weight.requires_grad = False`"""
        held = self.machine.attributes.get(self.holder(node))
        if not isinstance(held, Kept):
            raise Unknown
        self.machine.attributes[self.holder(node)] = Kept(held.table, held.kind, learned)

    def set_part(self, target: ast.Subscript, value: object) -> None:
        held = self.expression(target.value)
        if isinstance(held, list):
            held[self.whole(target.slice)] = value
        elif isinstance(held, Array):
            held.assign(self.items(target.slice), Array.of(value))
        else:
            raise Unknown

    def do_Expr(self, statement: ast.Expr) -> None:
        call = statement.value
        if isinstance(call, ast.Constant):
            return
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            raise Unknown
        held = self.names.get(call.func.value.id) if isinstance(call.func.value, ast.Name) else None
        if self.is_own(call.func) and call.func.attr == "register_buffer" and len(call.args) >= 2:
            self.machine.attributes[str(self.expression(call.args[0]))] = self.expression(call.args[1])
        elif isinstance(held, list) and call.func.attr == "append" and len(call.args) == 1:
            held.append(self.expression(call.args[0]))
        elif call.func.attr == "requires_grad_" and len(call.args) == 1:
            self.set_learned(call.func.value, bool(self.expression(call.args[0])))
        elif call.func.attr != "__init__":
            raise Unknown

    def do_If(self, statement: ast.If) -> None:
        self.block(statement.body if self.expression(statement.test) else statement.orelse)

    def do_For(self, statement: ast.For) -> None:
        if any(isinstance(inner, ast.Break | ast.Continue) for inner in walk_statements(statement.body)):
            raise Unknown
        for item in self.walk(self.expression(statement.iter)):
            self.bind(statement.target, item)
            self.block(statement.body)

    def do_With(self, statement: ast.With) -> None:
        self.block(statement.body)

    def do_Return(self, statement: ast.Return) -> None:
        if statement.value is None:
            raise _Return(None)
        try:
            value = self.expression(statement.value)
        except FAILURES:
            value = NOTHING
        raise _Return(value)

    def do_FunctionDef(self, statement: ast.FunctionDef) -> None:
        self.names[statement.name] = Closure(statement, self.names)

    def do_Pass(self, statement: ast.Pass) -> None: ...

    def do_Assert(self, statement: ast.Assert) -> None: ...

    def do_Raise(self, statement: ast.Raise) -> None:
        raise _Return(NOTHING)

    def inner(self, names: dict[str, object], self_name: str) -> Statements:
        return Statements(self.machine, names, self_name)


def _lose(value: object) -> None:
    """What may have been changed is unknown, by whatever name."""
    if isinstance(value, list):
        for one in value:
            _lose(one)
        value.clear()
    elif isinstance(value, Kept):
        _lose(value.table)
    elif isinstance(value, Array):
        value.memory.lost = True
