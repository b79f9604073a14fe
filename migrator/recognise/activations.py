"""Activations by what they compute: a function or a class of the file is tried out on numbers."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

from migrator.recognise.arithmetic import FUNCTIONS
from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import once_assigned
from migrator.recognise.values import Flow, Value, strip

_POINTS = (-5.0, -2.5, -1.1, -0.6, -0.2, 0.0, 0.1, 0.7, 1.3, 3.0, 6.0)
_NEAR = 1e-6  # constants such as 0.7978845608 are cut off; the two GELUs differ by 4.7e-4
_ROOT = math.sqrt(2 / math.pi)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _erf_gelu(x: float) -> float:
    return x / 2 * (1 + math.erf(x / math.sqrt(2)))


def _tanh_gelu(x: float) -> float:
    return x / 2 * (1 + math.tanh(_ROOT * (x + 0.044715 * x**3)))


_KNOWN: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": _erf_gelu,
    "tanh gelu": _tanh_gelu,
    "quick gelu": lambda x: x * _sigmoid(1.702 * x),
}
_COMPUTED: dict[str, Callable[..., float]] = {name: function for name, (_, function) in FUNCTIONS.items()} | {
    "relu": _KNOWN["relu"],
    "gelu": _erf_gelu,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "square": lambda x: x * x,
    "tanh": math.tanh,
    "tensor": float,
}
_CALLED: dict[str, Callable[..., float]] = {
    "torch.erf": math.erf,
    "erf": math.erf,
    "math.sqrt": math.sqrt,
    "math.pow": math.pow,
}
_PI = ("math.pi", "torch.pi", "numpy.pi")
_TORCHS = {"torch.nn.ReLU": "relu", "torch.nn.GELU": "gelu"}
_NAMED = {"torch.nn.functional.relu": "relu", "torch.relu": "relu", "torch.nn.functional.gelu": "gelu"}


def activation_of(index: FileIndex, info: ClassInfo, value: Value) -> str:
    """relu, gelu, tanh gelu or quick gelu, if that is the operation of a value, else "".

    "configured" is one that the configuration picks from a table of activations of the file.
    """
    if value.op in ("relu", "gelu"):
        return value.op
    if value.op == "call" and len(value.args) == 1 and not value.keywords:
        return _of_function(index, str(value.data))
    if value.op == "self_call" and len(value.args) == 1 and not value.keywords:
        return _tried(method_flow(info, str(value.data)))
    if value.op == "module" and len(value.args) == 1 and not value.keywords:
        made = info.attribute(str(value.data))
        known = _of_expression(index, info, made) if made is not None else ""
        return known or ("configured" if _is_configured(index, info, str(value.data)) else "")
    return ""


def bends(value: Value) -> bool:
    """Whether a product only bends one value, as x * sigmoid(x) does: a gate multiplies two."""
    return len(_bent(value)) == 1


def _bent(value: Value) -> set[Value]:
    """The values that elementwise operations begin with, but for constants and parameters."""
    value = strip(value)
    if value.op in ("const", "attr", "global"):
        return set()
    elementwise = value.op in _COMPUTED or (value.op in ("call", "method") and str(value.data) in _CALLED)
    return {one for arg in value.args for one in _bent(arg)} if elementwise else {value}


def _of_expression(index: FileIndex, info: ClassInfo, made: ast.expr) -> str:
    """`NewGELU()`, `gelu`, `F.relu` or `self.gelu`, as an attribute holds it, or a choice of two of them."""
    if isinstance(made, ast.IfExp):
        both = {_of_expression(index, info, side) for side in (made.body, made.orelse)}
        return both.pop() if len(both) == 1 else "configured" if "" not in both else ""
    if isinstance(made, ast.Call):
        return _TORCHS.get(index.resolve(made.func) or "") or activation_made(index, made)
    if isinstance(made, ast.Attribute) and isinstance(made.value, ast.Name) and made.value.id == "self":
        return _tried(method_flow(info, made.attr))
    return _of_function(index, index.resolve(made) or "")


def activation_made(index: FileIndex, made: ast.Call) -> str:
    """What an activation of the file's own is, made without arguments: `NewGELU()`."""
    inner = index.modules.get(index.resolve(made.func) or "") if not made.args and not made.keywords else None
    return _tried(method_flow(inner)) if inner is not None else ""


