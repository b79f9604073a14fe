"""Additive sinusoidal positions: who computes them, and who adds them to what.

A sinusoid is recognised by its numbers: the term that is added to x is evaluated at a few rows and columns and has to
be sin or cos of position / base^(2i/C) at each of them.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

from migrator.recognise.arithmetic import FUNCTIONS
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.shapes import arange_length, grid_axis, size_of
from migrator.recognise.tables import reads_from_the_start, table_of
from migrator.recognise.trial.waves import added_waves, may_make_waves
from migrator.recognise.values import Flow, Value, strip

_BASES = (10000.0, 53.0)
_POINTS = ((0, 0, 4), (1, 0, 4), (1, 1, 4), (3, 2, 6), (7, 5, 6), (11, 4, 7), (2, 6, 7))


@dataclass(eq=False)
class Sinusoid:
    """`x + table(x.size(1), x.size(2))` in a method of `owner`; `base` is an attribute path or a number.

    `same_rounding` tells whether the runtime computes the table in the very same order of operations. `term` is the
    table. `total.node` is None for `x += table`.
    """

    owner: ClassInfo
    flow: Flow
    x: Value
    term: Value
    total: Value
    base: str | float
    same_rounding: bool


def sinusoids(index: FileIndex) -> list[Sinusoid]:
    """Every addition of a sinusoid that is computed in place."""
    found: list[Sinusoid] = []
    for info in index.modules.values():
        if not may_make_waves(info):
            continue
        for name, method in info.methods.items():
            if name != "__init__":
                flow = flow_of(index, info.definition, method, info)
                found.extend(_in_flow(info, flow) or _tried(info, flow))
    return found


def _tried(info: ClassInfo, flow: Flow) -> list[Sinusoid]:
    """Sums whose sinusoid is not one expression: it is written into a table, or comes from a function."""
    key = ("tried", flow.function)
    if key not in info.index.memo:
        info.index.memo[key] = added_waves(info, flow.function) if _computes_a_wave(info, flow) else []
    found: list[Sinusoid] = []
    for one in info.index.memo[key]:
        total = next((value for value in flow.of("add") if _stands_at(value, one.node)), None)
        if total is not None:
            x, term = total.args[1 - one.side], total.args[one.side]
            found.append(Sinusoid(info, flow, x, term, total, one.base, False))
    return found


def _computes_a_wave(info: ClassInfo, flow: Flow) -> bool:
    """Whether the method, or another one or a function that it calls, has a sine in it."""
    source = info.definition.source
    texts = [source(method) for name, method in info.methods.items() if name != "__init__" and flow.of("self_call")]
    texts += [one.text for name, one in info.index.functions.items() if any(v.data == name for v in flow.of("call"))]
    return any("sin(" in text for text in (source(flow.function), *texts))


def _stands_at(value: Value, node: ast.expr) -> bool:
    """Whether a sum is this one; of `x += table` only the place is known."""
    if value.node is not None or not isinstance(value.statement, ast.AugAssign):
        return value.node is node
    target = value.statement.target
    return (target.lineno, target.col_offset) == (node.lineno, node.col_offset)


def carriers(index: FileIndex) -> dict[str, ClassInfo]:
    """Classes whose whole forward is to add sinusoidal positions to their input; dropout may follow."""
    added = {id(one.total) for one in sinusoids(index) if one.total.node is not None}
    table: dict[str, ClassInfo] = {}
    for info in index.modules.values():
        forward = info.methods.get("forward")
        if forward is None or not _may_carry(info):
            continue
        flow = flow_of(index, info.definition, forward, info)
        if len(flow.returns) == 1:
            value = _before_dropout(flow.returns[0][0])
            if id(value) in added or (value.op == "module" and value.data in encodings(info)) or _adds(info, value):
                table[info.name] = info
    return table


def dropout_of(carrier: ClassInfo) -> str:
    """The attribute of a carrier that drops a part of the sum, or ""."""
    flow = flow_of(carrier.index, carrier.definition, carrier.methods["forward"], carrier)
    value = strip(flow.returns[0][0])
    return value.data.removeprefix("self.") if value.op == "dropout" and isinstance(value.data, str) else ""


def _before_dropout(value: Value) -> Value:
    value = strip(value)
    held = value.op == "dropout" and isinstance(value.data, str) and value.data.startswith("self.")
    return strip(value.args[0]) if held else value


def _adds(info: ClassInfo, value: Value) -> bool:
    """`x + self.table[:, : x.size(1)]`, with a table that `__init__` made."""
    if value.op != "add" or not any(arg.op == "param" for arg in value.args):
        return False
    kept = table_of(info)
    return kept is not None and any(reads_from_the_start(arg, kept) for arg in value.args)


def encodings(info: ClassInfo) -> set[str]:
    """Attributes of a class that are the runtime's sinusoidal encoding."""
    return {
        name
        for name in info.attributes
        if isinstance(value := info.attribute(name), ast.Call)
        and info.index.resolve(value.func) == "runtime.SinusoidalPositionalEncoding"
    }


