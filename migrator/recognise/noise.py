"""Modules that only put noise on a value in training: dropout, stochastic depth, or nothing at all.

What such a module stands behind is still the branch, the product or the sum that it would be without it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.operations import MATMULS
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Value, strip

_NOISY = frozenset({"DropPath", "StochasticDepth"})  # of timm and of torchvision
_SILENT = frozenset({"torch.nn.Identity"})
_MIXING = MATMULS | {"cat", "einsum", "module", "softmax"}
_DRAWS = ("rand(", "rand_like(", "bernoulli", "dropout(")


def behind_noise(info: ClassInfo | None, value: Value) -> Value:
    """The value that noise was put on, through all of it, also where a condition leaves it out."""
    value = strip(value)
    while (inner := _source(info, value)) is not None:
        value = strip(inner)
    return value


def is_noise(info: ClassInfo | None, value: Value) -> bool:
    """Whether a value is another one with noise on it."""
    return _source(info, value) is not None


def is_noise_module(info: ClassInfo, attribute: str) -> bool:
    """Whether all that `__init__` may put into an attribute is noise."""
    values = [assigned.value for assigned in info.attributes.get(attribute, [])]
    made = [one for value in values for one in _choices(value)]
    return any(isinstance(one, ast.Call) for one in made) and all(_is_made(info.index, one) for one in made)


def sole_user(info: ClassInfo | None, value: Value) -> Value | None:
    """The one use of a value; noise that a condition leaves out counts as one."""
    merged = next((user for user in value.users if user.op == "phi" and is_noise(info, user)), None)
    if merged is not None:
        others = [user for user in value.users if user is not merged]
        return merged if all(user.users == [merged] and is_noise(info, user) for user in others) else None
    return value.users[0] if len(value.users) == 1 else None


def _source(info: ClassInfo | None, value: Value) -> Value | None:
    if value.op == "dropout" and value.args:
        return value.args[0]
    if value.op == "module" and info is not None and len(value.args) == 1 and not value.keywords:
        return value.args[0] if is_noise_module(info, str(value.data)) else None
    if value.op == "phi":
        yes, no = (strip(side) for side in value.args[1:])
        for noisy, plain in ((yes, no), (no, yes)):
            if _source(info, noisy) is not None and strip(_source(info, noisy) or noisy) is plain:
                return plain
    return None


def _choices(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions that a conditional one chooses from."""
    if isinstance(node, ast.IfExp):
        yield from _choices(node.body)
        yield from _choices(node.orelse)
    else:
        yield node


def _is_made(index: FileIndex, node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Constant) and node.value is None  # called under a condition only
    name = index.resolve(node.func) or ""
    if name.startswith("torch.nn.Dropout") or name in _SILENT:
        return True
    info = index.modules.get(name)
    return is_noise_of(info) if info is not None else name.rpartition(".")[2] in _NOISY


def is_noise_of(info: ClassInfo) -> bool:
    """Whether a class of the file has no weights, and draws random numbers."""
    key = ("noise", info.node)
    if key not in info.index.memo:
        info.index.memo[key] = _only_draws(info)
    found: bool = info.index.memo[key]
    return found


def _only_draws(info: ClassInfo) -> bool:
    text = info.definition.text
    called = [function for name, function in info.index.functions.items() if f"{name}(" in text]
    plain = all(not isinstance(inner, ast.Call) or _is_number(info.index, inner) for value in _held(info)
                for inner in ast.walk(value))  # fmt: skip
    draws = any(word in one for one in (text, *(function.text for function in called)) for word in _DRAWS)
    return plain and draws and "Parameter" not in text and not _mixes(info, called)


def _mixes(info: ClassInfo, called: list[Definition]) -> bool:
    """Whether positions or channels meet, so that dropout is only a part of what is computed."""
    inner = [flow_of(info.index, one, one.tree) for one in called if isinstance(one.tree, FunctionNode)]
    flows = [method_flow(info), *inner]
    return any(flow is None or any(value.op in _MIXING for value in flow.values) for flow in flows)


def _held(info: ClassInfo) -> Iterator[ast.expr]:
    for assignments in info.attributes.values():
        yield from (assignment.value for assignment in assignments)


def _is_number(index: FileIndex, call: ast.Call) -> bool:
    """`float(p)`, and no module of torch or of the file."""
    name = index.resolve(call.func) or ast.unparse(call.func)
    return name in ("float", "int", "bool", "max", "min")
