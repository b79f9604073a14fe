"""What expressions come to, on sizes that are made up."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter
from migrator.recognise.trial import library
from migrator.recognise.trial.arrays import Array, Item, Unknown
from migrator.recognise.trial.library import combine, number_or_array

_STEPS = 60_000
FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, Unknown)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: library.power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_LIBRARIES = ("torch.", "numpy.", "math.")
NOTHING = object()  # what cannot be told


@dataclass(eq=False)
class Stream:
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]


@dataclass(eq=False)
class Kept:
    """A table in an nn.Parameter or an nn.Embedding, and whether it is learned."""

    table: Array
    kind: str
    learned: bool


class Given(int):
    """What a parameter of `__init__` is given: a size, and also the object that has it as an attribute."""


@dataclass(eq=False)
class Closure:
    function: FunctionNode
    scope: dict[str, object]
    bound: bool = False  # a method, whose `self` is known


@dataclass(frozen=True, eq=False)
class Sum:
    """A table that was added to something unknown: on the left (0) or on the right (1) side of `node`."""

    node: ast.expr
    table: Array
    side: int


@dataclass(eq=False)
class Machine:
    """What all calls of one trial share: `self`'s attributes, and what was added to a stream, and where."""

    index: FileIndex
    owner: ClassInfo | None = None
    attributes: dict[str, object] = field(default_factory=dict)
    sums: list[Sum] = field(default_factory=list)
    steps: int = 0


