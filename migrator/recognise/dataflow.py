"""What a function computes: each value, the operation that made it, and its operands.

A function body is run once on symbols. Names disappear, assignments and tuples are seen through, both sides of an
`if` are followed and meet in a `phi`. What is not understood becomes `opaque`, which no recogniser accepts.
"""

from __future__ import annotations

import ast

from migrator.recognise.conditions import Assumed, holds
from migrator.recognise.expressions import Expressions
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.operations import BINARY, HARMLESS
from migrator.recognise.syntax import FunctionNode, as_load, imported_names, stored_names
from migrator.recognise.values import Flow, Store, Value


def flow_of(
    index: FileIndex, definition: Definition, function: FunctionNode, owner: ClassInfo | None = None,
    assumed: Assumed = frozenset(),
) -> Flow:  # fmt: skip
    """The dataflow of a method or function, computed once for each index.

    Args:
        assumed: conditions that are taken for true or false; of a branch on them only one side is run.
    """
    key = (function, assumed) if assumed else function
    flow = index.memo.get(key)
    if flow is None:
        interpreter = _Interpreter(index, definition, function, owner)
        interpreter.assumed = assumed
        flow = index.memo[key] = interpreter.run()
    result: Flow = flow
    return result


def method_flow(info: ClassInfo, name: str = "forward") -> Flow | None:
    method = info.methods.get(name)
    return flow_of(info.index, info.definition, method, info) if method else None