def _may_carry(info: ClassInfo) -> bool:
    return "sin" in info.definition.text.lower() or may_make_waves(info)


def _in_flow(info: ClassInfo, flow: Flow) -> list[Sinusoid]:
    found: list[Sinusoid] = []
    for value in flow.of("add"):
        if len(value.args) != 2 or value.keywords:
            continue
        for x, term in (value.args, value.args[::-1]):
            base = _base(x, term)
            if base is not None:
                found.append(Sinusoid(info, flow, x, term, value, base, _same_rounding(term)))
                break
    return found


def _base(x: Value, term: Value) -> str | float | None:
    """The base of the sinusoid that `term` is for an input x, if it is one."""
    if not _contains(term, {"sin", "cos"}):
        return None
    candidates: set[str | float] = set()
    for value in _operands(term):
        if value.op == "attr":
            candidates.add(value.data)
        elif value.op == "const" and isinstance(value.data, int | float) and value.data > 10:
            candidates.add(float(value.data))
    return next((base for base in sorted(candidates, key=str) if _agrees(x, term, base)), None)


def _agrees(x: Value, term: Value, base: str | float) -> bool:
    for row, column, width in _POINTS:
        for number in _BASES if isinstance(base, str) else (base,):
            grid = _Grid(x, row, column, width, {base: number} if isinstance(base, str) else {})
            try:
                value = grid.evaluate(term)
            except (ArithmeticError, ValueError, KeyError, _Unknown):
                return False
            even = column - column % 2
            angle = row / number ** (even / width) + math.pi / 2 * (column % 2)
            if abs(value - math.sin(angle)) > 1e-9:
                return False
    return True


class _Unknown(Exception):
    pass


@dataclass
class _Grid:
    """Evaluates a value at one row and column of the table."""

    x: Value
    row: int
    column: int
    width: int
    attributes: dict[str, float]

    def evaluate(self, value: Value) -> float:
        value = strip(value)
        if value.op == "const" and isinstance(value.data, int | float):
            return float(value.data)
        if value.op == "attr":
            return self.attributes[value.data]
        if value.op == "global" and value.data == "math.pi":
            return math.pi
        size = size_of(value)
        if size is not None:
            return self.size(size)
        axis = grid_axis(value)
        if axis is not None:
            return self.place(value, axis)
        return self.operation(value)

    def size(self, size: tuple[Value, int]) -> float:
        tensor, axis = size
        if tensor is not self.x or axis not in (2, -1):
            raise _Unknown
        return float(self.width)

    def place(self, value: Value, axis: int) -> float:
        """A row or column number, if the arange runs over just that axis of x."""
        length = arange_length(value)
        size = size_of(length) if length is not None else None
        wanted = (1, -2) if axis == -2 else (2, -1)
        if size is None or size[0] is not self.x or size[1] not in wanted:
            raise _Unknown
        return float(self.row if axis == -2 else self.column)

    def operation(self, value: Value) -> float:
        if value.op in ("to", "float") and value.args:
            return self.evaluate(value.args[0])
        args = [self.evaluate(arg) for arg in value.args]
        function = FUNCTIONS.get(value.op)
        if function is None or len(args) != function[0] or (value.op in ("add", "sub") and "alpha" in value.keywords):
            raise _Unknown
        return function[1](*args)


def _same_rounding(term: Value) -> bool:
    """Whether the term is sin(u / base ** ((j - k) / C) + pi / 2 * k) operation by operation, in the default dtype."""
    term = strip(term)
    aranges = [value for value in _operands(term) if value.op == "arange"]
    if term.op != "sin" or any(value.keywords.keys() - {"device"} for value in aranges):
        return False
    angle = strip(term.args[0])
    if angle.op != "add":
        return False
    one, other = (strip(arg) for arg in angle.args)
    quotient, phase = (one, other) if one.op == "div" and grid_axis(one.args[0]) == -2 else (other, one)
    if quotient.op != "div" or grid_axis(quotient.args[0]) != -2 or quotient.args[1].op != "pow":
        return False
    power = quotient.args[1]
    exponent = strip(power.args[1])
    parity = phase.args[1] if phase.op == "mul" else phase
    forms = exponent.op == "div" and strip(exponent.args[0]).op == "sub" and size_of(exponent.args[1]) is not None
    quarter = phase.op == "mul" and phase.args[0].op == "div" and phase.args[0].args[0].data == "math.pi"
    return forms and quarter and parity.op == "mod"


def _operands(value: Value) -> list[Value]:
    seen: list[Value] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.append(one)
            todo.extend(one.operands())
    return seen


def _contains(value: Value, ops: set[str]) -> bool:
    return any(one.op in ops for one in _operands(value))
