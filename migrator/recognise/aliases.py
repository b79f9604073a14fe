"""Whether a tensor may become a view of a wider one: who shares its memory, and who needs that memory for itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.anatomy import Stop, text_of
from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.mutation import is_in_place
from migrator.recognise.operations import VIEWS
from migrator.recognise.shapes import size_of
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Flow, Value

_OF_MEMORY = frozenset({"as_strided", "stride", "data_ptr", "storage", "untyped_storage", "is_contiguous"})


def check_view(flow: Flow, value: Value) -> None:
    """Raises Stop where something needs a result to be a tensor of its own: it becomes a view of a wider one."""
    returned = {one for one, _ in flow.returns}
    for inner, alias, whole in _aliases(flow, value):
        stored = any(store.value is alias and store.kind != "effect" for store in inner.stores)
        if stored or alias in returned:
            raise Stop("output-kept", f"`{text_of(value)}` is returned or stored as it is", alias.node)
        for user in alias.users:
            if _in_place(inner, alias, user):
                raise Stop("in-place", f"`{text_of(user)}` changes a projection in place", user.node)
            if user.op in ("method", "getattr") and user.data in _OF_MEMORY:
                raise Stop("view", f"`{text_of(user)}` looks at the memory itself", user.node)
            sizes = _sizes_of_view(user)
            if not whole and sizes is not None and not _splits_heads(sizes):
                raise Stop("view", f"`{text_of(user)}` may need contiguous memory", user.node)


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
            inside = [(inner, given, whole) for inner, given in _handed_to(here, one, user)]
            if inside or user.op in VIEWS or user.op in ("tuple", "phi", "loop", "looped"):
                todo.append((here, user, whole or user.op == "contiguous"))
            todo += inside


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


def _in_place(flow: Flow, value: Value, user: Value) -> bool:
    if user.keywords.get("out") is value:
        return True
    if not user.args or user.args[0] is not value:
        return False
    called = user.node.func if isinstance(user.node, ast.Call) else None
    named = isinstance(called, ast.Attribute) and called.attr.endswith("_")
    augmented = user.node is None and isinstance(user.statement, ast.AugAssign)
    return named or augmented or is_in_place(flow, user)


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
        return heads.op == "tuple" and lead.node is not None and text_of(lead).endswith(("size()[:-1]", "shape[:-1]"))
    return len(sizes) == 4 and all(_is_size(size, axis) for axis, size in enumerate(sizes[:2]))


def _is_size(value: Value, axis: int) -> bool:
    measured = size_of(value)
    return value.is_const(-1) or (measured is not None and measured[1] == axis)
