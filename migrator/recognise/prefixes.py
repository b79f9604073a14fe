"""Where a method that runs a causal stack can leave out the rows that were computed before.

The caller hands in the whole prefix. Rows are cut off after whatever shifts tokens, so that a shift still sees the
token before the first new one, and as early as possible otherwise, so that old rows cost nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.axes import POINTWISE, Lane, Mixed
from migrator.recognise.dataflow import method_flow
from migrator.recognise.lanes import Lanes
from migrator.recognise.positions import carriers
from migrator.recognise.slices import is_everything
from migrator.recognise.stacks import Stack
from migrator.recognise.syntax import parameters, walk_statements
from migrator.recognise.values import Flow, Value, made_by

_ROWS = Lane(-2, 3)
_ROW_MODULES = frozenset(
    f"torch.nn.{name}" for name in ("Embedding", "Linear", "LayerNorm", "RMSNorm", "Dropout", "Identity")
) | {"runtime.SinusoidalPositionalEncoding"}
_MOVED = frozenset({"layer_norm", "linear"})


@dataclass(frozen=True, eq=False)
class Cut:
    """Before `statement`, old rows are dropped from each of `names`; `sequences` are the parameters that bring them.

    A sequence is (name of the parameter, axis of its positions).
    """

    statement: ast.stmt
    names: tuple[tuple[str, Lane], ...]
    sequences: tuple[tuple[str, int], ...]


def find_cut(stack: Stack, passing: frozenset[str]) -> Cut | str:
    """The earliest place where old rows can go; or why there is none."""
    body = stack.flow.function.body
    last = next((n for n, statement in enumerate(body) if statement is stack.statement), None)
    if last is None:
        return f"`{stack.component.attribute}` is run inside of another statement"
    why = ""
    for place in range(last + 1):
        candidate = _Candidate(stack, passing, place)
        cut = candidate.cut()
        if cut is not None:
            return cut
        why = why or candidate.why  # the first place is nearest to the cause
    return why or f"what enters `{stack.component.attribute}` depends on positions in a way that is not understood"


def optional_side(flow: Flow, statement: ast.stmt) -> bool:
    """Whether a statement runs only where an argument is given that need not be, such as the targets of a loss."""
    defaults = parameters(flow.function)
    for outer in ast.walk(flow.function):
        if isinstance(outer, ast.If) and isinstance(outer.test, ast.Compare) and len(outer.test.ops) == 1:
            name = outer.test.left.id if isinstance(outer.test.left, ast.Name) else ""
            default = defaults.get(name)
            absent = isinstance(default, ast.Constant) and default.value is None
            given = {ast.IsNot: outer.body, ast.Is: outer.orelse}.get(type(outer.test.ops[0]), [])
            if absent and any(inner is statement for inner in walk_statements(given)):
                return True
    return False


class _Candidate:
    """One place, directly before a statement of the method's body."""

    def __init__(self, stack: Stack, passing: frozenset[str], place: int) -> None:
        self.stack, self.flow, self.passing = stack, stack.flow, passing
        body = stack.flow.function.body
        self.statement = body[place]
        self.earlier = {id(inner) for inner in walk_statements(body[:place])} | {id(stack.flow.function)}
        self.why = ""

    def cut(self) -> Cut | None:
        path, frontier = self.walk()
        names: dict[str, tuple[Value, Lane]] = {}
        for value in frontier:
            name = self.flow.name_at(value, self.statement)
            if not _depends(value) or _is_size(value):
                continue
            if name is None or self.serves_others(value, path):
                return None
            names[name] = value, _lane(self.flow, value)
        sources = dict(names.values())
        if not sources or not self.lands(sources):
            return None
        sequences: dict[str, int] = {}
        for value, lane in names.values():
            if not Prefix(self.flow, sequences, lane.place).holds(value):
                written = value.node or value.statement
                text = ast.unparse(written) if written is not None and written is not self.flow.function else value.data
                self.why = f"row t of `{text}` may see later rows"
                return None
        if len(sources) > 1 and not all(_is_as_long(self.flow, value, lane) for value, lane in sources.items()):
            return None
        return Cut(self.statement, tuple((n, lane) for n, (_, lane) in names.items()), tuple(sequences.items()))

    def walk(self) -> tuple[set[Value], list[Value]]:
        """What is computed from here on until the blocks, and the earlier values that it reads."""
        path: set[Value] = set()
        frontier: list[Value] = []
        todo = [self.stack.entry]
        while todo:
            value = todo.pop()
            if self.is_earlier(value):
                frontier += [value] if value not in frontier else []
            elif value not in path:
                path.add(value)
                todo.extend(value.operands())
        return path, sorted(frontier, key=self.flow.values.index)

    def is_earlier(self, value: Value) -> bool:
        return id(value.statement) in self.earlier

    def serves_others(self, value: Value, path: set[Value]) -> bool:
        """Whether anything else still needs the rows that would go."""
        later = [user for user in value.users if not self.is_earlier(user)]
        outside = [user for user in later if user not in path and user is not self.stack.result]
        return any(user.op != "looped" and not self.enters(user) for user in outside)

    def enters(self, value: Value) -> bool:
        """Whether it is what the loop over the blocks begins with."""
        return value.op == "loop" and value.statement is self.stack.statement

    def lands(self, sources: dict[Value, Lane]) -> bool:
        """Whether the rows of the sources are the rows of what enters the blocks."""
        stale = Lanes(self.flow, sources, self.passing, lambda v: self.is_earlier(v) and v not in sources)
        try:
            return stale.of(self.stack.entry) == _ROWS
        except Mixed:
            return False