def _is_configured(index: FileIndex, info: ClassInfo, attribute: str) -> bool:
    """Whether `__init__` takes the attribute from a table of activations, or else from the configuration itself."""
    values = [assignment.value for assignment in info.attributes.get(attribute, [])]
    picked = [value for value in values if _is_picked(index, info, value)]
    others = [value for value in values if value not in picked]
    handed = all(isinstance(value, ast.Attribute) and _root(value) in info.init_parameters for value in others)
    return bool(picked) and handed and attribute not in info.stores_outside_init


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_picked(index: FileIndex, info: ClassInfo, value: ast.expr) -> bool:
    """`ACT2FN[config.act]`, or `self.pick(act)` where that method returns such a thing."""
    table: ast.expr | None = None
    if isinstance(value, ast.Subscript):
        table = index.constants.get(ast.unparse(value.value))
    elif isinstance(value, ast.Call) and ast.unparse(value.func).startswith("self."):
        method = info.methods.get(ast.unparse(value.func).removeprefix("self."))
        returned = [node.value for node in ast.walk(method) if isinstance(node, ast.Return)] if method else []
        if method is not None and len(returned) == 1 and isinstance(returned[0], ast.Subscript):
            table = once_assigned(method).get(ast.unparse(returned[0].value))
    return isinstance(table, ast.Dict) and _are_activations(index, info, table)


def _are_activations(index: FileIndex, info: ClassInfo, table: ast.Dict) -> bool:
    """Whether a ReLU or GELU is among the values, and the others are names of functions that may take one value."""
    known = [_of_expression(index, info, value) for value in table.values]
    names = [index.resolve(value) or "" for value in table.values]
    fit = [bool(name) and (name not in index.functions or len(_parameters(index, name)) == 1) for name in names]
    return any(known) and all(fit)


def _parameters(index: FileIndex, name: str) -> list[str]:
    tree = index.functions[name].tree
    return [arg.arg for arg in tree.args.args] if isinstance(tree, ast.FunctionDef) else []


def _of_function(index: FileIndex, name: str) -> str:
    if name in _NAMED:
        return _NAMED[name]
    definition = index.functions.get(name)
    tree = definition.tree if definition is not None else None
    twins = sum(one.name == name for one in index.definitions)
    if definition is None or not isinstance(tree, ast.FunctionDef) or twins > 1 or tree.decorator_list:
        return ""
    return _tried(flow_of(index, definition, tree))


def _tried(flow: Flow | None) -> str:
    """The known activation that a function of one argument agrees with at some points."""
    if flow is None or len(flow.returns) != 1 or flow.stores or len([v for v in flow.values if v.op == "param"]) != 1:
        return ""
    result = flow.returns[0][0]
    try:
        found = [_computed(result, point) for point in _POINTS]
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return ""
    for name, function in _KNOWN.items():
        if all(abs(a - function(x)) <= _NEAR for a, x in zip(found, _POINTS, strict=True)):
            return name
    return ""


def _computed(value: Value, point: float) -> float:
    """What a value is where the one parameter is `point`. Raises KeyError for what is not understood."""
    value = strip(value)
    if value.op == "param":
        return point
    if value.op == "const" and isinstance(value.data, int | float):
        return value.data
    if value.op == "global" and value.data in _PI:
        return math.pi
    if value.keywords:
        raise KeyError(value.op)
    function = _CALLED[str(value.data)] if value.op in ("call", "method") else _COMPUTED[value.op]
    return function(*(_computed(arg, point) for arg in value.args))
