"""What functions and methods of torch and numpy make of arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from migrator.recognise.trial.arrays import LARGEST, Array, Unknown, joined, stacked, together

ELEMENTWISE: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "exp": math.exp,
    "log": math.log,
    "neg": operator.neg,
    "sqrt": math.sqrt,
}
OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "div": operator.truediv,
    "divide": operator.truediv,
    "mul": operator.mul,
    "multiply": operator.mul,
    "pow": lambda a, b: power(a, b),
    "power": lambda a, b: power(a, b),
    "sub": operator.sub,
}
# What leaves the numbers alone.
SAME = frozenset(
    {"array", "asarray", "as_tensor", "astype", "clone", "contiguous", "copy", "cpu", "cuda", "detach", "double"}
    | {"float", "from_numpy", "numpy", "requires_grad_", "tensor", "to", "type", "type_as"}
    | {"FloatTensor", "Tensor"}
)
FILLED = {"zeros": 0.0, "ones": 1.0, "empty": math.nan, "zeros_like": 0.0, "ones_like": 1.0, "empty_like": math.nan}
BUILTINS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "enumerate": lambda *given: list(enumerate(*given)),
    "float": float,
    "int": int,
    "len": len,
    "list": list,
    "max": max,
    "min": min,
    "range": range,
    "zip": lambda *given: list(zip(*given, strict=False)),
}


def power(base: Any, exponent: Any) -> Any:
    """Of whole numbers a whole one, as long as it is no giant."""
    return base**exponent if abs(exponent) < 8 else float(base) ** exponent


def is_small(given: Sequence[object]) -> bool:
    """Whether nothing is given that takes long to walk over."""
    return all(not isinstance(one, range | list | tuple) or len(one) <= LARGEST for one in given)


def counted(numbers: Sequence[Any]) -> Array:
    """`arange(end)`, `arange(start, end)`, `arange(start, end, step)`."""
    step = numbers[2] if len(numbers) > 2 else 1
    start, end = (numbers[0], numbers[1]) if len(numbers) > 1 else (0, numbers[0])
    count = max(0, math.ceil((end - start) / step))
    return Array.of([start + step * place for place in range(count)]) if is_small([range(count)]) else _unknown()


def side_by_side(name: str, parts: Sequence[object], axis: int) -> Array:
    """`cat` and `stack`."""
    return (stacked if name == "stack" else joined)([Array.of(part) for part in parts], axis)


def outer(one: object, other: object) -> Array:
    return together(Array.of(one).reshaped((-1, 1)), Array.of(other).reshaped((1, -1)), operator.mul)


def is_outer(equation: object) -> bool:
    """Whether an einsum is "i,j->ij", in any letters."""
    one, _, rest = str(equation).replace(" ", "").partition(",")
    other, _, both = rest.partition("->")
    return len(one) == len(other) == 1 and both == one + other and one != other


def moved(name: str, value: Array, args: list[Any]) -> Array:
    """An array in another layout. Raises Unknown for what is no layout."""
    sizes = list(args[0]) if args and isinstance(args[0], tuple | list) else args
    if name == "unsqueeze":
        place = sizes[0] % (len(value.shape) + 1)
        return value.reshaped((*value.shape[:place], 1, *value.shape[place:]))
    if name in ("view", "reshape"):
        return value.reshaped(sizes)
    if name == "permute":
        return value.permuted(sizes)
    if name in ("transpose", "t"):
        order = list(range(len(value.shape)))
        one, other = sizes or (0, 1)
        order[one], order[other] = order[other], order[one]
        return value.permuted(order)
    if name == "flatten" and not sizes:
        return value.reshaped((-1,))
    if name == "expand":
        own = (1,) * (len(sizes) - len(value.shape)) + value.shape
        return value.broadcast([a if size == -1 else size for a, size in zip(own, sizes, strict=True)])
    raise Unknown


def combine(function: Callable[[Any, Any], Any], left: Any, right: Any) -> object:
    """A function of two numbers, or of arrays element by element."""
    if isinstance(left, Array) or isinstance(right, Array):
        return together(Array.of(left), Array.of(right), function)
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise Unknown
    return function(left, right)


def number_or_array(value: Array) -> float | Array:
    return value if value.shape else value.data[0]


def _unknown() -> Array:
    raise Unknown