class Expressions:
    """One call: the names of a function and what they stand for. A method for each kind of expression."""

    def __init__(self, machine: Machine, names: dict[str, object], self_name: str) -> None:
        self.machine, self.names, self.self_name = machine, names, self_name

    def bind(self, target: ast.expr, value: object) -> None:
        raise NotImplementedError

    def inner(self, names: dict[str, object], self_name: str) -> Any:
        """Another call, or the scope of a comprehension."""
        raise NotImplementedError

    def is_own(self, node: ast.AST) -> bool:
        """`self.name`"""
        return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.self_name

    def expression(self, node: ast.expr) -> Any:
        self.count()
        handler = getattr(self, f"see_{type(node).__name__}", None)
        value = handler(node) if handler is not None else _unknown()
        if isinstance(value, Array):
            value.check()
        return value

    def count(self) -> None:
        """Steps are limited, since a loop may be long."""
        self.machine.steps += 1
        if self.machine.steps > _STEPS:
            raise Unknown

    def whole(self, node: ast.expr) -> int:
        value = self.expression(node)
        if not isinstance(value, int):
            raise Unknown
        return int(value)

    def walk(self, value: object) -> Iterator[object]:
        if isinstance(value, Array) and value.shape:
            yield from (number_or_array(value.part([row])) for row in range(value.shape[0]))
        elif isinstance(value, list | tuple | range):
            yield from value
        else:
            raise Unknown

    def see_Constant(self, node: ast.Constant) -> object:
        return node.value

    def see_Name(self, node: ast.Name) -> object:
        if node.id in self.names:
            return self.names[node.id]
        constant = self.machine.index.constants.get(node.id)
        if constant is None:
            raise Unknown
        return self.inner({}, "").expression(constant)

    def see_Tuple(self, node: ast.Tuple) -> object:
        return tuple(self.expression(element) for element in node.elts)

    def see_List(self, node: ast.List) -> object:
        return [self.expression(element) for element in node.elts]

    def see_Attribute(self, node: ast.Attribute) -> object:
        if self.is_own(node):
            if node.attr not in self.machine.attributes:
                raise Unknown
            return self.machine.attributes[node.attr]
        name = self.machine.index.resolve(node)
        if name in ("math.pi", "math.e"):
            return math.pi if name == "math.pi" else math.e
        if name == "numpy.newaxis":
            return None
        value = self.expression(node.value)
        if isinstance(value, Given):
            return value
        if node.attr == "shape" and isinstance(value, Array | Stream):
            return value.shape
        if node.attr == "T" and isinstance(value, Array):
            return value.permuted(range(len(value.shape))[::-1]).view_of(value)
        if node.attr in ("device", "dtype"):
            return None
        if node.attr in ("data", "weight") and isinstance(value, Array | Kept):
            return value.table if isinstance(value, Kept) else value
        raise Unknown

    def see_BinOp(self, node: ast.BinOp) -> object:
        sides = []
        for side in (node.left, node.right):
            try:
                sides.append(self.expression(side))
            except FAILURES:
                sides.append(NOTHING)
        left, right = sides
        tables = [side for side in sides if isinstance(side, Array)]
        unknown = any(side is NOTHING or isinstance(side, Stream) for side in sides)
        if isinstance(node.op, ast.Add) and unknown and tables:
            self.machine.sums.append(Sum(node, tables[0], sides.index(tables[0])))
        streams = [side for side in sides if isinstance(side, Stream)]
        if streams and NOTHING not in sides:
            return streams[0]
        return combine(_BINARY[type(node.op)], left, right)

    def see_UnaryOp(self, node: ast.UnaryOp) -> object:
        value = self.expression(node.operand)
        if isinstance(node.op, ast.Not):
            return not value
        if not isinstance(node.op, ast.USub):
            raise Unknown
        return value.map(operator.neg) if isinstance(value, Array) else -value

    def see_Compare(self, node: ast.Compare) -> object:
        left, right = self.expression(node.left), self.expression(node.comparators[0])
        operation = _COMPARE.get(type(node.ops[0]))
        if operation is None or len(node.ops) > 1 or isinstance(left, Array) or isinstance(right, Array):
            raise Unknown
        return operation(left, right)

    def see_IfExp(self, node: ast.IfExp) -> object:
        return self.expression(node.body if self.expression(node.test) else node.orelse)

    def see_Subscript(self, node: ast.Subscript) -> object:
        value = self.expression(node.value)
        if isinstance(value, Array):
            return number_or_array(value.part(self.items(node.slice)).view_of(value))
        if isinstance(value, list | tuple):
            place = self.item(node.slice)
            return value[place] if place is not None else _unknown()
        raise Unknown

    def items(self, node: ast.expr) -> list[Item]:
        return [self.item(one) for one in (node.elts if isinstance(node, ast.Tuple) else [node])]

    def item(self, node: ast.expr) -> Item:
        if isinstance(node, ast.Slice):
            ends = (node.lower, node.upper, node.step)
            return slice(*(None if end is None else self.whole(end) for end in ends))
        value = self.expression(node)
        return None if value is None else self.whole(node)

    def see_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> list[object]:
        frame = self.inner(dict(self.names), self.self_name)
        return list(frame.comprehend(node.elt, node.generators))

    see_GeneratorExp = see_ListComp

    def comprehend(self, element: ast.expr, generators: list[ast.comprehension]) -> Iterator[object]:
        if not generators:
            yield self.expression(element)
            return
        for item in self.walk(self.expression(generators[0].iter)):
            self.bind(generators[0].target, item)
            if all(self.expression(test) for test in generators[0].ifs):
                yield from self.comprehend(element, generators[1:])

    # --- calls ------------------------------------------------------------------------------------------------------

    def see_Call(self, node: ast.Call) -> object:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise Unknown
        closure = self.closure(node.func)
        if closure is not None:
            return self.enter(closure, node)
        name = self.machine.index.resolve(node.func) or ""
        if name.startswith(_LIBRARIES) and not self.is_local(node.func):
            return self.library(name, node)
        if isinstance(node.func, ast.Name) and node.func.id in library.BUILTINS and node.func.id not in self.names:
            given = [self.expression(arg) for arg in node.args]
            return library.BUILTINS[node.func.id](*given) if library.is_small(given) else _unknown()
        if isinstance(node.func, ast.Attribute):
            return self.method(node.func.attr, self.expression(node.func.value), node)
        raise Unknown

    def is_local(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Name)
            and node.id in self.names
            or (isinstance(node, ast.Attribute) and self.is_local(node.value))
        )

    def closure(self, func: ast.expr) -> Closure | None:
        """A function of the file, a nested one, or a method of the class."""
        index, owner = self.machine.index, self.machine.owner
        if isinstance(func, ast.Name):
            held = self.names.get(func.id)
            definition = index.functions.get(func.id)
            if func.id in self.names or definition is None or not isinstance(definition.tree, FunctionNode):
                return held if isinstance(held, Closure) else None
            return Closure(definition.tree, {})
        if not isinstance(func, ast.Attribute) or not isinstance(func.value, ast.Name) or owner is None:
            return None
        if func.value.id in (self.self_name, owner.name) and func.attr in owner.methods:
            method = owner.methods[func.attr]
            plain = any(ast.unparse(decorator) == "staticmethod" for decorator in method.decorator_list)
            return Closure(method, {}, not plain and func.value.id == self.self_name)
        return None

    def enter(self, closure: Closure, node: ast.Call) -> object:
        spec = closure.function.args
        names = [arg.arg for arg in (*spec.posonlyargs, *spec.args)][int(closure.bound) :]
        scope = dict(closure.scope)
        for name, default in zip(names[::-1], spec.defaults[::-1], strict=False):
            scope[name] = self.expression(default)
        for arg, given in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if given is not None:
                scope[arg.arg] = self.expression(given)
        scope.update({name: self.expression(arg) for name, arg in zip(names, node.args, strict=False)})
        scope.update({k.arg: self.expression(k.value) for k in node.keywords if k.arg})
        self_name = first_parameter(closure.function) if closure.bound else self.self_name if closure.scope else ""
        return self.inner(scope, self_name).run(closure.function)

    def library(self, name: str, node: ast.Call) -> object:
        short = name.rpartition(".")[2]
        if name == "torch.nn.Parameter" or name == "torch.nn.Embedding.from_pretrained":
            return self.kept(name, node)
        if short == "arange":
            return library.counted([self.expression(arg) for arg in node.args])
        if short in library.FILLED:
            return self.filled(short, node)
        if short in ("cat", "concatenate", "concat", "stack"):
            return library.side_by_side(short, self.expression(node.args[0]), self.option(node, 1, ("dim", "axis"), 0))
        if short in ("outer", "ger"):
            return library.outer(*(self.expression(arg) for arg in node.args))
        if short == "einsum":
            equation, *factors = (self.expression(arg) for arg in node.args)
            return library.outer(*factors) if library.is_outer(equation) else _unknown()
        return self.method(short, self.expression(node.args[0]), ast.Call(node.func, node.args[1:], node.keywords))

    def kept(self, name: str, node: ast.Call) -> Kept:
        table = self.expression(node.args[0])
        if not isinstance(table, Array):
            raise Unknown
        if name == "torch.nn.Parameter":
            return Kept(table, "parameter", bool(self.option(node, 1, ("requires_grad",), True)))
        return Kept(table, "embedding", not self.option(node, 1, ("freeze",), True))

    def filled(self, short: str, node: ast.Call) -> Array:
        first = self.expression(node.args[0])
        if short.endswith("_like"):
            shape = first.shape
        else:
            shape = first if isinstance(first, tuple | list) else [self.expression(arg) for arg in node.args]
        return Array.full([int(size) for size in shape], library.FILLED[short])

    def option(self, node: ast.Call, place: int, names: tuple[str, ...], default: Any) -> Any:
        given = [k.value for k in node.keywords if k.arg in names] + node.args[place : place + 1]
        return self.expression(given[0]) if given else default

    def method(self, name: str, value: Any, node: ast.Call) -> object:
        if name in ("size", "dim") and isinstance(value, Array | Stream):
            axis = self.option(node, 0, ("dim",), None)
            return len(value.shape) if name == "dim" else value.shape if axis is None else value.shape[axis]
        if isinstance(value, Stream):
            return value if name in library.SAME else _unknown()
        if name in library.SAME:
            return Array.of(value).view_of(value) if isinstance(value, Array) else Array.of(value)
        function = library.ELEMENTWISE.get(name)
        if function is not None:
            return value.map(function) if isinstance(value, Array) else function(value)
        args = [self.expression(arg) for arg in node.args]
        if name in library.OF_TWO:
            return combine(library.OF_TWO[name], value, args[0])
        return library.moved(name, value, args).view_of(value) if isinstance(value, Array) else _unknown()


def _unknown() -> Any:
    raise Unknown