def _depends(value: Value) -> bool:
    """Whether a value has anything to do with the arguments."""
    seen: set[Value] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if one.op == "param":
            return True
        if one not in seen:
            seen.add(one)
            todo.extend(one.operands())
    return False


def _is_size(value: Value) -> bool:
    """A size, or the device that a tensor lies on: no rows to cut."""
    inner = value.args[0] if value.op == "unpack" else value
    return inner.op in ("shape", "size") or (value.op == "getattr" and value.data in ("device", "dtype"))


def _lane(flow: Flow, value: Value) -> Lane:
    """Where the rows of a value lie: token numbers have no axis of channels."""
    if value.op == "arange":
        return Lane(-1, 1)
    if value.op == "unsqueeze" and value.args[0].op == "arange":
        return Lane(-1, 2)
    return Lane(-1, 2) if any(_embeds(flow, user) for user in value.users) else _ROWS


def _embeds(flow: Flow, value: Value) -> bool:
    """Whether a value looks up what it is given."""
    if value.op == "module":
        return made_by(flow, value) == "torch.nn.Embedding"
    return value.op in ("setitem", "roll", "long", "to", "contiguous") and any(_embeds(flow, u) for u in value.users)


def _is_as_long(flow: Flow, value: Value, lane: Lane) -> bool:
    """Whether the source says that a value has as many rows as the sequence, and not one for all."""
    if value.op in ("arange", "unsqueeze"):
        return True
    for root in _roots(value):
        if is_shift(root, lane.place) or (root.op == "cat" and shifted_by_cat(root, lane.place) is not None):
            return True  # a single row is not shifted
        for shape in (user for user in root.users if user.op in ("shape", "size")):
            named = any(user.op == "unpack" and user.data == lane.place for user in shape.users)
            compared = any(user.op in ("eq", "ne") for user in shape.users)
            asked = shape.op == "size" and len(shape.args) == 2 and shape.args[1].data in (lane.place, lane.axis)
            if named or compared or asked:
                return True
    return False


def _roots(value: Value) -> Iterator[Value]:
    """A value and what it is a shifted copy of."""
    yield value
    if value.op in ("setitem", "roll", "long", "to", "contiguous") and value.args:
        yield from _roots(value.args[0])


