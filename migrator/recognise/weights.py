"""The way of attention weights from the softmax to their product with the values."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from migrator.recognise.anatomy import Stop, text_of
from migrator.recognise.calls import given_in_calls
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.shapes import einsum_of
from migrator.recognise.values import Flow, Value

_PASSING = frozenset({"dropout", "contiguous", "clone", "identity", "call_local"})
# What may stand on the way without being understood; what else uses the weights leads elsewhere.
_STRANGE = frozenset(
    {
        "add",
        "call",
        "div",
        "flatten",
        "float",
        "getitem",
        "loop",
        "looped",
        "masked_fill",
        "method",
        "module",
        "mul",
        "opaque",
        "permute",
        "phi",
        "pow",
        "repeat",
        "reshape",
        "self_call",
        "setitem",
        "squeeze",
        "sub",
        "to",
        "transpose",
        "type_as",
        "unflatten",
        "unsqueeze",
        "view",
        "where",
    }
)


@dataclass(eq=False)
class Weights:
    """`links` lead from the softmax to `final`, which is multiplied with the values in `output`.

    The dropout on the way happens where `condition` holds, and always without one.
    """

    softmax: Value
    final: Value
    output: Value
    links: list[Value] = field(default_factory=list)
    dropout: Value | None = None
    condition: Value | None = None


def follow(softmax: Value) -> Weights | None:
    """The way to a weighted sum, if nothing but dropout stands on it."""
    found = Weights(softmax, softmax, softmax, [softmax])
    while True:
        output = next((user for user in found.final.users if is_sum_of(user, found.final)), None)
        if output is not None:
            found.output = output
            return found
        steps = [user for user in found.final.users if user.op in _PASSING]
        if len(steps) != 1 or (found.dropout is not None and steps[0].op in ("dropout", "call_local")):
            return None
        _take(found, steps[0])


def _take(found: Weights, step: Value) -> None:
    """One step on, and through `if condition: weights = dropout(weights)` around it."""
    if step.op in ("dropout", "call_local"):
        found.dropout = step
    merged = step.users[0] if len(step.users) == 1 else None
    if merged is not None and merged.op == "phi" and merged.args[1] is step and merged.args[2] is found.final:
        found.condition = merged.args[0]
        found.links.append(step)
        step = merged
    found.links.append(step)
    found.final = step


def stranger(softmax: Value, depth: int = 8) -> Value | None:
    """Where `follow` finds no way: the first thing that keeps the weights from a weighted sum, if there is a sum."""
    todo: list[tuple[Value, Value | None]] = [(softmax, None)]
    seen = {softmax}
    for _ in range(depth):
        ahead: list[tuple[Value, Value | None]] = []
        for value, strange in todo:
            for user in value.users:
                if is_sum_of(user, value):
                    return strange or value
                if user.op in _PASSING | _STRANGE and user not in seen:
                    seen.add(user)
                    ahead.append((user, strange or (user if user.op in _STRANGE else None)))
        todo = ahead
    return None


def check(flow: Flow, way: Weights) -> None:
    """Nobody but the weighted sum may see the weights: the fast path never has them."""
    if way.dropout is not None and way.dropout.op == "call_local" and not _is_given_dropout(flow, way.dropout.args[0]):
        raise Stop("dropout", "the weights pass through a function that was handed in", way.dropout.node)
    results = [value for value, _ in flow.returns]
    known = {*way.links, way.output, *(value for value in results if flow.unwanted and value.op == "tuple")}
    escaping = {*results, *(store.value for store in flow.stores)}
    for link in way.links:
        if link in escaping or any(user not in known for user in link.users):
            raise Stop("weights-used", "the attention weights are used again after the weighted sum")
    for value in (way.softmax, way.dropout):
        path = value.data if value is not None else None
        if isinstance(path, str) and path.startswith("self.") and _hooked(flow.index, path[5:]):
            raise Stop("weights-used", f"a hook watches `{path}`, through which the attention weights pass")


def _is_given_dropout(flow: Flow, called: Value) -> bool:
    """Whether a parameter of a free function is `nn.Dropout` or None in all calls that the file makes."""
    if called.op == "param" and called.data in flow.dropouts:
        return True
    given = given_in_calls(flow, called)
    kinds = {_kind_of(argument, owner) for argument, owner in given or ()}
    return "torch.nn.Dropout" in kinds and kinds <= {"torch.nn.Dropout", "None"}


def _kind_of(argument: ast.expr | None, owner: ClassInfo | None) -> str:
    """The class of the module `self.name` that is handed over, or "None" for none."""
    if argument is None or (isinstance(argument, ast.Constant) and argument.value is None):
        return "None"
    if owner is None or not isinstance(argument, ast.Attribute) or ast.unparse(argument.value) != "self":
        return ""
    made = owner.attribute(argument.attr)
    return (owner.index.resolve(made.func) or "") if isinstance(made, ast.Call) else ""


def _hooked(index: FileIndex, attribute: str) -> bool:
    """Whether the file registers a hook on `anything.attribute`."""
    for definition in index.definitions:
        if "_hook" not in definition.text:
            continue
        for node in ast.walk(definition.tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("register_") and node.attr.endswith("_hook"):
                held = node.value
                if isinstance(held, ast.Attribute) and held.attr == attribute.partition("[")[0].rpartition(".")[2]:
                    return True
    return False


def seen_on_the_way(value: Value) -> str:
    return f"between softmax and weighted sum stands `{text_of(value)}`"


def is_sum_of(user: Value, weights: Value) -> bool:
    """Whether a value is the product of these weights with something."""
    letters = einsum_of(user)
    operands = letters[1] if letters else user.args
    product = user.op in ("matmul", "bmm", "einsum") and user.node is not None
    return product and len(operands) == 2 and any(arg is weights for arg in operands)
