"""Where the axis of positions goes when tensors are reshaped, moved about and multiplied.

A value is *position by position* in its source if row `t` of it depends on row `t` of the source alone. That is what
lets rows be left out that were computed before. `Axes` follows an axis through a function and raises `Mixed` where
rows meet, or might.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from migrator.recognise.shapes import einsum_of
from migrator.recognise.values import Flow, Value

# Operations that treat each number, or each row, by itself, in the order of their operands.
POINTWISE = frozenset(
    {"abs", "add", "addcmul", "clamp", "clone", "contiguous", "cos", "detach", "div", "dropout", "exp", "float"}
    | {"gelu", "identity", "log", "long", "mul", "neg", "phi", "pow", "relu", "rsqrt", "runtime.swiglu", "sigmoid"}
    | {"silu", "sin", "softplus", "sqrt", "square", "sub", "tanh", "to", "type_as", "where", "masked_fill"}
)
_ALONG_THE_LAST = frozenset({"softmax", "log_softmax", "linear"})
_DEPTH = 6


@dataclass(frozen=True)
class Lane:
    """The axis of positions, counted from the end (negative), of a value with `rank` axes."""

    axis: int
    rank: int

    @property
    def place(self) -> int:
        """The axis, counted from the front."""
        return self.axis + self.rank


@dataclass(frozen=True)
class _Length:
    """Not a tensor but the number of positions itself."""


LENGTH = _Length()
Track = Lane | _Length | None  # None: does not depend on the sequence


class Mixed(Exception):
    """Positions meet in `value`, or it is not understood."""

    def __init__(self, value: Value) -> None:
        super().__init__(value.op)
        self.value = value


class Axes:
    """Follows the sources' positions through one function.

    Args:
        flow: the function.
        sources: the values whose positions are followed.
        passing: classes of the file that are known to keep positions where they are, attention included.
        stale: tells of a value that it was computed before the sources were cut to their new rows.
    """

    def __init__(
        self,
        flow: Flow,
        sources: Mapping[Value, Lane],
        passing: frozenset[str] = frozenset(),
        stale: Callable[[Value], bool] = lambda value: False,
        depth: int = _DEPTH,
    ) -> None:
        self.flow, self.sources, self.passing, self.stale, self.depth = flow, sources, passing, stale, depth
        self.known: dict[Value, Track] = {}

    def of(self, value: Value) -> Track:
        """Where the positions lie in `value`. Raises Mixed where rows meet, or may."""
        if value in self.sources:
            return self.sources[value]
        if value not in self.known:
            self.known[value] = None  # a value that is its own operand: a loop
            self.known[value] = self._stale(value) if self.stale(value) else self._of(value)
        return self.known[value]

    def _stale(self, value: Value) -> Track:
        """Rows that were there before the cut are too many; sizes of other axes are what they are."""
        if type(self)(self.flow, self.sources, self.passing, depth=self.depth).of(value) is not None:
            raise Mixed(value)
        return None

    def _of(self, value: Value) -> Track:
        if value.op in ("shape", "size", "unpack", "getattr") and (found := self._size(value)) is not _UNKNOWN:
            assert not isinstance(found, _Unknown)
            return found
        handler = getattr(self, f"_{value.op.replace('.', '_')}", None)
        if handler is not None:
            result: Track = handler(value)
            return result
        tracks = [self.of(operand) for operand in value.operands()]
        if all(track is None for track in tracks):
            return None
        if value.op in POINTWISE:
            return _joined(value, tracks)
        if value.op in _ALONG_THE_LAST:
            return _not_last(value, tracks[0], value.argument(1, "dim") if "softmax" in value.op else None)
        raise Mixed(value)

    # --- sizes ------------------------------------------------------------------------------------------------

    def _size(self, value: Value) -> Track | _Unknown:
        """LENGTH, or None for the size of another axis; _UNKNOWN where the value is no size."""
        inner, place = value, None
        if value.op == "unpack":
            inner, place = value.args[0], value.data
        elif value.op == "getattr":
            return None if value.data in ("device", "dtype") else _UNKNOWN
        if inner.op not in ("shape", "size") or not inner.args:
            return _UNKNOWN
        track = self.of(inner.args[0])
        if not isinstance(track, Lane):
            return track
        named = inner.argument(1, "dim")
        place = named.data if named is not None else place
        if place is None and inner is value:
            return track  # a whole shape: what it is taken apart into counts
        if not isinstance(place, int):
            raise Mixed(value)
        return LENGTH if place in (track.axis, track.place) else None

    # --- axes that move ---------------------------------------------------------------------------------------

    def _transpose(self, value: Value) -> Track:
        lane = self._lane(value)
        axes = [arg.data for arg in value.args[1:]] + [arg.data for arg in value.keywords.values()]
        if lane is None or len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
            return self._only_if_free(value)
        one, other = (axis % lane.rank for axis in axes)
        return Lane({one: other, other: one}.get(lane.place, lane.place) - lane.rank, lane.rank)

    _swapaxes = _transpose

    def _permute(self, value: Value) -> Track:
        lane = self._lane(value)
        order = value.args[1:]
        order = order[0].args if len(order) == 1 and order[0].op == "tuple" else order
        axes = [arg.data for arg in order]
        if lane is None or not all(isinstance(axis, int) for axis in axes) or len(axes) != lane.rank:
            return self._only_if_free(value)
        return Lane([axis % lane.rank for axis in axes].index(lane.place) - lane.rank, lane.rank)

    def _view(self, value: Value) -> Track:
        """The axes up to that of the positions must stay as they are."""
        lane = self._lane(value)
        sizes = value.args[1:]
        sizes = sizes[0].args if len(sizes) == 1 and sizes[0].op == "tuple" else sizes
        if lane is None or len(sizes) <= lane.place:
            return self._only_if_free(value)
        tracks = [self.of(size) for size in sizes]
        if tracks[lane.place] is not LENGTH and not sizes[lane.place].is_const(-1):
            raise Mixed(value)
        if any(track is LENGTH for place, track in enumerate(tracks) if place != lane.place):
            raise Mixed(value)
        if not all(self._is_size(size, value.args[0], place) for place, size in enumerate(sizes[: lane.place])):
            raise Mixed(value)
        return Lane(lane.place - len(sizes), len(sizes))

    _reshape = _view

    def _is_size(self, size: Value, of: Value, place: int) -> bool:
        """Whether `size` is that of axis `place` of a tensor; the axes in front of the positions are the batch."""
        if size.op == "unpack" and size.args[0].op in ("shape", "size"):
            return bool(size.data == place)
        if size.op == "size":
            axis = size.argument(1, "dim")
            return axis is not None and axis.data == place
        return False

    def _flatten(self, value: Value) -> Track:
        lane, start, end = self._lane(value), value.argument(1, "start_dim"), value.argument(2, "end_dim")
        if lane is None or start is None or not isinstance(start.data, int):
            return self._only_if_free(value)
        first = start.data % lane.rank
        last = (end.data % lane.rank) if end is not None and isinstance(end.data, int) else lane.rank - 1
        if not lane.place < first <= last:
            raise Mixed(value)
        return Lane(lane.place - (lane.rank - (last - first)), lane.rank - (last - first))

    def _unflatten(self, value: Value) -> Track:
        lane, axis, sizes = self._lane(value), value.argument(1, "dim"), value.argument(2, "sizes")
        if lane is None or axis is None or sizes is None or sizes.op != "tuple" or not isinstance(axis.data, int):
            return self._only_if_free(value)
        rank = lane.rank + len(sizes.args) - 1
        if not lane.place < axis.data % lane.rank:
            raise Mixed(value)
        return Lane(lane.place - rank, rank)

    def _unsqueeze(self, value: Value) -> Track:
        lane, axis = self._lane(value), value.argument(1, "dim")
        if lane is None or axis is None or not isinstance(axis.data, int):
            return self._only_if_free(value)
        new = axis.data % (lane.rank + 1)
        return Lane(lane.place + (new <= lane.place) - lane.rank - 1, lane.rank + 1)

    def _chunk(self, value: Value) -> Track:
        lane = self._lane(value)
        axis = value.argument(2, "dim")
        if lane is None:
            return self._only_if_free(value)
        cut = 0 if axis is None else axis.data
        if not isinstance(cut, int) or cut in (lane.axis, lane.place):
            raise Mixed(value)
        return lane

    _split = _chunk

    def _unbind(self, value: Value) -> Track:
        """Along the first axis, if the positions are on another one."""
        lane, axis = self._lane(value), value.argument(1, "dim")
        if lane is None or (axis is not None and axis.data != 0) or lane.place == 0:
            return self._only_if_free(value)
        return Lane(lane.axis, lane.rank - 1)

    def _unpack(self, value: Value) -> Track:
        inner = value.args[0]
        track = self.of(inner)
        if inner.op in ("chunk", "split", "unbind", "module", "call_local") or not isinstance(track, Lane):
            return track if isinstance(track, Lane) else self._only_if_free(value)
        if inner.op == "tuple" or track.place == 0:
            raise Mixed(value)
        return Lane(track.axis, track.rank - 1)  # q, k, v = qkv, along the first axis

    def _getitem(self, value: Value) -> Track:
        lane = self._lane(value)
        if lane is None:
            return self._only_if_free(value)
        if isinstance(value.data, ast.Constant) and isinstance(value.data.value, int) and lane.place > 0:
            return Lane(lane.axis, lane.rank - 1)  # one of q, k, v on the first axis
        raise Mixed(value)

    def _mean(self, value: Value) -> Track:
        """Over the last axis, which stays: the heart of a norm that is written out."""
        return self._over_the_last(value, value.argument(1, "dim"), value.argument(2, "keepdim"))

    _sum = _mean

    def _over_the_last(self, value: Value, axis: Value | None, keeps: Value | None) -> Track:
        lane = self._lane(value)
        if lane is None:
            return self._only_if_free(value)
        last = axis is not None and axis.data in (-1, lane.rank - 1) and lane.axis != -1
        if not last or keeps is None or not keeps.is_const(True):
            raise Mixed(value)
        return lane

    def _method(self, value: Value) -> Track:
        """`x.std(-1, keepdim=True)`, and `x.norm(2, -1, True)`, which names its power first."""
        if value.data == "norm" and value.args:
            return self._over_the_last(value, value.argument(2, "dim"), value.argument(3, "keepdim"))
        if value.data in ("std", "var") and value.args:
            return self._over_the_last(value, value.argument(1, "dim"), value.keywords.get("keepdim"))
        return self._only_if_free(value)

    def _layer_norm(self, value: Value) -> Track:
        """Over the last axis alone: `(dim,)`, `x.shape[-1:]`."""
        shape = value.argument(1, "normalized_shape")
        sizes = shape.args if shape is not None and shape.op == "tuple" else (shape,)
        part = sizes[0].args[1] if sizes and sizes[0] is not None and sizes[0].op == "size" else None
        several = part is not None and part.op == "slice" and not (part.args and part.args[0].is_const(-1))
        if len(sizes) != 1 or several:
            raise Mixed(value)
        return _not_last(value, self.of(value.args[0]), None) if self.of(value.args[0]) is not None else None

    # --- products ---------------------------------------------------------------------------------------------

    def _matmul(self, value: Value) -> Track:
        """Rows times a matrix that knows nothing of them."""
        left, right = (self.of(arg) for arg in value.args[:2])
        if left is None and right is None:
            return None
        if not isinstance(left, Lane) or right is not None or left.axis == -1:
            raise Mixed(value)
        return left

    def _einsum(self, value: Value) -> Track:
        letters = einsum_of(value)
        if letters is None:
            return self._only_if_free(value)
        equation, operands = letters
        lane, output = None, equation.output
        for term, operand in zip(equation.operands, operands, strict=True):
            track = self.of(operand)
            if track is None:
                continue
            letter = term[track.axis] if isinstance(track, Lane) else ""
            others = sum(letter in other for other in equation.operands)
            if lane is not None or not letter or letter not in output or others != 1:
                raise Mixed(value)
            lane = Lane(output.index(letter) - len(output), len(output))
        return lane

    def _runtime_attention(self, value: Value) -> Track:
        """Causal attention with a cache: positions of queries, keys and values in the last axis but one."""
        tracks = [self.of(arg) for arg in value.args[:3]]
        if any(not isinstance(track, Lane) or track.axis != -2 for track in tracks):
            raise Mixed(value)
        scale = value.keywords.get("scale")
        if scale is not None and self.of(scale) is not None:  # one that grows with the sequence is another each time
            raise Mixed(value)
        return tracks[0]

    _sdpa = _runtime_attention

    # --- the rest ---------------------------------------------------------------------------------------------

    def _param(self, value: Value) -> Track:
        """Nothing is known of an argument that is no source."""
        raise Mixed(value)

    def _opaque(self, value: Value) -> Track:
        raise Mixed(value)

    _looped = _loop = _undefined = _opaque

    def _lane(self, value: Value) -> Lane | None:
        track = self.of(value.args[0])
        return track if isinstance(track, Lane) else None

    def _only_if_free(self, value: Value) -> Track:
        """An operation that is not understood is fine as long as it touches no positions."""
        if any(self.of(operand) is not None for operand in value.operands()):
            raise Mixed(value)
        return None


class _Unknown:
    pass


_UNKNOWN = _Unknown()


def _joined(value: Value, tracks: list[Track]) -> Track:
    """Operands are aligned from the right, so those with positions must have them on the same axis."""
    lanes = [track for track in tracks if track is not None]
    axes = {lane.axis for lane in lanes if isinstance(lane, Lane)}
    if len(axes) != 1 or LENGTH in lanes:
        raise Mixed(value)
    return max((lane for lane in lanes if isinstance(lane, Lane)), key=lambda lane: lane.rank)


def _not_last(value: Value, track: Track, axis: Value | None) -> Track:
    """Along the last axis, which is not that of the positions."""
    if not isinstance(track, Lane) or track.axis == -1 or (axis is not None and axis.data not in (-1, track.rank - 1)):
        raise Mixed(value)
    return track
