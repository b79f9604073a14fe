"""What a function computes: each value, the operation that made it, and its operands.

A function body is run once on symbols. Names disappear, assignments and tuples are seen through, both sides of an
`if` are followed and meet in a `phi`. What is not understood becomes `opaque`, which no recogniser accepts.
"""

from __future__ import annotations

import ast
from typing import Any

from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.operations import BINARY, COMPARE, FUNCTIONS, HARMLESS, METHODS, MODULES
from migrator.recognise.syntax import FunctionNode, as_load, first_parameter, imported_names, stored_names
from migrator.recognise.values import Flow, Store, Value, roots


def flow_of(index: FileIndex, definition: Definition, function: FunctionNode, owner: ClassInfo | None = None) -> Flow:
    """The dataflow of a method or function, computed once for each index."""
    flow = index.memo.get(function)
    if flow is None:
        flow = _Interpreter(index, definition, function, owner).run()
        index.memo[function] = flow
    result: Flow = flow
    return result


def method_flow(info: ClassInfo, name: str = "forward") -> Flow | None:
    method = info.methods.get(name)
    return flow_of(info.index, info.definition, method, info) if method else None


class _Interpreter:
    def __init__(
        self, index: FileIndex, definition: Definition, function: FunctionNode, owner: ClassInfo | None
    ) -> None:
        self.index = index
        self.names: dict[str, Value] = {}
        is_method = owner is not None and not any(
            isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list
        )
        self_name = first_parameter(function) if is_method else ""
        self.flow = Flow(function, owner, definition, self_name)
        self.statement: ast.stmt = function
        self.around: ast.stmt | None = None

    def run(self) -> Flow:
        spec = self.flow.function.args
        for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]:
            if arg is not None and arg.arg != self.flow.self_name:
                self.names[arg.arg] = self.new("param", data=arg.arg)
        self.block(self.flow.function.body)
        return self.flow

    def new(
        self,
        op: str,
        *args: Value,
        node: ast.expr | None = None,
        data: Any = None,
        keywords: dict[str, Value] | None = None,
    ) -> Value:
        value = Value(op, args, keywords or {}, data, node, self.statement)
        self.flow.values.append(value)
        return value

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
                names[name] = self.new("phi", condition, *sides)
        return names

    def do_For(self, statement: ast.For) -> None:
        source = self.expression(statement.iter)
        changed = {name for name in stored_names(statement.body) if name in self.names}
        entering = {name: self.names[name] for name in changed}
        for name in changed:
            self.names[name] = self.new("loop", self.names[name], data=name)
        self.bind(statement.target, self.new("element", source, node=statement.iter), statement)
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
                self.names[name] = self.new("looped", entering[name], heads[name], body, source)

    def do_While(self, statement: ast.While) -> None:
        self.forget([statement])

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
            starred = any(isinstance(element, ast.Starred) for element in target.elts)
            for position, element in enumerate(target.elts):
                known = value.op == "tuple" and len(value.args) == len(target.elts) and not starred
                unpacked = "opaque" if starred else "unpack"
                part = value.args[position] if known else self.new(unpacked, value, data=position)
                self.bind(element.value if isinstance(element, ast.Starred) else element, part, statement)
        elif isinstance(target, ast.Attribute):
            self.flow.stores.append(Store("attribute", ast.unparse(target), value, statement))
        elif isinstance(target, ast.Subscript):
            old = self.expression(target.value)
            changed = self.new("setitem", old, value, data=target.slice)
            self.overwrite(old, changed)
            self.flow.stores.append(Store("item", ast.unparse(target.value), changed, statement))

    # --- expressions ------------------------------------------------------------------------------------------

    def expression(self, node: ast.expr) -> Value:
        handler = getattr(self, f"see_{type(node).__name__}", None)
        value: Value = handler(node) if handler is not None else self.opaque(node)
        return value

    def opaque(self, node: ast.expr) -> Value:
        value = self.new("opaque", *self.inside(node), node=node)
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                self.names[inner.target.id] = self.new("opaque")
        return value

    def inside(self, node: ast.AST) -> list[Value]:
        """What the names that are read anywhere in a node stand for."""
        read = [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]
        return [self.names[name] for name in read if name in self.names]

    def see_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self.expression(node.value)
        self.names[node.target.id] = value
        return value

    def see_Name(self, node: ast.Name) -> Value:
        if node.id in self.names:
            return self.names[node.id]
        return self.new("global", node=node, data=self.index.resolve(node))

    def see_Constant(self, node: ast.Constant) -> Value:
        return self.new("const", node=node, data=node.value)

    def see_Attribute(self, node: ast.Attribute) -> Value:
        path = self.self_path(node)
        if path is not None:
            return self.new("attr", node=node, data=path)
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id not in self.names:
            return self.new("global", node=node, data=self.index.resolve(node))
        base = self.expression(node.value)
        if node.attr in ("T", "mT"):
            return self.new("transpose", base, self.new("const", data=-2), self.new("const", data=-1), node=node)
        return self.new("shape" if node.attr == "shape" else "getattr", base, node=node, data=node.attr)

    def self_path(self, node: ast.expr) -> str | None:
        """`a.b` for `self.a.b`."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == self.flow.self_name and node.id not in self.names:
            return ".".join(reversed(names))
        return None

    def see_Tuple(self, node: ast.Tuple | ast.List) -> Value:
        if any(isinstance(element, ast.Starred) for element in node.elts):
            return self.opaque(node)
        return self.new("tuple", *(self.expression(element) for element in node.elts), node=node)

    see_List = see_Tuple

    def see_BinOp(self, node: ast.BinOp) -> Value:
        op = BINARY.get(type(node.op), "opaque")
        return self.new(op, self.expression(node.left), self.expression(node.right), node=node)

    def see_UnaryOp(self, node: ast.UnaryOp) -> Value:
        operand = self.expression(node.operand)
        if isinstance(node.op, ast.USub):
            if operand.op == "const" and isinstance(operand.data, int | float):
                return self.new("const", node=node, data=-operand.data)
            return self.new("neg", operand, node=node)
        return self.new("not" if isinstance(node.op, ast.Not | ast.Invert) else "opaque", operand, node=node)

    def see_Compare(self, node: ast.Compare) -> Value:
        if len(node.ops) != 1:
            return self.opaque(node)
        left, right = self.expression(node.left), self.expression(node.comparators[0])
        return self.new(COMPARE[type(node.ops[0])], left, right, node=node)

    def see_BoolOp(self, node: ast.BoolOp) -> Value:
        op = "and" if isinstance(node.op, ast.And) else "or"
        return self.new(op, *(self.expression(value) for value in node.values), node=node)

    def see_IfExp(self, node: ast.IfExp) -> Value:
        condition = self.expression(node.test)
        return self.new("phi", condition, self.expression(node.body), self.expression(node.orelse), node=node)

    def see_Subscript(self, node: ast.Subscript) -> Value:
        base = self.expression(node.value)
        index = node.slice
        position = index.value if isinstance(index, ast.Constant) else None
        if base.op == "tuple" and isinstance(position, int) and position < len(base.args):
            return base.args[position]
        if base.op == "shape":
            return self.new("size", base.args[0], self.expression(index), node=node)
        return self.new("getitem", base, *self.inside(index), node=node, data=index)

    def see_Call(self, node: ast.Call) -> Value:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            return self.opaque(node)
        path = self.self_path(node.func)
        called = self.callee(node.func) if path is None else None
        receiver = called[1] if called else []
        args = [*receiver, *(self.expression(arg) for arg in node.args)]
        keywords = {k.arg: self.expression(k.value) for k in node.keywords if k.arg}
        if path is not None:
            return self.submodule(node, path, args, keywords)
        assert called is not None
        op, data = called[0], called[2]
        if op == "float":
            return self.float_of(node, args)
        value = self.new(op, *args, node=node, data=data, keywords=keywords)
        in_place = isinstance(data, str) and data.endswith("_") and not data.endswith("__")
        inside = keywords.get("inplace")
        if args and (in_place or (inside is not None and not inside.is_const(False))):
            self.overwrite(args[0], value)
        if "out" in keywords:
            self.overwrite(keywords["out"], value)
        return value

    def overwrite(self, old: Value, new: Value) -> None:
        """x.mul_(...) and x[...] = y change what all names of x and of its views stand for."""
        memory = roots(old)
        for name, held in self.names.items():
            if held is old:
                self.names[name] = new
            elif held is not new and memory & roots(held):
                self.names[name] = self.new("opaque", held)

    def callee(self, func: ast.expr) -> tuple[str, list[Value], Any]:
        """(op, receiver, data) of a call that is no submodule's."""
        if isinstance(func, ast.Name) and func.id in self.names:
            return "call_local", [self.names[func.id]], func.id
        name = self.index.resolve(func) if self.is_global(func) else None
        if name is not None:
            return FUNCTIONS.get(name, "float" if name == "float" else "call"), [], name
        if isinstance(func, ast.Attribute):
            return METHODS.get(func.attr, "method"), [self.expression(func.value)], func.attr
        return "opaque", [self.expression(func)], None

    def is_global(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id not in self.names and node.id != self.flow.self_name

    def submodule(self, node: ast.Call, path: str, args: list[Value], keywords: dict[str, Value]) -> Value:
        """A call of `self.path`: of a parameter-free module its operation, of a tensor attribute its method."""
        owner = self.flow.owner
        assigned = owner.attribute(path) if owner is not None else None
        if isinstance(assigned, ast.Call):
            op = MODULES.get(self.index.resolve(assigned.func) or "")
            if op is not None:
                dim = next((k.value for k in assigned.keywords if k.arg == "dim"), None)
                dim = dim or next(iter(assigned.args), None)
                if op == "softmax" and dim is not None:
                    keywords = {**keywords, "dim": self.expression(dim)}
                return self.new(op, *args, node=node, data=f"self.{path}", keywords=keywords)
        base, _, method = path.rpartition(".")
        if base and method in METHODS and not (owner is not None and method in owner.methods):
            root = node.func
            assert isinstance(root, ast.Attribute)
            receiver = self.new("attr", node=root.value, data=base)
            return self.new(METHODS[method], receiver, *args, node=node, data=method, keywords=keywords)
        if owner is not None and path in owner.methods:
            return self.new("self_call", *args, node=node, data=path, keywords=keywords)
        return self.new("module", *args, node=node, data=path, keywords=keywords)

    def float_of(self, node: ast.Call, args: list[Value]) -> Value:
        if len(args) == 1 and args[0].op == "const" and isinstance(args[0].data, str | int | float):
            try:
                return self.new("const", node=node, data=float(args[0].data))
            except ValueError:
                pass
        return self.new("to", *args, node=node)
