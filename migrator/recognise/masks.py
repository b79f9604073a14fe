"""What a mask hides, and what is a plain number."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

from migrator.recognise.index import ClassInfo
from migrator.recognise.shapes import arange_length, grid_axis, size_of, symbol
from migrator.recognise.values import Value, strip

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "is", "isnot", "in", "notin"})
_BOOLEAN = _COMPARISONS | {"not", "and", "or", "long", "bitand", "bitor"}


def hides_future(test: Value, known: Callable[[Value], bool | None] | None = None) -> bool | None:
    """True if `test` holds exactly where the key is later than the query, False if exactly elsewhere, else None.

    `known` says the same of values that this function does not understand.
    """
    test = _plain(test)
    if test.op == "not":
        inner = hides_future(test.args[0], known)
        return None if inner is None else not inner
    if test.op in ("lt", "gt", "le", "ge") and len(test.args) == 2:
        return _compares_grid(test)
    if test.op in ("eq", "ne") and len(test.args) == 2 and test.args[1].op == "const":
        inner = hides_future(test.args[0], known)
        zero = test.args[1].data in (0, False)
        one = test.args[1].data in (1, True)
        if inner is None or not (zero or one):
            return None
        return inner if (test.op == "ne") == zero else not inner
    if test.op in ("tril", "triu") and test.args:
        return _is_triangle(test)
    return known(test) if known is not None else None


def _is_triangle(test: Value) -> bool | None:
    """`torch.ones(T, T).triu(1)`, or `torch.ones(T, S).triu(S - T + 1)`, whose last query stands at the last key."""
    sizes = _sizes_of_ones(test.args[0])
    diagonal = test.argument(1, "diagonal")
    if len(sizes) < 2:
        return None
    shift = symbol(diagonal) if diagonal is not None else ("const", 0)
    past = ("sub", symbol(sizes[-1]), symbol(sizes[-2]))
    if test.op == "tril":
        return False if shift == past or (shift == ("const", 0) and _is_square(sizes)) else None
    return True if shift == ("add", past, ("const", 1)) or (shift == ("const", 1) and _is_square(sizes)) else None


def is_triangle_of_infinities(bias: Value) -> bool:
    """`torch.triu(torch.full((T, T), float("-inf")), diagonal=1)`, which hides the future when it is added."""
    bias = strip(bias)
    diagonal = bias.argument(1, "diagonal")
    if bias.op != "triu" or diagonal is None or not diagonal.is_const(1):
        return False
    full = strip(bias.args[0])
    if full.op != "full" or len(full.args) != 2 or constant(full.args[1]) != -math.inf:
        return False
    return _is_square(full.args[0].args)


def _plain(value: Value) -> Value:
    value = strip(value)
    while (value.op in ("to", "float", "contiguous") and value.args) or _adds_axes_in_front(value):
        value = strip(value.args[0])
    return value


def _adds_axes_in_front(value: Value) -> bool:
    """`mask.unsqueeze(0)`, `mask[None, None]` and `mask[None, None, :, :]`, which are broadcast as `mask` is."""
    if value.op == "unsqueeze":
        return len(value.args) == 2 and value.args[1].is_const(0)
    if value.op != "getitem":
        return False
    items = list(value.data.elts) if isinstance(value.data, ast.Tuple) else [value.data]
    new = [isinstance(item, ast.Constant) and item.value is None for item in items]
    whole = [isinstance(item, ast.Slice) and item.lower is item.upper is item.step is None for item in items]
    front = new.index(False) if False in new else len(new)
    return front > 0 and all(whole[front:])


def is_lower_right(test: Value) -> bool:
    """Whether a triangle leaves queries without any key, where there are more queries than keys."""
    test = _plain(test)
    if test.op == "not" or (test.op in ("eq", "ne") and test.args):
        return is_lower_right(test.args[0])
    diagonal = test.argument(1, "diagonal") if test.op in ("tril", "triu") else None
    return diagonal is not None and diagonal.op != "const"


def _sizes_of_ones(value: Value) -> tuple[Value, ...]:
    """(T, S) of `torch.ones(T, S)`."""
    value = _plain(value)
    sizes = value.args if value.op == "ones" else ()
    return sizes[0].args if len(sizes) == 1 and sizes[0].op == "tuple" else sizes


def _is_square(sizes: tuple[Value, ...]) -> bool:
    """As many queries as keys: else the triangle would be another one than `causal`'s."""
    return len(sizes) >= 2 and not sizes[-1].is_const(1) and symbol(sizes[-1]) == symbol(sizes[-2])


