"""Products of two computed tensors, where scores begin, and what is made of them."""

from __future__ import annotations

from migrator.recognise.shapes import einsum_of
from migrator.recognise.values import Value, strip

# Operations that scores may go through on their way from the product, understood or not.
_LEADING = frozenset(
    {
        "add",
        "baddbmm",
        "call",
        "call_local",
        "clamp",
        "contiguous",
        "div",
        "dropout",
        "float",
        "getitem",
        "loop",
        "looped",
        "masked_fill",
        "method",
        "module",
        "mul",
        "neg",
        "opaque",
        "permute",
        "phi",
        "reshape",
        "self_call",
        "setitem",
        "sigmoid",
        "softmax",
        "sub",
        "tanh",
        "to",
        "transpose",
        "type_as",
        "view",
        "where",
    }
)


def find_product(value: Value, depth: int = 12) -> Value | None:
    """The product of two computed values that the scores come from, if they do."""
    value = strip(value)
    if depth == 0:
        return None
    if value.op in ("matmul", "bmm") and len(value.args) == 2 and not any(_is_weight(arg) for arg in value.args):
        return value
    letters = einsum_of(value)
    if letters is not None:
        return _product_of_einsum(value, letters[1], depth)
    if value.op == "baddbmm" and len(value.args) == 3:
        return value
    if value.op in _LEADING:
        for operand in value.args[1:] if value.op == "phi" else value.args[: 1 if value.op == "getitem" else None]:
            found = find_product(operand, depth - 1)
            if found is not None:
                return found
    return None


def _product_of_einsum(value: Value, operands: tuple[Value, ...], depth: int) -> Value | None:
    """The einsum itself, or the product that it mixes with a weight, as talking heads do."""
    weights = [operand for operand in operands if _is_weight(operand)]
    if len(operands) == 2 and not weights:
        return value
    inner = [strip(operand) for operand in operands if operand not in weights]
    if len(inner) == len(weights) == 1 and inner[0].op in ("einsum", "matmul", "mul", "div"):
        return find_product(inner[0], depth - 1)
    return None


def _is_weight(value: Value) -> bool:
    """A parameter or a constant: a product with it is a projection, not a comparison of queries with keys."""
    value = strip(value)
    while value.op in ("transpose", "permute", "t"):
        value = strip(value.args[0])
    return value.op in ("attr", "const", "global")


def made_by(value: Value, steps: set[str]) -> bool:
    """Whether one of these operations stands between a value and the product it comes from."""
    value = strip(value)
    while value.op in _LEADING and value.args:
        if value.op in steps:
            return True
        value = strip(value.args[1 if value.op == "phi" else 0])
    return False


def is_product(value: Value) -> bool:
    """Whether a value is a product of tensors, perhaps scaled: a term of the scores, and no mask."""
    value = strip(value)
    while value.op in ("mul", "div", "neg"):
        value = strip(value.args[0])
    return value.op in ("einsum", "matmul", "bmm")


def made_of(value: Value, source: Value) -> bool:
    """Whether the numbers of `source`, and not just its size, dtype or device, go into a value."""
    seen, todo = {value}, [value]
    while todo:
        one = todo.pop()
        if one is source:
            return True
        new = [arg for arg in one.operands() if arg not in seen and one.op not in ("size", "shape", "getattr")]
        seen.update(new)
        todo.extend(new)
    return False


def reaches(value: Value, target: Value, depth: int = 8) -> bool:
    if value is target:
        return True
    return depth > 0 and any(reaches(arg, target, depth - 1) for arg in value.operands())