class Prefix:
    """Whether row t of a value depends on the rows up to t of the arguments alone, however many there are.

    Args:
        flow: the method.
        sequences: filled with the parameters that bring rows, and their axis.
        place: the axis of the rows, from the front.

    `shifted` has the parameters of which row t is seen by row t + 1 and later ones only.
    """

    def __init__(self, flow: Flow, sequences: dict[str, int], place: int) -> None:
        self.flow, self.sequences, self.place = flow, sequences, place
        self.shifted: set[str] = set()

    def holds(self, value: Value) -> bool:
        handler = getattr(self, f"_{value.op}", None)
        if handler is not None:
            return bool(handler(value))
        if value.op in POINTWISE | _MOVED:
            return all(self.holds(operand) for operand in value.operands())
        return not _depends(value) or (_is_size(value) and not self.counts_rows(value))

    def counts_rows(self, value: Value) -> bool:
        """Whether a size may be the number of rows, which grows: `T - 1 - torch.arange(T)` changes every row."""
        if value.op == "getattr":
            return False
        axis = value.data if value.op == "unpack" else None
        named = value.argument(1, "dim") if value.op == "size" else None
        axis = axis if named is None else named.data
        return not isinstance(axis, int) or axis in (self.place, self.place - 3, self.place - 2)

    def _param(self, value: Value) -> bool:
        self.sequences[value.data] = self.place
        return True

    def _module(self, value: Value) -> bool:
        owner = self.flow.owner
        kind = made_by(self.flow, value)
        fine = kind in _ROW_MODULES or (owner is not None and (kind in carriers(owner.index) or self.passes(kind)))
        return fine and all(self.holds(operand) for operand in value.operands())

    def passes(self, kind: str | None) -> bool:
        """Whether a class of the file gives one row for each row of its one input, as adding a table does."""
        assert self.flow.owner is not None
        info = self.flow.owner.index.modules.get(kind or "")
        flow = method_flow(info) if info is not None else None
        if flow is None or len(flow.returns) != 1 or len([v for v in flow.values if v.op == "param"]) != 1:
            return False
        return Prefix(flow, {}, self.place).holds(flow.returns[0][0])

    def _setitem(self, value: Value) -> bool:
        """`shifted = tokens.roll(1, dims=1); shifted[:, 0] = start`, the start being no token."""
        base, new = value.args[:2]
        if not _is_first_column(value.data, self.place) or _depends(new):
            return False
        return self.moved(base.args[0]) if is_shift(base, self.place) else self.holds(base)

    def moved(self, value: Value) -> bool:
        """The same for what stands one place further to the right."""
        inner = Prefix(self.flow, self.sequences, self.place)
        before = set(self.sequences)
        fine = inner.holds(value)
        self.shifted |= inner.shifted | (set(self.sequences) - before)
        return fine

    def _cat(self, value: Value) -> bool:
        """`torch.cat([start, tokens[:, :-1]], dim=1)`."""
        shifted = shifted_by_cat(value, self.place)
        return shifted is not None and self.moved(shifted)

    def _unsqueeze(self, value: Value) -> bool:
        axis = value.argument(1, "dim")
        single = axis is None or axis.data in (self.place, self.place - 3)
        return self.one_for_all(value.args[0]) if single else self.holds(value.args[0])

    def _expand(self, value: Value) -> bool:
        return self.one_for_all(value.args[0])

    _expand_as = _expand

    def _repeat(self, value: Value) -> bool:
        """As often as it likes, but not along the rows."""
        times = value.args[1].args if value.args[1].op == "tuple" else value.args[1:]
        once = len(times) > self.place and times[self.place].is_const(1)
        return once and self.holds(value.args[0])

    def one_for_all(self, value: Value) -> bool:
        """Whether a value that has one row, or numbers places, is made of no argument: that one brings no rows."""
        inner = Prefix(self.flow, {}, self.place)
        return inner.holds(value) and not inner.sequences

    def _arange(self, value: Value) -> bool:
        start = value.args[0] if len(value.args) == 2 else None
        return len(value.args) in (1, 2) and (start is None or start.is_const(0))

    def _getitem(self, value: Value) -> bool:
        """The first rows of a table: `self.positions[:, :T]`."""
        if value.args[0].op != "attr":
            return not _depends(value)
        items = value.data.elts if isinstance(value.data, ast.Tuple) else [value.data]
        return all(isinstance(item, ast.Slice) and item.lower is None and item.step is None for item in items)


def is_shift(value: Value, place: int) -> bool:
    """`tokens.roll(1, dims=1)`."""
    if value.op != "roll":
        return False
    steps, axis = value.argument(1, "shifts"), value.argument(2, "dims")
    return steps is not None and steps.is_const(1) and axis is not None and axis.data in (place, (place,))


def shifted_by_cat(value: Value, place: int) -> Value | None:
    """`tokens` of `torch.cat([start, tokens[:, :-1]], dim=1)`, the start being made here, one for each row."""
    parts = value.args[0].args if value.args and value.args[0].op == "tuple" else ()
    axis = value.argument(1, "dim")
    if len(parts) != 2 or axis is None or axis.data != place or parts[1].op != "getitem":
        return None
    one = any(arg.is_const(1) for arg in (*parts[0].args, *(a for arg in parts[0].args for a in arg.args)))
    made = parts[0].op in ("full", "zeros", "ones") and one
    return parts[1].args[0] if made and _slices(parts[1].data, place, None, "-1") else None


def _is_first_column(index: ast.expr, place: int) -> bool:
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    if len(items) <= place or not all(is_everything(item) for item in items[:place]):
        return False
    return isinstance(items[place], ast.Constant) and items[place].value == 0  # type: ignore[attr-defined]


def _slices(index: ast.expr, place: int, lower: str | None, upper: str) -> bool:
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    if len(items) <= place or not all(is_everything(item) for item in items[:place]):
        return False
    item = items[place]
    if not isinstance(item, ast.Slice) or item.step is not None or item.upper is None:
        return False
    return (ast.unparse(item.lower) if item.lower else None) == lower and ast.unparse(item.upper) == upper
