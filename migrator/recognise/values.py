"""The values that a function computes, as data: what `dataflow` builds and every recogniser reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.operations import TRANSPARENT, VIEWS
from migrator.recognise.syntax import FunctionNode


@dataclass(eq=False)
class Value:
    """A value: `op` of `args`. `node` is where it is written and `statement` the statement around it.

    Ops without operands: "param" and "global" (data: name), "attr" (data: dotted path below self), "const" (data:
    the constant), "opaque". "module" is a call of a submodule (data: its path); "call" of any other function (data:
    resolved name or None); "phi" has (condition, value if true, value if false); "getitem" has data: the slices.
    """

    op: str
    args: tuple[Value, ...] = ()
    keywords: dict[str, Value] = field(default_factory=dict)
    data: Any = None
    node: ast.expr | None = None
    statement: ast.stmt | None = None
    users: list[Value] = field(default_factory=list, repr=False)
    keeps_rank: bool = False  # a "module" that gives out as many dimensions as it gets
    dormant: bool = False  # what a name stands for where branches meet, as long as nobody reads it

    def __post_init__(self) -> None:
        if not self.dormant:
            self.use_operands()

    def use_operands(self) -> None:
        for operand in self.operands():
            operand.wake()
            operand.users.append(self)

    def wake(self) -> None:
        """Somebody reads the value: from now on its operands are used."""
        if self.dormant:
            self.dormant = False
            self.use_operands()

    def operands(self) -> Iterator[Value]:
        yield from self.args
        yield from self.keywords.values()

    def argument(self, position: int, keyword: str) -> Value | None:
        """Operand by position or by keyword."""
        if len(self.args) > position:
            return self.args[position]
        return self.keywords.get(keyword)

    def is_const(self, value: object) -> bool:
        return self.op == "const" and type(self.data) is type(value) and self.data == value


@dataclass(eq=False)
class Store:
    """`self.name = value`, `name[...] = value` or a call made only for its effect."""

    kind: str  # attribute | item | effect
    name: str
    value: Value
    statement: ast.stmt


@dataclass(eq=False)
class Flow:
    """Dataflow of one function: every value in order, what it returns, what it stores.

    Where one call of it is meant, `dropouts` are the parameters that an nn.Dropout is handed in for, and `unwanted`
    says that of several results the caller looks at the first alone.
    """

    function: FunctionNode
    owner: ClassInfo | None
    definition: Definition
    index: FileIndex
    self_name: str = "self"
    values: list[Value] = field(default_factory=list)
    returns: list[tuple[Value, ast.Return]] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    before: dict[ast.stmt, dict[str, Value]] = field(default_factory=dict)
    assigned: dict[ast.stmt, list[Value]] = field(default_factory=dict)
    around: dict[ast.stmt, ast.stmt | None] = field(default_factory=dict)  # the innermost `with`
    bounds: dict[ast.expr, Value] = field(default_factory=dict)  # what the ends of slices stand for
    deleted: dict[ast.stmt, list[Value]] = field(default_factory=dict)  # what `del name` names
    returned_early: bool = False
    dropouts: frozenset[str] = frozenset()
    unwanted: bool = False

    def of(self, op: str) -> list[Value]:
        return [value for value in self.values if value.op == op]

    def parameter(self, name: str) -> Value | None:
        return next((value for value in self.values if value.op == "param" and value.data == name), None)

    def text_at(self, value: Value, statement: ast.stmt, given: Value | None = None) -> str | None:
        """Source for `value` that is right where `statement` stands: a name that holds it, else its own text.

        With `given` it need only be right where that condition holds.
        """
        name = self.name_at(value, statement, given)
        if name is not None:
            return name
        if value.node is None or any(isinstance(node, ast.NamedExpr) for node in ast.walk(value.node)):
            return None
        elsewhere = value.statement is not None and value.statement is not statement
        if elsewhere and not self._still_holds(value, statement, given):
            return None
        return self.definition.source(value.node)

    def name_at(self, value: Value, statement: ast.stmt, given: Value | None = None) -> str | None:
        """A name that holds the value when control comes to `statement`."""
        names = self._names_at(statement, given)
        return next((name for name, held in names.items() if held is value), None)

    def named_in(self, value: Value, statement: ast.stmt, given: Value | None = None) -> list[Value]:
        """What the names in `value`'s text stand for at `statement`."""
        names = self._names_at(statement, given)
        words = ast.walk(value.node) if value.node is not None else ()
        return [names[node.id] for node in words if isinstance(node, ast.Name) and node.id in names]

    def _names_at(self, statement: ast.stmt, given: Value | None) -> dict[str, Value]:
        return {name: side(held, given) for name, held in self.before.get(statement, {}).items()}

    def _still_holds(self, value: Value, statement: ast.stmt, given: Value | None) -> bool:
        """Whether the names inside `value`'s text mean at `statement` what they meant where it was written."""
        assert value.node is not None and value.statement is not None
        then, now = self.before[value.statement], self._names_at(statement, given)
        names = {node.id for node in ast.walk(value.node) if isinstance(node, ast.Name)}
        attributes = {ast.unparse(node) for node in ast.walk(value.node) if isinstance(node, ast.Attribute)}
        if self.around.get(value.statement) is not self.around.get(statement):
            return False
        if any(store.kind == "attribute" and store.name in attributes for store in self.stores):
            return False
        return all(then.get(name) is now.get(name) for name in names)


