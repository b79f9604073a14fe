"""What an expression computes, given what the names in it stand for."""

from __future__ import annotations

import ast
import builtins
from typing import Any

from migrator.recognise.conditions import Assumed, holds
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.operations import BINARY, COMPARE, FUNCTIONS, KEEP_RANK, METHODS, MODULES
from migrator.recognise.shapes import one_letter_each
from migrator.recognise.syntax import FunctionNode, answer, first_parameter
from migrator.recognise.values import Flow, Value, roots

_SCOPES = ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class Expressions:
    """Turns expressions into values: a method for each kind of node, `opaque` for the rest."""

    def __init__(
        self, index: FileIndex, definition: Definition, function: FunctionNode, owner: ClassInfo | None
    ) -> None:
        self.index = index
        self.names: dict[str, Value] = {}
        is_method = owner is not None and not any(
            isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list
        )
        self_name = first_parameter(function) if is_method else ""
        self.flow = Flow(function, owner, definition, index, self_name)
        self.assumed: Assumed = frozenset()
        self.statement: ast.stmt = function
        self.around: ast.stmt | None = None

    def new(
        self,
        op: str,
        *args: Value,
        node: ast.expr | None = None,
        data: Any = None,
        keywords: dict[str, Value] | None = None,
        dormant: bool = False,
    ) -> Value:
        value = Value(op, args, keywords or {}, data, node, self.statement, dormant=dormant)
        self.flow.values.append(value)
        return value

    def expression(self, node: ast.expr) -> Value:
        handler = getattr(self, f"see_{type(node).__name__}", None)
        value: Value = handler(node) if handler is not None else self.opaque(node)
        return value

    def opaque(self, node: ast.expr) -> Value:
        if isinstance(node, _SCOPES):
            value = self.new("opaque", *self.inside(node), node=node)
            for inner in ast.walk(node):
                if isinstance(inner, ast.NamedExpr):
                    self.names[inner.target.id] = self.new("opaque")
            return value
        return self.new("opaque", *self.parts(node), node=node)

    def parts(self, node: ast.AST) -> list[Value]:
        """The expressions directly inside a node that is not understood itself."""
        found: list[Value] = []
        for child in ast.iter_child_nodes(node):
            found += [self.expression(child)] if isinstance(child, ast.expr) else self.parts(child)
        return found

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
            self.names[node.id].wake()
            return self.names[node.id]
        known = node.id in self.index.imports or node.id in self.index.shadowed or hasattr(builtins, node.id)
        return self.new("global" if known else "free", node=node, data=self.index.resolve(node))

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
        stars = [place for place, element in enumerate(node.elts) if isinstance(element, ast.Starred)]
        if len(stars) == 1:
            inner = (e.value if isinstance(e, ast.Starred) else e for e in node.elts)
            return self.new("spread", *(self.expression(element) for element in inner), node=node, data=stars[0])
        if stars:
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
        answer = holds(node.test, self.assumed)
        if answer is not None:
            return self.expression(node.body if answer else node.orelse)
        condition = self.expression(node.test)
        return self.new("phi", condition, self.expression(node.body), self.expression(node.orelse), node=node)

    def see_Subscript(self, node: ast.Subscript) -> Value:
        base = self.expression(node.value)
        index = node.slice
        position = index.value if isinstance(index, ast.Constant) else None
        if base.op == "tuple" and isinstance(position, int) and position < len(base.args):
            return base.args[position]
        if base.op == "shape" or (base.op == "size" and len(base.args) == 1 and not base.keywords):
            return self.new("size", base.args[0], self.expression(index), node=node)
        return self.new("getitem", base, *self.parts(ast.Expr(index)), node=node, data=index)

    def see_Slice(self, node: ast.Slice) -> Value:
        bounds = {bound: self.expression(bound) for bound in (node.lower, node.upper, node.step) if bound is not None}
        self.flow.bounds.update(bounds)
        return self.new("slice", *bounds.values(), node=node)

    def see_Call(self, node: ast.Call) -> Value:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            return self.opaque(node)
        if isinstance(node.func, ast.Call):
            made = self.operation_of(node.func)
            if made is not None:  # nn.Softmax(dim=-1)(x)
                return self.apply_module(node, node.func, made, [self.expression(arg) for arg in node.args], {}, None)
        func = self.run_by(node.func)
        path = self.self_path(func)
        called = self.callee(func) if path is None else None
        receiver = called[1] if called else []
        args = [*receiver, *(self.expression(arg) for arg in self.argument_nodes(node))]
        keywords = {k.arg: self.expression(k.value) for k in node.keywords if k.arg}
        if path is not None:
            return self.submodule(node, path, args, keywords)
        assert called is not None
        op, data = called[0], called[2]
        if op == "float":
            return self.float_of(node, args)
        if op == "einops.einsum":
            return self.einops_einsum(node, args)
        if op == "call" and data in self.index.functions and not keywords:
            meant = self.meaning_of(node, self.index.functions[data].tree, args)
            if meant is not None:
                return meant
        value = self.new(op, *args, node=node, data=data, keywords=keywords)
        in_place = isinstance(data, str) and data.endswith("_") and not data.endswith("__")
        inside = keywords.get("inplace")
        if args and (in_place or (inside is not None and not inside.is_const(False))):
            self.overwrite(args[0], value)
        if "out" in keywords:
            self.overwrite(keywords["out"], value)
        return value

    def argument_nodes(self, node: ast.Call) -> list[ast.expr]:
        """The positional arguments; those of `torch.einsum(equation, [q, k])` one by one."""
        listed = node.args[1] if len(node.args) == 2 else None
        if isinstance(listed, ast.List | ast.Tuple) and self.index.resolve(node.func) == "torch.einsum":
            return [node.args[0], *listed.elts]
        return node.args

    def meaning_of(self, node: ast.Call, function: ast.stmt, args: list[Value]) -> Value | None:
        """What a call of a small function of the file means: `exists(x)` is `x is not None`."""
        said = answer(function)
        twins = [one for one in self.index.definitions if one.name == getattr(function, "name", "")]
        if said is None or len(twins) > 1 or len(args) != len(said[0]):
            return None
        outer, self.names = self.names, dict(zip(said[0], args, strict=True))
        first = len(self.flow.values)
        value = self.expression(said[1])
        self.names = outer
        for made in self.flow.values[first:]:
            made.node = None  # its text stands in another function
        value.node = node
        return value

    def einops_einsum(self, node: ast.Call, args: list[Value]) -> Value:
        """`einsum(q, k, "b h query d, b h key d -> b h query key")` with torch's letters."""
        *operands, pattern = args or [self.new("opaque")]
        equation = one_letter_each(pattern.data) if isinstance(pattern.data, str) else None
        if equation is None or node.keywords:
            return self.new("opaque", *args, node=node)
        return self.new("einsum", self.new("const", data=equation), *operands, node=node)

    def overwrite(self, old: Value, new: Value) -> None:
        """x.mul_(...) and x[...] = y change what all names of x and of its views stand for."""
        memory = roots(old)
        for name, held in self.names.items():
            if held is old:
                self.names[name] = new
            elif held is not new and memory & roots(held):
                self.names[name] = self.new("opaque", held)

    def run_by(self, func: ast.expr) -> ast.expr:
        """`self.attention` for `self.attention.forward`, which runs the same but for hooks."""
        if not isinstance(func, ast.Attribute) or func.attr != "forward":
            return func
        inner = func.value
        held = self.self_path(inner) is not None or (isinstance(inner, ast.Name) and inner.id in self.names)
        return inner if held else func

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
        assigned = owner.called(path) if owner is not None else None
        op = self.operation_of(assigned)
        if isinstance(assigned, ast.Call) and op is not None:
            return self.apply_module(node, assigned, op, args, keywords, f"self.{path}")
        steps = self.sequence_of(assigned)
        if steps and len(args) == 1 and not keywords:
            value = args[0]
            for place, (made, step) in enumerate(steps):
                value = self.apply_module(node, made, step, [value], {}, f"self.{path}[{place}]")
            return value
        base, _, method = path.rpartition(".")
        if base and method in METHODS and assigned is None and not (owner is not None and method in owner.methods):
            root = node.func
            assert isinstance(root, ast.Attribute)
            receiver = self.new("attr", node=root.value, data=base)
            return self.new(METHODS[method], receiver, *args, node=node, data=method, keywords=keywords)
        if owner is not None and path in owner.methods:
            return self.new("self_call", *args, node=node, data=path, keywords=keywords)
        value = self.new("module", *args, node=node, data=path, keywords=keywords)
        value.keeps_rank = isinstance(assigned, ast.Call) and self.index.resolve(assigned.func) in KEEP_RANK
        return value

    def operation_of(self, made: ast.expr | None) -> str | None:
        """The operation that a module such as `nn.Softmax(dim=-1)` is."""
        return MODULES.get(self.index.resolve(made.func) or "") if isinstance(made, ast.Call) else None

    def sequence_of(self, made: ast.expr | None) -> list[tuple[ast.Call, str]]:
        """The steps of `nn.Sequential(nn.Softmax(-1), nn.Dropout(p))`, if all of them are operations."""
        if not isinstance(made, ast.Call) or self.index.resolve(made.func) != "torch.nn.Sequential":
            return []
        steps = [(step, op) for step in made.args if isinstance(step, ast.Call) and (op := self.operation_of(step))]
        return steps if len(steps) == len(made.args) and not made.keywords else []

    def apply_module(
        self, node: ast.Call, made: ast.Call, op: str, args: list[Value], keywords: dict[str, Value], path: str | None
    ) -> Value:
        """A call of a module without parameters that `made` constructs; `path` tells where it is kept."""
        settings = {k.arg: k.value for k in made.keywords if k.arg}
        first = {"softmax": "dim", "dropout": "p"}.get(op)
        if first is not None and made.args:
            settings[first] = made.args[0]
        if first in settings and (path is None or first == "dim"):
            keywords = {**keywords, str(first): self.expression(settings[str(first)])}
        value = self.new(op, *args, node=node, data=path, keywords=keywords)
        in_place = settings.get("inplace", made.args[-1] if made.args and op not in ("softmax", "gelu") else None)
        if args and isinstance(in_place, ast.Constant) and in_place.value is True:
            self.overwrite(args[0], value)
        return value

    def float_of(self, node: ast.Call, args: list[Value]) -> Value:
        if len(args) == 1 and args[0].op == "const" and isinstance(args[0].data, str | int | float):
            try:
                return self.new("const", node=node, data=float(args[0].data))
            except ValueError:
                pass
        return self.new("to", *args, node=node)
