"""The little that has to be known of shapes: what the last dimension is, and which axes an einsum moves."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Hashable
from dataclasses import dataclass

from migrator.recognise.values import Value, strip

Symbol = Hashable
_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "floordiv", "pow", "sqrt", "neg"})


def symbol(value: Value) -> Symbol:
    """A key that two values share only if they are equal for certain."""
    if value.op in ("const", "param", "attr", "global") and isinstance(value.data, Hashable):
        return (value.op, value.data)
    if value.op == "getattr" and value.args[0].op in ("param", "global"):  # config.block_size
        return ("getattr", symbol(value.args[0]), value.data)
    size = size_of(value)
    if size is not None:
        return ("size", symbol(size[0]), size[1])
    if value.op in _ARITHMETIC:
        return (value.op, *(symbol(arg) for arg in value.args))
    return ("value", id(value))


def size_of(value: Value) -> tuple[Value, int] | None:
    """(tensor, axis) if the value is `tensor.size(axis)`, however it was obtained."""
    if value.op == "size" and len(value.args) == 2 and isinstance(value.args[1].data, int):
        return value.args[0], value.args[1].data
    if value.op == "size" and isinstance(value.keywords.get("dim", value).data, int):
        return value.args[0], value.keywords["dim"].data
    if value.op == "unpack" and value.args[0].op in ("shape", "size") and len(value.args[0].args) == 1:
        return value.args[0].args[0], value.data
    return None


REST = "*"  # stands among the letters for the axes of an ellipsis


@dataclass(frozen=True)
class Einsum:
    """Letters of an einsum, `REST` for an ellipsis that all its terms begin with."""

    operands: tuple[str, ...]
    output: str


def einsum_of(value: Value) -> tuple[Einsum, tuple[Value, ...]] | None:
    """The letters and the operands of `torch.einsum`, if its equation is a literal."""
    if value.op != "einsum" or not value.args or not isinstance(value.args[0].data, str):
        return None
    left, arrow, right = value.args[0].data.replace(" ", "").replace("...", REST).partition("->")
    operands = tuple(left.split(","))
    if not arrow or "." in left + right or len(operands) != len(value.args) - 1:
        return None
    if REST in left + right and not all(term.startswith(REST) for term in (*operands, right)):
        return None
    return Einsum(operands, right), value.args[1:]


def one_letter_each(pattern: str) -> str | None:
    """An equation of einops, whose axes are words, in the letters of torch; None if they are not just words."""
    words = list(dict.fromkeys(re.findall(r"\w+", pattern)))
    if len(words) > len(string.ascii_letters) or re.search(r"[^\w\s,.>-]", pattern):
        return None
    letters = dict(zip(words, string.ascii_letters, strict=False))
    return re.sub(r"\w+", lambda word: letters[word[0]], pattern)


def last_sizes(value: Value) -> set[Symbol]:
    """Symbols that are known to equal the size of the last dimension."""
    value = strip(value)
    known: set[Symbol] = {("size", symbol(value), -1)}
    dims = rank(value)
    if dims is not None:
        known.add(("size", symbol(value), dims - 1))
    letters = einsum_of(value)
    if letters is not None:
        equation, operands = letters
        for term, operand in zip(equation.operands, operands, strict=True):
            if equation.output[-1:] and equation.output[-1] in term:
                axis = term.index(equation.output[-1])
                known.add(("size", symbol(operand), axis - len(term)))
                if REST not in term:
                    known.add(("size", symbol(operand), axis))
        if REST not in equation.output:
            known.add(("size", symbol(value), len(equation.output) - 1))
    elif value.op in ("view", "reshape") and len(value.args) > 2:
        known |= {symbol(value.args[-1]), ("size", symbol(value), len(value.args) - 2)}
    elif (
        value.op == "transpose"
        and _constants(value.args[1:])
        and _keeps_last(value)
        or value.op == "permute"
        and _constants(value.args[1:])
        and value.args[-1].data in (-1, len(value.args) - 2)
    ):
        known |= last_sizes(value.args[0])
    known.discard(("const", -1))
    return known


def rank(value: Value, depth: int = 16) -> int | None:
    """Number of dimensions, where it can be read off."""
    value = strip(value)
    shapes = [user for user in value.users if _is_whole_shape(user)]
    places = [int(user.data) for shape in shapes for user in shape.users if user.op == "unpack"]
    if places:  # b, t, c = x.shape
        return max(places) + 1
    if depth == 0:
        return None
    letters = einsum_of(value)
    if letters is not None:
        return None if REST in letters[0].output else len(letters[0].output)
    if value.op in ("view", "reshape") and len(value.args) > 2:
        return len(value.args) - 1
    if value.op == "permute":
        return len(value.args) - 1
    if value.op == "bmm":
        return 3
    if value.op in ("unpack", "getitem"):
        return _rank_of_part(value, depth)
    repeated = value.op == "method" and value.data == "repeat_interleave" and "dim" in value.keywords
    if value.op in ("transpose", "softmax", "dropout", "masked_fill") or value.keeps_rank or repeated:
        return rank(value.args[0], depth - 1)
    if value.op in ("div", "mul", "add", "matmul", "phi"):
        ranks = [rank(arg, depth - 1) for arg in value.args[1 if value.op == "phi" else 0 :]]
        found = [r for r in ranks if r is not None]
        return max(found) if found else None
    return None


def _is_whole_shape(value: Value) -> bool:
    return value.op in ("shape", "size") and len(value.args) == 1 and not value.keywords


def _rank_of_part(value: Value, depth: int) -> int | None:
    """Of `q` in `q, k, v = x.chunk(3, -1)`, and of one of the tensors that `unbind` or an index gives."""
    inner = value.args[0]
    if value.op == "unpack" and inner.op in ("chunk", "split") and inner.args:
        return rank(inner.args[0], depth - 1)
    whole = inner.args[0] if value.op == "unpack" and inner.op == "unbind" and inner.args else inner
    single = value.op == "getitem" and isinstance(value.data, ast.Constant) and isinstance(value.data.value, int)
    if not single and whole is inner:
        return None
    dims = rank(whole, depth - 1)
    return None if dims is None else dims - 1


def is_axis(value: Value | None, axis: int, of: Value) -> bool:
    """Whether a constant names this (negative) axis of a tensor."""
    if value is None or not isinstance(value.data, int) or value.op != "const":
        return False
    if value.data < 0:
        return value.data == axis
    dims = rank(of)
    return dims is not None and value.data - dims == axis


def swaps_last_two(value: Value, dims: int | None = None) -> bool:
    """Whether the value is `tensor.transpose(-2, -1)` in any spelling; `dims` is its rank, if known from elsewhere."""
    if value.op == "t":
        return True
    if value.op == "permute" and _constants(value.args[1:]):
        order = [arg.data % (len(value.args) - 1) for arg in value.args[1:]]
        return order == [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    if value.op != "transpose" or len(value.args) != 3 or not _constants(value.args[1:]):
        return False
    axes = {arg.data for arg in value.args[1:]}
    dims = dims or rank(value.args[0])
    return axes == {-1, -2} or (dims is not None and {a % dims for a in axes} == {dims - 1, dims - 2})


def grid_axis(value: Value) -> int | None:
    """-2 for row numbers, -1 for column numbers: an `arange` that was given its place by indexing or unsqueeze."""
    value = strip(value)
    if value.op == "arange" and len(value.args) == 1:
        return -1
    if value.op == "getitem" and value.args[0].op == "arange" and len(value.args[0].args) == 1:
        return _indexed_axis(value.data)
    if value.op == "unsqueeze" and value.args[0].op == "arange" and len(value.args) == 2:
        return {0: -1, -2: -1, 1: -2, -1: -2}.get(value.args[1].data)
    return None


def arange_length(value: Value) -> Value | None:
    """n of the `arange(n)` behind row or column numbers."""
    value = strip(value)
    while value.op in ("getitem", "unsqueeze"):
        value = value.args[0]
    return value.args[0] if value.op == "arange" and len(value.args) == 1 else None


def _indexed_axis(index: ast.expr) -> int | None:
    items = index.elts if isinstance(index, ast.Tuple) else [index]
    kinds = [
        "slice"
        if isinstance(item, ast.Slice) and item.lower is item.upper is item.step is None
        else "new"
        if isinstance(item, ast.Constant) and item.value is None
        else "other"
        for item in items
    ]
    if "slice" not in kinds:
        kinds.append("slice")  # `[None]` is `[None, :]`
    if "other" in kinds or kinds.count("slice") != 1:
        return None
    return kinds.index("slice") - len(kinds)


def _keeps_last(value: Value) -> bool:
    axes = {arg.data for arg in value.args[1:]}
    dims = rank(value.args[0])
    last = {-1} if dims is None else {-1, dims - 1}
    known_positive = dims is not None or all(a < 0 for a in axes)
    return not axes & last and known_positive


def _constants(values: tuple[Value, ...]) -> bool:
    return all(value.op == "const" and isinstance(value.data, int) for value in values)
