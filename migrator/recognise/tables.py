"""Sinusoidal tables that `__init__` computes once and keeps: in a buffer, or in a plain attribute.

As in `positions`, a table is recognised by its numbers: it is evaluated at a few rows and columns, or, where it comes
from loops, from numpy or from a function, computed for small sizes.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

from migrator.recognise.arithmetic import FUNCTIONS
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo
from migrator.recognise.trial.waves import waves
from migrator.recognise.values import Flow, Value, strip

_POINTS = ((0, 0), (1, 0), (1, 1), (3, 2), (7, 5), (11, 4))
_WIDTHS = (6, 8)
_LAYOUT = frozenset({"unsqueeze", "transpose", "to", "float", "view", "contiguous", "detach"})


@dataclass(frozen=True)
class Table:
    """`self.attribute` holds sin and cos of position / base ** (2 i / width), side by side."""

    attribute: str
    base: float


def table_of(info: ClassInfo) -> Table | None:
    """The sinusoidal table that `__init__` of a class makes."""
    flow = method_flow(info, "__init__")
    if flow is None:
        return None
    if "sin" in info.definition.text and "arange" in info.definition.text:
        for name, value in _kept(flow):
            base = _base(value)
            if base is not None:
                return Table(name, base)
    tried = (wave for wave in waves(info) if not wave.learned and wave.empty is None and wave.kind != "embedding")
    return next((Table(wave.attribute, wave.base) for wave in tried), None)


def _kept(flow: Flow) -> list[tuple[str, Value]]:
    """What `__init__` keeps under a name: buffers, and attributes."""
    buffers = [value for value in flow.of("module") if value.data == "register_buffer" and len(value.args) >= 2]
    kept = [(str(value.args[0].data), value.args[1]) for value in buffers if value.args[0].op == "const"]
    prefix = f"{flow.self_name}."
    return kept + [(s.name.removeprefix(prefix), s.value) for s in flow.stores if s.kind == "attribute"]


def _base(value: Value) -> float | None:
    while value.op in _LAYOUT and value.args:
        value = value.args[0]
    if value.op != "setitem":
        return None
    numbers = (one.data for one in _operands(value) if one.op == "const")
    candidates = {float(number) for number in numbers if isinstance(number, int | float)}
    return next((base for base in sorted(candidates) if base > 10 and _agrees(value, base)), None)


def _agrees(table: Value, base: float) -> bool:
    for width in _WIDTHS:
        for row, column in _POINTS:
            try:
                found = _Cell(row, column, width).evaluate(table)
            except (ArithmeticError, ValueError, TypeError, _Unknown):
                return False
            angle = row / base ** ((column - column % 2) / width) + math.pi / 2 * (column % 2)
            if abs(found - math.sin(angle)) > 1e-9:
                return False
    return True


class _Unknown(Exception):
    pass


@dataclass(frozen=True)
class _Cell:
    """Evaluates a value at one place of the table. Whatever `__init__` is given is taken for the table's width."""

    row: int
    column: int
    width: int

    def evaluate(self, value: Value) -> float:
        value = strip(value)
        if value.op == "const" and isinstance(value.data, int | float):
            return float(value.data)
        if value.op in ("param", "attr"):
            return float(self.width)
        if value.op == "setitem":
            return self.after_setting(value)
        if value.op == "zeros":
            return 0.0
        if value.op == "arange":
            return self.counted(value, self.column)
        if _is_column(value):
            return self.counted(strip(value.args[0]), self.row)
        return self.operation(value)

    def after_setting(self, value: Value) -> float:
        """`table[:, 0::2] = new`: every other column comes from `new`."""
        items = value.data.elts if isinstance(value.data, ast.Tuple) else []
        if len(items) != 2 or not isinstance(items[1], ast.Slice) or not isinstance(items[0], ast.Slice | ast.Constant):
            raise _Unknown
        first, step = (_number(node, default) for node, default in ((items[1].lower, 0), (items[1].step, 1)))
        if self.column < first or (self.column - first) % step:
            return self.evaluate(value.args[0])
        return _Cell(self.row, (self.column - first) // step, self.width).evaluate(value.args[1])

    def counted(self, value: Value, place: int) -> float:
        """The element of an `arange` in this place."""
        while value.op in ("to", "float") and value.args:
            value = strip(value.args[0])
        if value.op != "arange" or not value.args:
            raise _Unknown
        start = self.evaluate(value.args[0]) if len(value.args) > 1 else 0.0
        return start + place * (self.evaluate(value.args[2]) if len(value.args) > 2 else 1.0)

    def operation(self, value: Value) -> float:
        if value.op in ("to", "float", "getitem") and value.args:  # `div_term[: width // 2]` drops the last columns
            return self.evaluate(value.args[0])
        function = FUNCTIONS.get(value.op)
        args = [self.evaluate(arg) for arg in value.args]
        if function is None or len(args) != function[0]:
            raise _Unknown
        return function[1](*args)


def _is_column(value: Value) -> bool:
    """`positions.unsqueeze(1)` and `positions[:, None]`."""
    if value.op == "unsqueeze":
        return len(value.args) == 2 and value.args[1].data in (1, -1)
    items = value.data.elts if value.op == "getitem" and isinstance(value.data, ast.Tuple) else []
    return len(items) == 2 and isinstance(items[0], ast.Slice) and isinstance(items[1], ast.Constant)


def _number(node: ast.expr | None, default: int) -> int:
    if node is None:
        return default
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int):
        raise _Unknown
    return node.value


def _operands(value: Value) -> set[Value]:
    seen, todo = {value}, [value]
    while todo:
        new = [one for one in todo.pop().operands() if one not in seen]
        seen.update(new)
        todo.extend(new)
    return seen


def adds_table(info: ClassInfo, table: Table) -> bool:
    """Whether forward gives out its input plus a part of the table, or that part alone; dropout and a scale may be."""
    flow = method_flow(info)
    if flow is None or not flow.returns:
        return False
    return all(_holds_table(value, table) for value, _ in flow.returns)


def reads_from_the_start(value: Value, table: Table) -> bool:
    """Whether a value is `self.table[:, : x.size(1)]`: as many positions as the input is long, and no chosen ones."""
    value = strip(value)
    while value.op in ("detach", "to") or (value.op == "method" and value.data == "requires_grad_"):
        value = strip(value.args[0])
    items = value.data.elts if isinstance(value.data, ast.Tuple) else [value.data]
    inner = value.args[0] if value.op == "getitem" else None
    at_table = inner is not None and inner.op == "attr" and inner.data == table.attribute
    return at_table and all(_is_front(item) for item in items)


def _is_front(item: ast.expr) -> bool:
    """`:`, `: n` and `0 : n`, for an n that is no constant."""
    if not isinstance(item, ast.Slice) or item.step is not None or isinstance(item.upper, ast.Constant):
        return False
    return item.lower is None or (isinstance(item.lower, ast.Constant) and item.lower.value == 0)


def _holds_table(value: Value, table: Table) -> bool:
    value = strip(value)
    if value.op == "dropout":
        return _holds_table(value.args[0], table)
    if value.op == "add":
        return any(_holds_table(arg, table) for arg in value.args)
    while (
        value.op in ("getitem", "detach", "to", "unsqueeze", "transpose", "expand", "expand_as", "method")
        and value.args
    ):
        value = strip(value.args[0])
    return value.op == "attr" and value.data == table.attribute
