"""How long a sequence is: which expressions equal the size of an axis of a tensor for certain."""

from __future__ import annotations

import ast

from migrator.recognise.index import ClassInfo
from migrator.recognise.masks import is_number
from migrator.recognise.shapes import Symbol, einsum_of, rank, size_of, symbol
from migrator.recognise.values import Value, strip

_SAME_LENGTHS = frozenset({"torch.nn.Linear", "torch.nn.LayerNorm", "torch.nn.RMSNorm", "torch.nn.Embedding"})
_ROTATES = "runtime.RotaryEmbedding"
_DEPTH = 16


def same_length(one: Value, other: Value, owner: ClassInfo | None) -> bool:
    """Whether two tensors have as many positions, on the axis before the last."""
    return bool(sizes(one, -2, owner) & sizes(other, -2, owner))


def is_length(number: Value, of: Value, owner: ClassInfo | None) -> bool:
    """Whether a number is the size of the axis before the last of a tensor."""
    return bool(_equals(number, owner, _DEPTH) & sizes(of, -2, owner))


def sizes(value: Value, axis: int, owner: ClassInfo | None, depth: int = _DEPTH) -> set[Symbol]:
    """Symbols that equal the size of this (negative) axis of a tensor."""
    value = strip(value)
    known: set[Symbol] = {("size", symbol(value), axis)}
    dims = rank(value)
    if dims is not None:
        known.add(("size", symbol(value), axis + dims))
    if depth == 0:
        return known
    if value.op == "phi":
        return known | (sizes(value.args[1], axis, owner, depth - 1) & sizes(value.args[2], axis, owner, depth - 1))
    letters = einsum_of(value)
    if letters is not None:
        equation, operands = letters
        letter = equation.output[axis] if len(equation.output) >= -axis else ""
        for term, operand in zip(equation.operands, operands, strict=True):
            if letter and term.count(letter) == 1:
                known |= sizes(operand, term.index(letter) - len(term), owner, depth - 1)
    if value.op in ("view", "reshape"):
        given = _shape_arguments(value)
        size = given[axis] if len(given) >= -axis else None
        return known if size is None or size.is_const(-1) else known | _equals(size, owner, depth - 1)
    inner = _source(value, axis, owner)
    return known if inner is None else known | sizes(inner[0], inner[1], owner, depth - 1)


def _equals(number: Value, owner: ClassInfo | None, depth: int) -> set[Symbol]:
    """Symbols that a number equals."""
    known = {symbol(number)}
    size = size_of(number)
    if size is None:
        return known
    tensor, axis = size
    dims = rank(tensor)
    if axis >= 0 and dims is not None:
        axis -= dims
    return known | sizes(tensor, axis, owner, depth) if axis < 0 else known


def _shape_arguments(value: Value) -> tuple[Value, ...]:
    given = value.args[1:]
    return given[0].args if len(given) == 1 and given[0].op == "tuple" else given


def _source(value: Value, axis: int, owner: ClassInfo | None) -> tuple[Value, int] | None:
    """The tensor, and the axis of it, that an axis of `value` is taken from as it is."""
    if value.op in ("transpose", "permute"):
        return _before_moving(value, axis)
    if value.op in ("softmax", "dropout", "relu", "gelu", "silu", "tanh", "to", "float", "detach"):
        return value.args[0], axis
    if value.op in ("mul", "div") and is_number(value.args[1], owner):
        return value.args[0], axis
    if value.op in ("matmul", "linear") and axis == -2:
        return value.args[0], axis
    if value.op == "module" and axis != -1 and len(value.args) == 1:
        made = _made_by(value, owner)
        shift = 1 if made == "torch.nn.Embedding" else 0
        return (value.args[0], axis + shift) if made in _SAME_LENGTHS and axis + shift < 0 else None
    return _whole(value, axis, owner)


def _whole(value: Value, axis: int, owner: ClassInfo | None) -> tuple[Value, int] | None:
    """The same for one of several tensors that a tensor was taken apart into."""
    inner = value.args[0] if value.args else value
    if value.op == "unpack" and inner.op == "module" and _made_by(inner, owner) == _ROTATES:
        return (inner.args[value.data], axis) if value.data < len(inner.args) else None
    if value.op in ("unpack", "getitem") and inner.op in ("chunk", "split"):
        along = inner.argument(2, "dim")
        dims = rank(inner.args[0])
        split = along.data if along is not None and isinstance(along.data, int) else None
        if split is not None and split >= 0:
            split = split - dims if dims is not None else None
        return (inner.args[0], axis) if split is not None and split != axis else None
    if value.op == "unpack" and inner.op == "unbind":
        first = inner.argument(1, "dim")
        return (inner.args[0], axis) if first is None or first.is_const(0) else None
    if value.op == "getitem" and isinstance(value.data, ast.Constant) and isinstance(value.data.value, int):
        return inner, axis
    return None


def _made_by(value: Value, owner: ClassInfo | None) -> str:
    made = owner.attribute(value.data) if owner is not None else None
    return (owner.index.resolve(made.func) or "") if owner is not None and isinstance(made, ast.Call) else ""


def _before_moving(value: Value, axis: int) -> tuple[Value, int] | None:
    """Where an axis was before `transpose` or `permute`."""
    moves = [arg.data for arg in _shape_arguments(value)]
    dims = len(moves) if value.op == "permute" else rank(value.args[0])
    if not all(isinstance(move, int) for move in moves):
        return None
    if dims is None:
        if value.op == "permute" or not all(move < 0 for move in moves):
            return None
        swapped = {moves[0]: moves[1], moves[1]: moves[0]}
        return value.args[0], swapped.get(axis, axis)
    places = [move % dims for move in moves]
    if value.op == "permute":
        return value.args[0], places[axis] - dims
    order = list(range(dims))
    order[places[0]], order[places[1]] = order[places[1]], order[places[0]]
    return value.args[0], order[axis] - dims
