"""The linear products that queries, keys and values come from, and what else sees their results."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrator.recognise.anatomy import Attention, Stop
from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import ClassInfo
from migrator.recognise.operations import MATMULS, VIEWS
from migrator.recognise.shapes import einsum_of, size_of
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Flow, Value
from migrator.recognise.widths import parameter_shape

_CALLS = frozenset({"module", "call", "call_local", "self_call"})
_NORMS = frozenset({"torch.nn.LayerNorm", "torch.nn.RMSNorm", "torch.nn.functional.normalize"})
_CROSSED = _NORMS | {"runtime.RotaryEmbedding"}
_WEIGHTS = ("Linear", "Parameter", "Conv", "Embedding")
_FUSED = "runtime.FusedProjection"


@dataclass(frozen=True, eq=False)
class Projection:
    """`value` is the product of `source` with the weight in `self.attribute`, which `weight` reads.

    kind: "linear" for a call of an nn.Linear, "heads" for an einsum with a weight (heads, head_dim, in_features).
    """

    kind: str
    value: Value
    source: Value
    attribute: str
    weight: ast.expr

    @property
    def node(self) -> ast.Call:
        assert isinstance(self.value.node, ast.Call)
        return self.value.node

    @property
    def statement(self) -> ast.stmt:
        assert self.value.statement is not None
        return self.value.statement


def products(found: Attention) -> list[Value]:
    """The products behind queries, keys and values, one each; the same one twice where one product makes both.

    Raises Stop("not-linear") where there is none, or more than one.
    """
    result = []
    for role, value in (("queries", found.q), ("keys", found.k), ("values", found.v)):
        behind = list(dict.fromkeys(_behind(found, value)))
        if len(behind) != 1:
            said = " and ".join(_text(one) for one in behind)
            seen = f"more than one product: {said}" if behind else "no product of this method"
            raise Stop("not-linear", f"the {role} come from {seen}", value.node)
        result += behind
    return result


def projection(owner: ClassInfo, value: Value) -> Projection:
    """What a product is. Raises Stop where it is not one that can share a matmul."""
    if value.op == "module" and isinstance(value.node, ast.Call):
        made = owner.attributes.get(value.data, [])
        kinds = {owner.index.resolve(one.value.func) for one in made if isinstance(one.value, ast.Call)}
        if kinds == {"torch.nn.Linear"} and len(value.args) == 1 and not value.keywords:
            return Projection("linear", value, value.args[0], value.data, value.node.func)
    letters = einsum_of(value)
    if letters is not None and isinstance(value.node, ast.Call):
        return _of_heads(owner, value, letters[0].operands, letters[0].output)
    raise Stop("not-linear", f"`{_text(value)}` is no nn.Linear that is given one input", value.node)


def is_fused(owner: ClassInfo, value: Value) -> bool:
    """Whether the product is a call of the runtime's FusedProjection."""
    made = owner.attribute(value.data) if value.op == "module" else None
    return isinstance(made, ast.Call) and owner.index.resolve(made.func) == _FUSED


def fused_attribute(owner: ClassInfo) -> str:
    """The attribute that holds a FusedProjection, or ""."""
    for name in owner.attributes:
        made = owner.attribute(name)
        if isinstance(made, ast.Call) and owner.index.resolve(made.func) == _FUSED:
            return name
    return ""


def _behind(found: Attention, value: Value) -> Iterator[Value]:
    """Products that a value is made from, and nothing behind those."""
    todo, seen = [value], set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        if _is_product(found.owner, one):
            yield one
        else:
            todo += _operands(found.owner, one)


def _operands(owner: ClassInfo | None, value: Value) -> Iterable[Value]:
    """The operands; `q, k = rotated(q, k)` gives out in each place what it took in this place."""
    inner = value.args[0] if value.op == "unpack" else None
    if inner is not None and inner.op in _CALLS and len(inner.args) > value.data and not _is_product(owner, inner):
        return [inner.args[value.data]]
    return value.operands()


def _is_product(owner: ClassInfo | None, value: Value) -> bool:
    if value.op == "module":
        return owner is None or not _is_crossed(owner, value.data)
    if value.op in MATMULS or value.op in ("einsum", "linear"):
        return any(operand.op == "attr" for operand in value.args)
    return value.op == "call" and str(value.data).startswith("torch.nn.functional.conv")


def _is_crossed(owner: ClassInfo, attribute: str) -> bool:
    """Whether a module turns or normalises what it gets, without a product of its own."""
    made = owner.attribute(attribute)
    name = owner.index.resolve(made.func) if isinstance(made, ast.Call) else None
    info = owner.index.modules.get(name or "")
    return name in _CROSSED or (info is not None and not any(word in info.definition.text for word in _WEIGHTS))


