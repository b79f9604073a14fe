"""Small arrays of numbers, for trying out what a program computes; no torch, no numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

Item = int | slice | None
LARGEST = 1 << 16


class Unknown(Exception):
    """Raised where a value cannot be told."""


@dataclass(eq=False)
class Memory:
    """What a tensor and its views have in common. `lost`: it was changed in a way that is not understood."""

    version: int = 0
    lost: bool = False


@dataclass(eq=False)
class Array:
    """Numbers in row-major order.

    Views are copies here. When one of them is assigned to, the others are out of date, and must not be read any more.
    """

    shape: tuple[int, ...]
    data: list[float]
    memory: Memory = field(default_factory=Memory, repr=False)
    version: int = 0

    def __post_init__(self) -> None:
        if len(self.data) > LARGEST:
            raise Unknown

    @classmethod
    def full(cls, shape: Sequence[int], number: float) -> Array:
        count = math.prod(shape)
        if count > LARGEST or any(size < 0 for size in shape):
            raise Unknown
        return cls(tuple(shape), [number] * count)

    @classmethod
    def of(cls, nested: object) -> Array:
        """Numbers, arrays, or lists of such."""
        if isinstance(nested, Array):
            return Array(nested.shape, list(nested.data))
        if isinstance(nested, int | float):
            return cls((), [float(nested)])
        if not isinstance(nested, list | tuple) or not nested:
            raise Unknown
        return stacked([cls.of(one) for one in nested], 0)

    def strides(self) -> list[int]:
        return [math.prod(self.shape[place + 1 :]) for place in range(len(self.shape))]

    def at(self, place: Sequence[int]) -> float:
        return self.data[sum(one * stride for one, stride in zip(place, self.strides(), strict=True))]

    def map(self, function: Callable[[float], float]) -> Array:
        return Array(self.shape, [function(one) for one in self.data])

    def reshaped(self, shape: Sequence[int]) -> Array:
        known = math.prod(size for size in shape if size != -1)
        sizes = tuple(len(self.data) // known if size == -1 and known else size for size in shape)
        if math.prod(sizes) != len(self.data):
            raise Unknown
        return Array(sizes, list(self.data))

    def permuted(self, order: Sequence[int]) -> Array:
        order = [axis % len(self.shape) for axis in order]
        shape = tuple(self.shape[axis] for axis in order)
        back = [order.index(axis) for axis in range(len(order))]
        return Array(shape, [self.at([place[axis] for axis in back]) for place in _places(shape)])

    def broadcast(self, shape: Sequence[int]) -> Array:
        """Repeated along axes of size 1, and in front."""
        own = (1,) * (len(shape) - len(self.shape)) + self.shape
        if (
            math.prod(shape) > LARGEST
            or len(own) != len(shape)
            or any(a not in (1, b) for a, b in zip(own, shape, strict=True))
        ):
            raise Unknown
        wide = Array(own, self.data)
        cut = [[0 if a == 1 else one for a, one in zip(own, place, strict=True)] for place in _places(shape)]
        return Array(tuple(shape), [wide.at(place) for place in cut])

    def view_of(self, other: Array) -> Array:
        """The same array, as a view of another one."""
        self.memory, self.version = other.memory, other.version
        return self

    def check(self) -> None:
        """Raises Unknown if the numbers need not be these any more."""
        if self.memory.lost or self.memory.version != self.version:
            raise Unknown

    # --- parts ------------------------------------------------------------------------------------------------------

    def part(self, items: Sequence[Item]) -> Array:
        shape, places = self._chosen(items)
        return Array(shape, [self.at(place) for place in places])

    def assign(self, items: Sequence[Item], value: Array) -> None:
        shape, places = self._chosen(items)
        strides = self.strides()
        for place, number in zip(places, value.broadcast(shape).data, strict=True):
            self.data[sum(one * stride for one, stride in zip(place, strides, strict=True))] = number
        self.memory.version += 1
        self.version = self.memory.version

    def _chosen(self, items: Sequence[Item]) -> tuple[tuple[int, ...], list[list[int]]]:
        """The shape of a part, and where each of its numbers stands."""
        shape: list[int] = []
        axes: list[list[int]] = []
        todo = list(self.shape)
        for item in items:
            if item is None:
                shape.append(1)
                continue
            if not todo:
                raise Unknown
            size = todo.pop(0)
            if isinstance(item, slice):
                axes.append(list(range(size))[item])
                shape.append(len(axes[-1]))
            elif -size <= item < size:
                axes.append([item % size])
            else:
                raise Unknown
        return (*shape, *todo), [list(place) for place in product(*axes, *(range(size) for size in todo))]


def _places(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(size) for size in shape))


def together(one: Array, other: Array, function: Callable[[float, float], float]) -> Array:
    """A function of two arrays, element by element."""
    length = max(len(one.shape), len(other.shape))
    pairs = zip(*((1,) * (length - len(a.shape)) + a.shape for a in (one, other)), strict=True)
    shape = [max(a, b) if 0 not in (a, b) else 0 for a, b in pairs]
    left, right = one.broadcast(shape), other.broadcast(shape)
    return Array(tuple(shape), [function(a, b) for a, b in zip(left.data, right.data, strict=True)])


def stacked(parts: Sequence[Array], axis: int) -> Array:
    """Arrays of one shape along a new axis."""
    if len({one.shape for one in parts}) != 1:
        raise Unknown
    whole = Array((len(parts), *parts[0].shape), [number for one in parts for number in one.data])
    axis %= len(whole.shape)
    return whole.permuted([*range(1, axis + 1), 0, *range(axis + 1, len(whole.shape))])


def joined(parts: Sequence[Array], axis: int) -> Array:
    """Arrays one behind the other along an axis that they have."""
    axis %= len(parts[0].shape)
    rows = [one.part([slice(None)] * axis + [place]) for one in parts for place in range(one.shape[axis])]
    return stacked(rows, axis)
