"""Which tables of a class are sinusoids, found by computing them for small sizes."""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import FunctionNode, bind
from migrator.recognise.trial.arrays import Array
from migrator.recognise.trial.expressions import FAILURES, Given, Kept, Machine, Stream
from migrator.recognise.trial.machine import run

_WIDTHS = (6, 8)
_LENGTH = 5
_ROWS = 12


@dataclass(frozen=True)
class Wave:
    """`self.attribute` holds sin and cos of position / base ** (2 i / width), side by side.

    `kind` is "buffer", "parameter" or "embedding". Where `empty` is not None, that row is all zeros.
    """

    attribute: str
    base: float
    kind: str = "buffer"
    learned: bool = False
    empty: int | None = None


def waves(info: ClassInfo) -> list[Wave]:
    """The sinusoidal tables that `__init__` of a class leaves in its attributes, whatever it is given."""
    key = ("waves", info.node)
    if key not in info.index.memo:
        info.index.memo[key] = list(_waves(info)) if may_make_waves(info) else []
    found: list[Wave] = info.index.memo[key]
    return found


def may_make_waves(info: ClassInfo) -> bool:
    """Whether the class, or a function that it names, has a sine in it."""
    texts = [definition.text for name, definition in info.index.functions.items() if name in info.definition.text]
    return any("sin(" in text for text in (info.definition.text, *texts))


def _waves(info: ClassInfo) -> Iterator[Wave]:
    trials = [_trial(info, width).attributes for width in _WIDTHS]
    for name in trials[0]:
        found = [_wave(name, trial.get(name), width) for trial, width in zip(trials, _WIDTHS, strict=True)]
        if found[0] is not None and all(wave == found[0] for wave in found):
            yield found[0]


def _trial(info: ClassInfo, width: int) -> Machine:
    """What `__init__` makes, if everything that it is given is this number."""
    machine = Machine(info.index, info)
    init = info.methods.get("__init__")
    if init is not None:
        with contextlib.suppress(*FAILURES):
            run(machine, init, _given(info, width))
    return machine


def _given(info: ClassInfo, width: int) -> dict[str, object]:
    """A number for each size; switches keep their default, if no call of the file sets them."""
    given: dict[str, object] = {}
    for name, default in info.init_parameters.items():
        if default is None or (isinstance(default, ast.Constant) and type(default.value) is int):
            given[name] = Given(width)
        elif isinstance(default, ast.Constant) and default.value in (None, True, False) and _keeps(info, name):
            given[name] = default.value
    return given


def _keeps(info: ClassInfo, name: str) -> bool:
    calls = [bind(info.init_parameters, site.call) for site in info.index.calls.get(info.name, [])]
    return all(bound is not None and bound.get(name) is info.init_parameters[name] for bound in calls)


def _wave(name: str, held: object, width: int) -> Wave | None:
    table = held.table if isinstance(held, Kept) else held
    current = isinstance(table, Array) and table.version == table.memory.version
    found = base_of(table, width) if isinstance(table, Array) and current else None
    if found is None:
        return None
    kind, learned = (held.kind, held.learned) if isinstance(held, Kept) else ("buffer", False)
    return Wave(name, found[0], kind, learned, found[1])


def base_of(table: Array, width: int) -> tuple[float, int | None] | None:
    """The base of a sinusoidal table, and which row of it is empty, if one is."""
    rows, columns = ([size for size in table.shape if size != 1] + [0, 0])[:2]
    if table.memory.lost or columns != width or rows < 3 or rows * columns != len(table.data):
        return None
    flat = table.reshaped((rows, columns))
    row = 1 if flat.at((1, 2)) else 2
    sine = flat.at((row, 2))
    angle = math.asin(sine) / row if 0 < sine < 1 else 1.0
    base = float(f"{(1 / angle) ** (width / 2):.9g}")
    empty = [row for row in range(rows) if not any(flat.at((row, column)) for column in range(columns))]
    told = [row for row in range(min(rows, _ROWS)) if row not in empty[:1]]
    if base <= 10 or not all(_agrees(flat, row, base, width) for row in told):
        return None
    return base, empty[0] if empty else None


def _agrees(table: Array, row: int, base: float, width: int) -> bool:
    for column in range(width):
        angle = row / base ** ((column - column % 2) / width) + math.pi / 2 * (column % 2)
        if not abs(table.at((row, column)) - math.sin(angle)) <= 1e-7:  # not a number is no sine either
            return False
    return True


@dataclass(frozen=True, eq=False)
class AddedWave:
    """A sinusoid, computed where it is needed, on one side of the sum `node`: 0 is the left side."""

    node: ast.expr
    side: int
    base: float


def added_waves(info: ClassInfo, method: FunctionNode) -> list[AddedWave]:
    """The sums of a method whose one side is a sinusoid as long and as wide as the input."""
    first, second = (_sums(info, method, width) for width in _WIDTHS)
    return [one for place, one in first.items() if place in second and second[place].base == one.base]


def _sums(info: ClassInfo, method: FunctionNode, width: int) -> dict[tuple[int, int], AddedWave]:
    machine = _trial(info, width)
    kept = [held.memory for held in machine.attributes.values() if isinstance(held, Array)]
    machine.sums, machine.steps = [], 0
    names = [arg.arg for arg in (*method.args.posonlyargs, *method.args.args)][1:]
    required = names[: len(names) - len(method.args.defaults)]
    with contextlib.suppress(*FAILURES):
        run(machine, method, {name: Stream((2, _LENGTH, width)) for name in required})
    found: dict[tuple[int, int], AddedWave] = {}
    for one in machine.sums:
        told = base_of(one.table, width) if _LENGTH in one.table.shape and one.table.memory not in kept else None
        if told is not None and told[1] is None:
            found[one.node.lineno, one.node.col_offset] = AddedWave(one.node, one.side, told[0])
    return found
