"""Learned tables of relative positions: added to the scores of an attention, or multiplied with its queries."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recognise.anatomy import Obstacle, text_of
from migrator.recognise.ancestry import ancestry, learned_rows
from migrator.recognise.attention import attentions
from migrator.recognise.index import FileIndex
from migrator.recognise.products import find_product, is_product, made_of
from migrator.recognise.values import Flow, Value, strip

_CODE = "relative"
_BETWEEN = frozenset(
    {"masked_fill", "where", "div", "mul", "phi", "to", "float", "contiguous", "view", "reshape", "setitem", "clamp"}
)
_FUSED = ("runtime.attention", "sdpa")
_PLACED = frozenset(
    {"view", "reshape", "permute", "transpose", "unsqueeze", "contiguous", "expand", "getitem", "repeat", "to"}
)


def relatives(index: FileIndex) -> Iterator[Obstacle]:
    """Each attention with relative positions, once for a function."""
    seen: list[Flow] = []
    for found in attentions(index):
        if found.flow not in seen:
            seen.append(found.flow)
            obstacle = next(_in_flow(found.flow), None)
            if obstacle is not None:
                yield obstacle


def _in_flow(flow: Flow) -> Iterator[Obstacle]:
    for value in flow.values:
        for term, *compared in _added_to_scores(value):
            table = _table(flow, term, compared)
            product = _second_product(flow, term, compared) if not table else None
            node = term.node or value.node
            if node is not None and table:
                seen = f"{table} goes into the scores, as `{text_of(term)}`"
                yield Obstacle(flow, node, _CODE, seen)
            elif node is not None and product is not None:
                seen = f"the scores are the sum of two products of the queries, the second one `{text_of(product)}`"
                yield Obstacle(flow, product.node or node, _CODE, seen)


def _added_to_scores(value: Value) -> Iterator[tuple[Value, Value, Value]]:
    """Each term that is added to a product of queries and keys on the way to the softmax, with the two."""
    if value.op in _FUSED and len(value.args) >= 3:
        bias = value.keywords.get("bias") or value.argument(3, "attn_mask")
        if bias is not None:
            yield from ((term, value.args[0], value.args[1]) for term in _terms(bias))
    if value.op != "softmax" or not value.args:
        return
    product = find_product(value.args[0])
    if product is not None:
        queries, keys = product.args[-2:]
        for added in reversed(list(_beside(value.args[0], product))):
            yield from ((term, queries, keys) for term in _terms(added))


def _beside(scores: Value, product: Value) -> Iterator[Value]:
    """What is added to the product, however it is masked and scaled."""
    todo, seen = [strip(scores)], set()
    while todo:
        one = todo.pop()
        if one in seen or one is product:
            continue
        seen.add(one)
        if one.op in ("add", "sub"):
            for arg in one.args:
                if made_of(arg, product):
                    todo.append(strip(arg))
                else:
                    yield arg
        elif one.op in _BETWEEN or one.op in ("loop", "looped", "getitem"):
            todo += [strip(arg) for arg in one.args if made_of(arg, product)]


def _terms(value: Value) -> Iterator[Value]:
    """The sums and the branches of a term, taken apart, also below a view or a cut."""
    inner = strip(value)
    while inner.op in _PLACED and inner.args:
        inner = strip(inner.args[0])
    if inner.op in ("add", "phi"):
        for arg in inner.args[1:] if inner.op == "phi" else inner.args:
            yield from _terms(arg)
    else:
        yield strip(value)


def _table(flow: Flow, term: Value, compared: list[Value]) -> str:
    """What learned thing a term is read from: by place, and at most by the queries or the keys."""
    own = _values(flow, compared)
    behind = ancestry(flow, term, stop=own)
    if any(one.value.op in ("param", "opaque") and one.caller is None for one in behind):
        return ""
    table = next((name for one in behind if (name := learned_rows(one))), "")
    if table:
        return f"the learned table `self.{table}`"
    modules = [one.value for one in behind if one.value.op == "module" and one.caller is None]
    made = next((value for value in modules if value.args and not own & set(value.args)), None)
    return f"what `self.{made.data}` makes of places" if made is not None else ""


def _second_product(flow: Flow, term: Value, compared: list[Value]) -> Value | None:
    """A product in the term that shares a factor with the first one, and is no projection."""
    own = {value for value in _values(flow, compared[:1]) if value.op in ("getitem", "module", "param", "unpack")}
    for one in ancestry(flow, term, stop=_values(flow, compared)):
        if one.caller is None and is_product(one.value) and find_product(one.value) is one.value:
            shared = [bool(own & _values(flow, [arg])) for arg in one.value.args[-2:]]
            if any(shared) and not all(shared):
                return one.value
    return None


def _values(flow: Flow, values: list[Value]) -> set[Value]:
    return {one.value for value in values for one in ancestry(flow, value)}
