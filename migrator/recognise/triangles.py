"""Masks of calls that are fused already: is the future hidden by a triangle, and what hides keys besides it."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.anatomy import Attention, Stop, text_of
from migrator.recognise.buffers import kept_tensors, writer
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.lengths import is_length
from migrator.recognise.masks import constant, hides_future, is_boolean, is_numeric_attribute, is_triangle_of_infinities
from migrator.recognise.origins import origins
from migrator.recognise.shapes import arange_length
from migrator.recognise.values import Flow, Value, strip

_COMPARISONS = ("lt", "gt", "le", "ge", "eq", "ne")
_PASSING = frozenset({"getitem", "unsqueeze", "view", "reshape", "expand", "to", "not", "float", "repeat"})


@dataclass(eq=False)
class Term:
    """One of the masks that a mask is the conjunction of; `negated` if it says what is hidden."""

    value: Value
    negated: bool = False


@dataclass(eq=False)
class Reading:
    """What a mask or bias says: a triangle or none, kept in these buffers, and the rest.

    `doubt` tells why the rest may hide the future too, which does not matter where a triangle hides it anyway.
    """

    causal: bool = False
    rest: list[Term] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    doubt: Stop | None = None


def read_mask(index: FileIndex, found: Attention, mask: Value) -> Reading:
    """A boolean mask, True where a query may attend. Raises Stop where a triangle cannot be told from its text."""
    reader = _Reader(index, found)
    for term in _conjuncts(mask, False):
        reader.boolean(term)
    return reader.reading


def read_bias(index: FileIndex, found: Attention, bias: Value) -> Reading:
    """A float mask, which is added to the scores. Raises Stop as `read_mask` does."""
    reader = _Reader(index, found)
    for value in _summands(bias):
        reader.added(value)
    return reader.reading


def is_boolean_mask(index: FileIndex, found: Attention, mask: Value) -> bool:
    """Whether a mask is boolean for certain: what is not would be added."""
    return all(_is_boolean(found, term.value) for term in _conjuncts(mask, False))


def _conjuncts(value: Value, negated: bool) -> Iterator[Term]:
    value = strip(value)
    if value.op == "not":
        yield from _conjuncts(value.args[0], not negated)
    elif value.op == ("bitor" if negated else "bitand"):
        for part in value.args:
            yield from _conjuncts(part, negated)
    else:
        yield Term(value, negated)


def _summands(value: Value) -> Iterator[Value]:
    value = strip(value)
    if value.op == "add" and len(value.args) == 2 and not value.keywords:
        for part in value.args:
            yield from _summands(part)
    else:
        yield value


def _is_boolean(found: Attention, value: Value) -> bool:
    core = value
    while core.op in ("getitem", "unsqueeze", "view", "expand", "tril", "triu") and core.args:
        core = strip(core.args[0])
    if core.op == "attr" and found.owner is not None:
        kept = kept_tensors(found.owner).get(core.data)
        return kept is not None and kept is not core and _is_boolean(found, strip(kept))
    dtype = core.keywords.get("dtype")
    if core.op in ("ones", "zeros", "full"):
        return dtype is not None and dtype.data in ("torch.bool", "bool")
    return is_boolean(core) and not (core.op == "to" and core.data == "int")


class _Reader:
    def __init__(self, index: FileIndex, found: Attention) -> None:
        self.index, self.found, self.owner = index, found, found.owner
        self.reading = Reading()

    # --- terms ------------------------------------------------------------------------------------------------

    def boolean(self, term: Term) -> None:
        hides = hides_future(term.value, self.hides_kept)
        if hides is None:
            self.check_rest(term.value)
            self.reading.rest.append(term)
        elif hides != term.negated:
            raise Stop("shape", f"`{text_of(term.value)}` hides the past", term.value.node)
        else:
            self.triangle(term.value)

    def added(self, value: Value) -> None:
        if self.is_infinite_triangle(value):
            self.triangle(value)
        else:
            self.check_rest(value)
            self.reading.rest.append(Term(value))

    def triangle(self, value: Value) -> None:
        """Note a triangle, once it is sure that it has as many rows as there are queries, and columns as keys."""
        core = _core(value)
        if core.op == "attr":
            self.check_buffer(core.data, value)
        self.check_extent(value)
        self.reading.causal = True

    # --- triangles that are kept ------------------------------------------------------------------------------

    def hides_kept(self, value: Value) -> bool | None:
        """`hides_future` of a triangle in another view, or in a buffer."""
        inner = _unviewed(value)
        if inner.op == "attr":
            kept = self.kept(inner)
            return hides_future(_unviewed(kept), self.hides_kept) if kept is not None else None
        return hides_future(inner, self.hides_kept) if inner is not value else None

    def kept(self, value: Value) -> Value | None:
        kept = kept_tensors(self.owner).get(value.data) if self.owner is not None else None
        return kept if kept is not None and kept.op != "attr" else None

    def is_infinite_triangle(self, value: Value) -> bool:
        inner = _unviewed(value)
        if inner.op == "attr":
            kept = self.kept(inner)
            return kept is not None and self.is_infinite_triangle(kept)
        if inner.op == "masked_fill" and len(inner.args) == 3 and constant(inner.args[2]) == -math.inf:
            return _is_zero(inner.args[0]) and hides_future(inner.args[1], self.hides_kept) is True
        return is_triangle_of_infinities(inner)

    def check_buffer(self, name: str, value: Value) -> None:
        assert self.owner is not None
        where = writer(self.index, self.owner, name)
        if where:
            raise Stop("written", f"`self.{name}` may get other contents: {where}", value.node)
        self.reading.buffers.append(name)

    # --- extents ----------------------------------------------------------------------------------------------

    def check_extent(self, value: Value) -> None:
        q, k, _ = self.found.output.args[:3]
        extent = self.extent(value)
        if extent is None:  # all of a buffer: only a sequence of its length fits
            return
        rows, columns = extent
        if not (is_length(rows, q, self.owner) and is_length(columns, k, self.owner)):
            seen = f"`{text_of(value)}` is not known to have a row for each query and a column for each key"
            raise Stop("length", seen, value.node)

    def extent(self, value: Value) -> tuple[Value, Value] | None:
        """Numbers of rows and columns of a triangle whose diagonal ends in its lower right corner."""
        while True:
            value = strip(value)
            if value.op == "attr":
                return None
            if value.op == "getitem" and not _is_whole(value.data):
                return self.sliced(value)
            if value.op in ("lt", "gt", "le", "ge"):
                lengths = [arange_length(arg) for arg in value.args]
                assert lengths[0] is not None and lengths[1] is not None
                return lengths[0], lengths[1]
            if value.op in ("ones", "full", "zeros"):
                sizes = value.args[0].args if value.args[0].op == "tuple" else value.args
                return sizes[-2], sizes[-1]
            value = value.args[0]

    def sliced(self, value: Value) -> tuple[Value, Value]:
        """The extent of `mask[..., :T, :T]`, or of the lower rows, `mask[..., S - T : S, :S]`."""
        rows, columns = _last_slices(value.data)
        bounds = self.found.flow.bounds
        if rows is None or columns is None or columns.lower is not None or columns.upper is None or rows.upper is None:
            raise Stop("length", f"`{text_of(value)}` is not a square part of the triangle", value.node)
        last, end = bounds[columns.upper], bounds[rows.upper]
        if not self.same(last, end):
            raise Stop("shape", f"`{text_of(value)}` is not a square part of the triangle", value.node)
        if rows.lower is None:
            return end, last
        start = bounds[rows.lower]
        if start.op != "sub" or not self.same(start.args[0], last):
            raise Stop("shape", f"`{text_of(value)}` is not the end of the triangle", value.node)
        return start.args[1], last

    def same(self, one: Value, other: Value) -> bool:
        """Whether two numbers are one length: of the keys, which is all that is asked for here."""
        return one is other or all(is_length(number, self.found.output.args[1], self.owner) for number in (one, other))

    # --- what is no triangle ----------------------------------------------------------------------------------

    def check_rest(self, value: Value) -> None:
        """A mask that is not a triangle has to be computed from data, for certain."""
        for part in _closure(value):
            if part.op in ("tril", "triu"):
                raise Stop("shape", f"`{text_of(value)}` holds a triangle, but is not the causal one", value.node)
            if part.op in _COMPARISONS and all(_counts(arg) for arg in part.args):
                raise Stop("window", f"`{text_of(value)}` compares places, but not as the causal mask does", value.node)
            if part.op == "attr" and not _is_harmless(self.owner, part):
                self.reading.doubt = Stop("buffer", f"it cannot be told what `self.{part.data}` hides", value.node)
        given = _handed_in(value)
        if given and not self.comes_from_data(self.found.flow, given):
            seen = f"`{given}` is handed in; it may hide the future, or something else"
            self.reading.doubt = Stop("handed-in", seen, value.node)

    def comes_from_data(self, flow: Flow, name: str, depth: int = 6) -> bool:
        """Whether all that the file hands in for a parameter is computed from data, with no triangle in it."""
        if flow.owner is None or not depth:
            return False
        if _are_tokens(flow, flow.owner, name):
            return True
        given = origins(self.index, flow.owner, name) if flow.function.name == "forward" else None
        return bool(given) and all(self.is_data(where, value, depth - 1) for where, value in given or [])

    def is_data(self, flow: Flow, value: Value, depth: int) -> bool:
        parts = _closure(value)
        counted = any(part.op in ("tril", "triu", "arange", "call", "opaque", "self_call") for part in parts)
        kept = any(part.op == "attr" and not _is_harmless(flow.owner, part) for part in parts)
        given = _handed_in(value)
        return not counted and not kept and (not given or self.comes_from_data(flow, given, depth))


def _are_tokens(flow: Flow, owner: ClassInfo, name: str) -> bool:
    """Whether a parameter is what an nn.Embedding looks up."""
    given = flow.parameter(name)
    looked_up = [owner.attribute(user.data) for user in given.users if user.op == "module"] if given is not None else []
    calls = [made for made in looked_up if isinstance(made, ast.Call)]
    return any(owner.index.resolve(made.func) == "torch.nn.Embedding" for made in calls)


def _is_harmless(owner: ClassInfo | None, value: Value) -> bool:
    """A number, or something that is learned."""
    if owner is None:
        return False
    made = owner.attribute(value.data.partition(".")[0])
    learned = isinstance(made, ast.Call) and (owner.index.resolve(made.func) or "").startswith("torch.nn.")
    return learned or is_numeric_attribute(owner, value.data)


def _unviewed(value: Value) -> Value:
    """The value behind slices and axes of size one."""
    value = strip(value)
    while True:
        leading = value.op == "unsqueeze" and value.args[1].is_const(0)
        shaped = value.op in ("view", "reshape") and all(arg.is_const(1) for arg in value.args[1:-2])
        sliced = value.op == "getitem" and _last_slices(value.data)[0] is not None
        whole = value.op == "getitem" and _is_whole(value.data)
        if not (leading or shaped or sliced or whole or value.op in ("to", "float")):
            return value
        value = strip(value.args[0])


def _core(value: Value) -> Value:
    """The innermost first operand: the buffer, or the call that makes the triangle."""
    value = strip(value)
    while value.args and value.op not in ("lt", "gt", "le", "ge", "ones", "full", "zeros"):
        value = strip(value.args[0])
    return value


def _last_slices(index: ast.expr) -> tuple[ast.Slice | None, ast.Slice | None]:
    """The slices of rows and columns, if the other axes are taken whole, added, or of size one."""
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    if len(items) < 2 or not all(_takes_all(item) for item in items[:-2]):
        return None, None
    rows, columns = items[-2:]
    if not isinstance(rows, ast.Slice) or not isinstance(columns, ast.Slice) or rows.step or columns.step:
        return None, None
    return rows, columns


def _takes_all(item: ast.expr) -> bool:
    if isinstance(item, ast.Constant):
        return item.value in (None, Ellipsis, 0)
    return isinstance(item, ast.Slice) and item.lower is item.upper is item.step is None


def _is_whole(index: ast.expr) -> bool:
    """Whether an index takes all of a tensor, and at most adds axes."""
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    return all(_takes_all(item) and not (isinstance(item, ast.Constant) and item.value == 0) for item in items)


def _is_zero(value: Value) -> bool:
    value = strip(value)
    return value.op == "zeros" or (value.op == "full" and constant(value.args[1]) == 0)


def _closure(value: Value) -> set[Value]:
    seen: set[Value] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo.extend(one.operands())
    return seen


def _counts(value: Value) -> bool:
    """Whether a value is made of row or column numbers."""
    return any(part.op == "arange" for part in _closure(value))


def _handed_in(value: Value) -> str:
    """The parameter that a mask is but another view of."""
    todo = [value]
    while todo:
        one = strip(todo.pop())
        if one.op == "param":
            return str(one.data)
        if one.op == "phi":
            todo += one.args[1:]
        elif one.op in _PASSING or (one.op in ("eq", "ne") and one.args[1].op == "const"):
            todo.append(one.args[0])
    return ""