def _of_heads(owner: ClassInfo, value: Value, terms: tuple[str, ...], output: str) -> Projection:
    """einsum "btc,hdc->bhtd" of an input and a bare weight, in any letters and either order."""
    pairs = list(zip(terms, value.args[1:], strict=True))
    if len(pairs) == 2 and pairs[0][1].op == "attr":
        pairs.reverse()
    (x, source), (w, weight) = pairs if len(pairs) == 2 else (("", value), ("", value))
    shape = parameter_shape(owner, weight.data) if weight.op == "attr" else None
    distinct = len(x) == len(w) == 3 and len({*x, *w}) == 5 and x[2] == w[2]
    if not distinct or output != f"{x[0]}{w[0]}{x[1]}{w[1]}" or shape is None or len(shape) != 3:
        raise Stop("equation", f"`{_text(value)}` does not give (batch, heads, seq_len, head_dim)", value.node)
    assert weight.node is not None
    return Projection("heads", value, source, weight.data, weight.node)


def _text(value: Value) -> str:
    return ast.unparse(value.node) if value.node is not None else value.op


# --- what becomes of the results ------------------------------------------------------------------------------------


def check_uses(flow: Flow, value: Value) -> None:
    """Raises Stop where something needs a result to be a tensor of its own: it becomes a view of a wider one."""
    returned = {one for one, _ in flow.returns}
    for inner, alias, whole in _aliases(flow, value):
        stored = any(store.value is alias and store.kind != "effect" for store in inner.stores)
        if stored or alias in returned:
            raise Stop("output-kept", f"`{_text(value)}` is returned or stored as it is", alias.node)
        for user in alias.users:
            if _in_place(alias, user):
                raise Stop("in-place", f"`{_statement(user)}` changes a projection in place", user.node)
            sizes = _sizes_of_view(user)
            if not whole and sizes is not None and not _splits_heads(sizes):
                raise Stop("view", f"`{_statement(user)}` may need contiguous memory", user.node)


def _aliases(flow: Flow, value: Value) -> Iterator[tuple[Flow, Value, bool]]:
    """What shares the memory of a value, here and where it is handed to, and whether it is contiguous by then."""
    todo, seen = [(flow, value, False)], set()
    while todo:
        here, one, whole = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        yield here, one, whole
        for user in one.users:
            if user.op in VIEWS or user.op in ("tuple", "phi", "loop", "looped"):
                todo.append((here, user, whole or user.op == "contiguous"))
            todo += [(inner, given, whole) for inner, given in _handed_to(here, one, user)]


def _handed_to(flow: Flow, value: Value, user: Value) -> Iterator[tuple[Flow, Value]]:
    """What the value is inside a method or function of the file that gets it, as in `self.split_heads(q)`."""
    inner = None
    if flow.owner is not None and user.op == "self_call":
        inner = method_flow(flow.owner, user.data)
    elif flow.owner is not None and user.op == "call" and user.data in flow.owner.index.functions:
        index = flow.owner.index
        definition = index.functions[user.data]
        assert isinstance(definition.tree, FunctionNode)
        inner = flow_of(index, definition, definition.tree)
    if inner is not None and value in user.args:
        spec = inner.function.args
        names = [arg.arg for arg in (*spec.posonlyargs, *spec.args) if arg.arg != inner.self_name]
        given = inner.parameter(names[user.args.index(value)]) if user.args.index(value) < len(names) else None
        if given is not None:
            yield inner, given


def _in_place(value: Value, user: Value) -> bool:
    if not user.args or user.args[0] is not value:
        return False
    if user.op == "setitem" or (user.node is None and isinstance(user.statement, ast.AugAssign)):
        return True
    called = user.node.func if isinstance(user.node, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else ""
    inside = user.keywords.get("inplace")
    return name.endswith("_") or (inside is not None and not inside.is_const(False))


def _statement(value: Value) -> str:
    node = value.node or value.statement
    return ast.unparse(node).partition("\n")[0] if node is not None else value.op


def _sizes_of_view(user: Value) -> tuple[Value, ...] | None:
    """The sizes that `x.view(...)` is given, `x.view(*sizes)` too; None for anything else."""
    if user.op in ("view", "view_as"):
        return user.args[1:]
    if user.op == "getattr" and user.data in ("view", "view_as"):
        called = next((one for one in user.users if one.op == "opaque"), None)
        return called.args[1].args if called is not None and len(called.args) == 2 else ()
    return None


def _splits_heads(sizes: tuple[Value, ...]) -> bool:
    """x.view(batch, seq_len, heads, head_dim): the first two axes stay, so that it does not matter how wide x is."""
    if len(sizes) == 1 and sizes[0].op == "tuple":
        sizes = sizes[0].args
    if len(sizes) == 1 and sizes[0].op == "add":  # x.size()[:-1] + (heads, head_dim)
        lead, heads = sizes[0].args
        return heads.op == "tuple" and lead.node is not None and _text(lead).endswith(("size()[:-1]", "shape[:-1]"))
    return len(sizes) == 4 and all(_is_size(size, axis) for axis, size in enumerate(sizes[:2]))


def _is_size(value: Value, axis: int) -> bool:
    measured = size_of(value)
    return value.is_const(-1) or (measured is not None and measured[1] == axis)