def _compares_grid(test: Value) -> bool | None:
    left, right = (grid_axis(arg) for arg in test.args)
    lengths = [arange_length(arg) for arg in test.args]
    if lengths[0] is None or lengths[1] is None or {left, right} != {-1, -2}:
        return None
    if lengths[0].is_const(1) or symbol(lengths[0]) != symbol(lengths[1]):
        return None
    op = test.op if left == -2 else {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}[test.op]
    return {"lt": True, "ge": False}.get(op)


def is_boolean(value: Value) -> bool:
    """Whether a value is boolean or integer for certain, and so no bias."""
    value = strip(value)
    if value.op == "to":
        return any(arg.op == "global" and arg.data in _INTEGER_TYPES for arg in value.operands()) or value.data in (
            "bool",
            "int",
        )
    return value.op in _BOOLEAN


_INTEGER_TYPES = ("torch.bool", "torch.int", "torch.long", "torch.int64", "torch.int32", "torch.uint8", "bool", "int")


_EINOPS = frozenset({"einops.rearrange", "einops.reduce", "einops.repeat"})
_TENSORS = frozenset(
    {"eq", "expand", "float", "ge", "gt", "le", "long", "lt", "masked_fill", "ne", "not", "permute", "repeat"}
    | {"reshape", "squeeze", "to", "transpose", "tril", "triu", "unsqueeze", "view"}
)


def is_tensor(value: Value) -> bool:
    """Whether a value is no None for certain, being what an operation on tensors gives."""
    if value.op == "call" and value.data in _EINOPS:
        return True
    if value.op in ("mul", "bitand", "bitor"):
        return all(is_tensor(arg) for arg in value.args)
    sliced = value.op == "getitem" and isinstance(value.data, ast.Tuple)
    return value.op in _TENSORS or (sliced and any(isinstance(item, ast.Slice) for item in value.data.elts))


def is_number(value: Value, owner: ClassInfo | None, depth: int = 6) -> bool:
    """Whether a value is a plain number: sizes, constants, numeric attributes, and arithmetic of them."""
    value = strip(value)
    if depth == 0:
        return False
    if value.op == "const":
        return isinstance(value.data, int | float)
    if size_of(value) is not None or value.data in ("math.sqrt", "math.pow"):
        return True
    if value.op == "element":  # of `for i in range(n)`
        return value.args[0].op == "call" and value.args[0].data == "range"
    if value.op == "attr":
        return owner is not None and is_numeric_attribute(owner, value.data)
    arithmetic = value.op in ("sqrt", "pow", "div", "mul", "add", "sub", "floordiv", "to", "float")
    if arithmetic or (value.op == "call" and value.data in ("int", "round", "max", "min", "pow", "len")):
        if isinstance(value.data, str) and value.data.startswith("torch") and value.op != "to":
            return False
        return all(is_number(arg, owner, depth - 1) for arg in value.operands())
    return False


_NUMERIC = (
    *(ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Constant, ast.Name, ast.Attribute),
    *(ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.expr_context),
)


def is_numeric_attribute(owner: ClassInfo, name: str) -> bool:
    """Whether `__init__` alone sets the attribute, to a number as far as one can see."""
    value = owner.attribute(name)
    if value is None or name in owner.stores_outside_init:
        return False
    if isinstance(value, ast.Constant) and value.value is None:
        return False
    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call)]
    if any(owner.index.resolve(node.func) not in ("math.sqrt", "float", "int", "pow", "max", "min") for node in calls):
        return False
    return all(isinstance(node, (*_NUMERIC, ast.Call)) for node in ast.walk(value))


def constant(value: Value, owner: ClassInfo | None = None) -> float | None:
    """The number that a value is, where it is spelt out: in place, or in the `__init__` of `owner`."""
    value = strip(value)
    if value.op == "const" and isinstance(value.data, int | float):
        return float(value.data)
    if value.op == "neg":
        inner = constant(value.args[0], owner)
        return None if inner is None else -inner
    if value.op == "mul":
        factors = [constant(arg, owner) for arg in value.args]
        return None if None in factors else math.prod(factor for factor in factors if factor is not None)
    if value.op == "attr" and owner is not None and value.data not in owner.stores_outside_init:
        said = owner.attribute(value.data)
        number = said.value if isinstance(said, ast.Constant) else None
        return float(number) if isinstance(number, int | float) else None
    if value.op == "global" and value.data in ("math.inf", "torch.inf", "numpy.inf"):
        return math.inf
    return None