class _Interpreter(Expressions):
    """Runs statements: a method for each kind, `forget` for the rest."""

    def run(self) -> Flow:
        spec = self.flow.function.args
        for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]:
            if arg is not None and arg.arg != self.flow.self_name:
                self.names[arg.arg] = self.new("param", data=arg.arg)
        self.block(self.flow.function.body)
        return self.flow

    # --- statements -------------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> bool:
        """Run statements; False if control never comes out at the end."""
        for statement in body:
            self.statement = statement
            self.flow.before[statement] = dict(self.names)
            self.flow.around[statement] = self.around
            if not self.one(statement):
                return False
        return True

    def one(self, statement: ast.stmt) -> bool:
        handler = getattr(self, f"do_{type(statement).__name__}", None)
        if handler is not None:
            return handler(statement) is not False
        self.forget([statement])
        return not isinstance(statement, ast.Raise | ast.Continue | ast.Break)

    def do_Assign(self, statement: ast.Assign) -> None:
        value = self.expression(statement.value)
        for target in statement.targets:
            self.bind(target, value, statement)

    def do_AnnAssign(self, statement: ast.AnnAssign) -> None:
        if statement.value is not None:
            self.bind(statement.target, self.expression(statement.value), statement)

    def do_AugAssign(self, statement: ast.AugAssign) -> None:
        left = ast.copy_location(as_load(statement.target), statement.target)
        op = BINARY.get(type(statement.op), "opaque")
        old = self.expression(left)
        value = self.new(op, old, self.expression(statement.value))
        if isinstance(statement.target, ast.Name):
            self.overwrite(old, value)
        self.bind(statement.target, value, statement)

    def do_Expr(self, statement: ast.Expr) -> None:
        if isinstance(statement.value, ast.Constant):
            return
        value = self.expression(statement.value)
        self.flow.stores.append(Store("effect", "", value, statement))
        if value.op in ("call", "call_local", "self_call") and value.data not in HARMLESS:
            for argument in value.operands():  # made for its effect, perhaps on what it was given
                if argument in self.names.values() and argument.op != "const":
                    self.overwrite(argument, self.new("opaque", argument))

    def do_Return(self, statement: ast.Return) -> bool:
        if statement.value is not None:
            self.flow.returns.append((self.expression(statement.value), statement))
        return False

    def do_If(self, statement: ast.If) -> bool:
        answer = holds(statement.test, self.assumed)
        if answer is not None:
            return self.block(statement.body if answer else statement.orelse)
        condition = self.expression(statement.test)
        start = dict(self.names)
        through_body = self.block(statement.body)
        after_body = self.names
        self.names = dict(start)
        through_else = self.block(statement.orelse)
        self.statement = statement
        if through_body and through_else:
            self.names = self.meet(condition, after_body, self.names)
        elif through_body:
            self.names = after_body
        return through_body or through_else

    def meet(self, condition: Value, left: dict[str, Value], right: dict[str, Value]) -> dict[str, Value]:
        names: dict[str, Value] = {}
        for name in {**left, **right}:
            one, other = left.get(name), right.get(name)
            if one is other and one is not None:
                names[name] = one
            else:
                sides = (side if side is not None else self.new("undefined") for side in (one, other))
                names[name] = self.new("phi", condition, *sides, dormant=True)
        return names

    def do_For(self, statement: ast.For | ast.While) -> None:
        source = self.expression(statement.iter) if isinstance(statement, ast.For) else self.new("opaque")
        changed = {name for name in stored_names(statement.body) if name in self.names}
        entering = {name: self.names[name] for name in changed}
        for name in changed:
            self.names[name] = self.new("loop", self.names[name], data=name, dormant=True)
        if isinstance(statement, ast.For):
            self.bind(statement.target, self.new("element", source, node=statement.iter), statement)
        else:
            self.expression(statement.test)
        heads = {name: self.names[name] for name in changed}
        start = dict(self.names)
        self.block(statement.body)
        self.statement = statement
        for name in start.keys() - changed:
            if self.names.get(name) is not start[name]:  # changed in place, as often as the loop runs
                self.names[name] = self.new("opaque", start[name])
        self.forget(statement.orelse)
        for name in changed:
            if self.names.get(name) is not heads[name]:
                body = self.names.get(name) or heads[name]
                self.names[name] = self.new(
                    "looped", entering[name], heads[name], body, source, data=name, dormant=True
                )

    do_While = do_For

    def do_Try(self, statement: ast.Try) -> bool:
        """A handler knows no more than that the body ran in part."""
        start = dict(self.names)
        through = self.block([*statement.body, *statement.orelse])
        ends = [self.names] if through else []
        raised = self.unsure(start, self.names)
        for handler in statement.handlers:
            self.names = dict(raised)
            if handler.name:
                self.names[handler.name] = self.new("opaque")
            if self.block(handler.body):
                ends.append(self.names)
        self.statement = statement
        self.names = ends[0] if ends else raised
        for other in ends[1:]:
            self.names = self.meet(self.new("opaque"), self.names, other)
        return self.block(statement.finalbody) and bool(ends)

    def unsure(self, start: dict[str, Value], end: dict[str, Value]) -> dict[str, Value]:
        """What names stand for somewhere between two places."""
        names = dict(start)
        for name, value in end.items():
            if start.get(name) is not value:
                names[name] = self.new("opaque", *([start[name]] if name in start else []), value)
        return names

    def do_With(self, statement: ast.With) -> bool:
        for item in statement.items:
            value = self.expression(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value, statement)
        outer, self.around = self.around, statement
        through = self.block(statement.body)
        self.around = outer
        return through

    def do_FunctionDef(self, statement: ast.FunctionDef) -> None:
        self.names[statement.name] = self.new("function", *self.inside(statement), data=statement)

    def do_Delete(self, statement: ast.Delete) -> None:
        for target in statement.targets:
            if isinstance(target, ast.Name):
                held = self.expression(ast.copy_location(ast.Name(target.id, ast.Load()), target))
                self.flow.deleted.setdefault(statement, []).append(held)
                self.names[target.id] = self.new("undefined")
            else:
                self.forget([statement])

    def do_Import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for name, dotted in imported_names(statement):
            if self.index.imports.get(name) != dotted:
                self.names[name] = self.new("opaque")

    do_ImportFrom = do_Import

    def do_Pass(self, statement: ast.Pass) -> None: ...

    def do_Assert(self, statement: ast.Assert) -> None:
        self.flow.stores.append(Store("effect", "assert", self.expression(statement.test), statement))

    def do_Raise(self, statement: ast.Raise) -> bool:
        return False

    def forget(self, body: list[ast.stmt]) -> None:
        """Everything that these statements may assign is unknown afterwards."""
        for statement in body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self.names:
                    self.names[node.id] = self.new("opaque", self.names[node.id], node=node)
        for name in stored_names(body):
            self.names[name] = self.new("opaque")

    def bind(self, target: ast.expr, value: Value, statement: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            self.flow.assigned.setdefault(statement, []).append(value)
        elif isinstance(target, ast.Tuple | ast.List):
            for position, element in enumerate(target.elts):
                part = self.part(value, position, target.elts)
                self.bind(element.value if isinstance(element, ast.Starred) else element, part, statement)
        elif isinstance(target, ast.Attribute):
            self.flow.stores.append(Store("attribute", ast.unparse(target), value, statement))
        elif isinstance(target, ast.Subscript):
            old = self.expression(target.value)
            changed = self.new("setitem", old, value, data=target.slice)
            self.overwrite(old, changed)
            self.flow.stores.append(Store("item", ast.unparse(target.value), changed, statement))

    def part(self, value: Value, position: int, targets: list[ast.expr]) -> Value:
        """What the target in this position gets when a value is unpacked; of `*x.shape, n` the sizes and `n`."""
        if any(isinstance(target, ast.Starred) for target in targets):
            return self.new("opaque", value, data=position)
        if value.op == "tuple" and len(value.args) == len(targets):
            return value.args[position]
        if value.op == "spread" and len(targets) >= len(value.args):
            many = len(targets) - len(value.args) + 1  # elements that the star stands for
            if position < value.data:
                return value.args[position]
            if position >= value.data + many:
                return value.args[position - many + 1]
            return self.new("unpack", value.args[value.data], data=position - value.data)
        return self.new("unpack", value, data=position)