def walked(item: Value) -> Value | None:
    """What a loop walks over, given the item it has at hand: `xs` in `for x in xs` and `for i, x in enumerate(xs)`."""
    if item.op == "unpack" and item.data == 1:
        item = item.args[0]
    source = item.args[0] if item.op == "element" else None
    if source is not None and source.op == "call" and source.data == "enumerate" and source.args:
        source = source.args[0]
    return source


def side(value: Value, given: Value | None) -> Value:
    """What a value is where `given` holds: of two branches that met, the one that was run."""
    while given is not None and value.op == "phi":
        if value.args[0] is given:
            value = value.args[1]
        elif given.op == "not" and given.node is None and value.args[0] is given.args[0]:
            value = value.args[2]
        else:
            break
    return value


def made_by(flow: Flow, value: Value) -> str:
    """The class of the module that a call runs, or "" where `__init__` does not say it in one way."""
    made = flow.owner.attribute(value.data) if flow.owner is not None and value.op == "module" else None
    return (flow.owner.index.resolve(made.func) or "") if flow.owner is not None and isinstance(made, ast.Call) else ""


def strip(value: Value) -> Value:
    """The value behind operations that do not change what it is."""
    while value.op in TRANSPARENT and value.args:
        value = value.args[0]
    return value


def place_of(value: Value) -> int | None:
    """The place of the one element that is taken: 0 of `x, y = z` and `z[0]`, -1 of `z[-1]`; None for anything else."""
    place = value.data if value.op in ("unpack", "getitem") else None
    sign = -1 if isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub) else 1
    inner = place.operand if isinstance(place, ast.UnaryOp) else place
    number = inner.value if isinstance(inner, ast.Constant) else inner
    return sign * number if isinstance(number, int) and not isinstance(number, bool) else None


def roots(value: Value) -> set[Value]:
    """The values whose memory a value shares, as far as views and branches go."""
    found: set[Value] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if one.op in VIEWS and one.args and one.args[0].op != "shape":
            todo.append(one.args[0])
        elif one.op in ("phi", "loop", "looped", "tuple"):
            todo.extend(arg for arg in one.args if arg not in found and arg.op != "const")
        elif one.op == "getattr" and one.data in ("data", "T", "mT"):
            todo.append(one.args[0])
        found.add(one)
    return {one for one in found if one.op != "const" and (one.op not in VIEWS or one.args[0].op == "shape")}
