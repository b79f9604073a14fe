"""Classes of the file that are linear products: x @ weight + bias, such as the Conv1D of GPT-2."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import once_assigned
from migrator.recognise.values import Flow, Value, strip

_VIEWS = ("view", "reshape", "flatten")
_MAKES = ("torch.empty", "torch.randn", "torch.zeros", "torch.Tensor")


@dataclass(frozen=True)
class Roles:
    """Which arguments are the widths of what goes in and of what comes out: their places and their names."""

    into: int
    out: int
    names: tuple[str, str] = ("in_features", "out_features")

    def widths(self, call: ast.Call) -> tuple[ast.expr, ast.expr] | None:
        """The widths as a call says them."""
        found = [_argument(call, place, name) for place, name in zip((self.into, self.out), self.names, strict=True)]
        return (found[0], found[1]) if found[0] is not None and found[1] is not None else None

    def others(self, call: ast.Call) -> list[tuple[str, ast.expr]]:
        """The arguments that are no widths, each with its keyword or ""."""
        placed = [("", arg) for place, arg in enumerate(call.args) if place not in (self.into, self.out)]
        return placed + [(k.arg or "**", k.value) for k in call.keywords if k.arg not in self.names]


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return call.args[place] if len(call.args) > place else (named[0] if named else None)


def products(info: ClassInfo) -> dict[str, ast.Call]:
    """Attributes, and items of ModuleDicts ("mlp.fc"), that are linear products."""
    names = [*info.attributes, *(f"{name}.{key}" for name in info.attributes for key in info.items_of(name))]
    return {
        name: value
        for name in names
        if isinstance(value := info.attribute(name), ast.Call) and roles(info.index, value) is not None
    }


def roles(index: FileIndex, call: ast.Call) -> Roles | None:
    """The roles of the arguments of nn.Linear or of a class of the file that computes the same; None for all else."""
    name = index.resolve(call.func) or ""
    if name == "torch.nn.Linear":
        return Roles(0, 1)
    info = index.modules.get(name)
    if info is None:
        return None
    key = ("matrix", info.node)
    if key not in index.memo:
        index.memo[key] = _roles(info)
    found: Roles | None = index.memo[key]
    return found


def _roles(info: ClassInfo) -> Roles | None:
    flow = method_flow(info)
    if flow is None or len(flow.returns) != 1 or flow.stores:
        return None
    weight = _weight(flow)
    sizes = _sizes(info, weight) if weight else []
    names = list(info.init_parameters)
    if len(sizes) != 2 or len(set(sizes)) != 2 or not set(sizes) <= set(names):
        return None
    return Roles(names.index(sizes[0]), names.index(sizes[1]), (sizes[0], sizes[1]))


def _weight(flow: Flow) -> str:
    """The attribute w of x @ w + b, between views."""
    value = _seen_through(flow.returns[0][0])
    if value.op == "call" and value.data == "torch.addmm" and len(value.args) == 3 and not value.keywords:
        bias, source, weight = value.args
    elif value.op == "add" and strip(value.args[0]).op == "matmul":
        bias, (source, weight) = value.args[1], strip(value.args[0]).args
    else:
        return ""
    plain = bias.op == "attr" and weight.op == "attr" and _seen_through(source).op == "param"
    return str(weight.data) if plain else ""


def _seen_through(value: Value) -> Value:
    """What is viewed in another shape, also as `x.view(*shape)`."""
    value = strip(value)
    while value.args:
        node, inner = value.node, value.args[0]
        starred = value.op == "opaque" and isinstance(node, ast.Call) and inner.op == "getattr"
        if starred and inner.data in _VIEWS:
            value = strip(inner.args[0])
        elif value.op in _VIEWS:
            value = strip(inner)
        else:
            break
    return value


def _sizes(info: ClassInfo, attribute: str) -> list[str]:
    """The sizes of `nn.Parameter(torch.empty(a, b))`, or of a local name for the tensor."""
    made = info.attribute(attribute)
    inner = made.args[0] if isinstance(made, ast.Call) and made.args else None
    if isinstance(inner, ast.Name):
        inner = once_assigned(info.methods["__init__"]).get(inner.id)
    if not isinstance(inner, ast.Call) or info.index.resolve(inner.func) not in _MAKES:
        return []
    return [arg.id for arg in inner.args if isinstance(arg, ast.Name)] if not inner.keywords else []
