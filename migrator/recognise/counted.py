"""Rows that are looked up by places which the tokens, a mask or the caller decide on."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.anatomy import Obstacle, text_of
from migrator.recognise.ancestry import Ancestor, ancestry, flows, serves_attention
from migrator.recognise.index import FileIndex
from migrator.recognise.trial.waves import waves
from migrator.recognise.values import Flow, Value, made_by, strip

_CODE = "padded"
_LAYOUT = frozenset({"unsqueeze", "expand", "expand_as", "repeat", "to", "long", "contiguous", "view", "detach"})


def counted_positions(index: FileIndex) -> Iterator[Obstacle]:
    """Each lookup by such places, once for a function."""
    for flow in flows(index, "cumsum", "mbedding"):
        if serves_attention(index, flow.definition):
            found = next((one for value in flow.values for one in _of(flow, value)), None)
            if found is not None:
                yield found


def _of(flow: Flow, value: Value) -> Iterator[Obstacle]:
    places = _places(flow, value)
    if places is None or value.node is None:
        return
    strange = _counted_or_given(flow, value, places)
    if strange:
        yield Obstacle(flow, value.node, _CODE, f"`{text_of(value)}` looks rows up {strange}")
    elif _starts_later(places) and any(user.op == "add" for user in value.users):
        seen = f"`{text_of(value)}` does not begin with the first row"
        yield Obstacle(flow, value.node, "offset", seen, "number the tokens from 0, or keep the positions")


def _counted_or_given(flow: Flow, value: Value, places: Value) -> str:
    """By what the rows are looked up that is not just the place of each token."""
    sums = [one for one in ancestry(flow, places, leaves=frozenset({"arange"})) if _counts_tokens(one)]
    if sums:
        line = sums[0].flow.definition.line(sums[0].value.node) if sums[0].value.node is not None else 0
        return f"by places that are counted over a mask, in line {line}"
    known = waves(flow.owner) if flow.owner is not None else []
    wave = next((wave for wave in known if wave.attribute == value.data), None)
    if wave is not None and wave.empty is not None:
        return f"in a sinusoid whose row {wave.empty} is empty"
    handed = _handed_in(places) or (_given(places) if wave is not None else "")
    return f"by `{handed}`, which a caller may hand in" if handed else ""


def _starts_later(places: Value) -> bool:
    """`arange(start, end)` from anything but 0, and `arange(n) + start`."""
    for end in _ends(places):
        if end.op == "arange" and len(end.args) > 1 and not end.args[0].is_const(0):
            return True
        if end.op == "add" and any(inner.op == "arange" for arg in end.args for inner in _ends(arg)):
            return True
    return False


def _places(flow: Flow, value: Value) -> Value | None:
    """By what an embedding, or a table that is kept in an attribute, is looked up."""
    if value.op == "module" and made_by(flow, value).startswith("torch.nn.Embedding") and len(value.args) == 1:
        return value.args[0]
    if value.op == "call" and value.data == "torch.nn.functional.embedding" and value.args:
        return value.args[0]
    above = flow.owner is not None and flow.owner.derives_from("torch.nn.Embedding")
    if value.op == "method" and value.data == "forward" and above and len(value.args) == 2:
        return value.args[1] if _is_super(value.args[0]) else None
    kept = value.args[0] if value.args else None
    while kept is not None and kept.op in _LAYOUT:
        kept = kept.args[0]
    if kept is None or kept.op != "attr":
        return None
    if value.op == "index_select" and len(value.args) == 3:
        return value.args[2]
    return value.args[1] if value.op == "getitem" and len(value.args) == 2 and value.args[1].op != "slice" else None


def _is_super(value: Value) -> bool:
    return isinstance(value.node, ast.Call) and isinstance(value.node.func, ast.Name) and value.node.func.id == "super"


def _counts_tokens(one: Ancestor) -> bool:
    """Whether a value is the running sum of a mask: of a comparison, or of what is handed in."""
    if one.value.op != "cumsum" or not one.value.args:
        return False
    summed = {inner.value.op for inner in ancestry(one.flow, one.value.args[0])}
    return bool(summed & {"ne", "eq", "not", "gt", "lt", "param"}) and "softmax" not in summed


def _handed_in(places: Value) -> str:
    """The parameter in whose place `arange` stands where nothing is handed in."""
    ends = list(_ends(places))
    names = sorted({str(end.data) for end in ends if end.op == "param"})
    return names[0] if len(names) == 1 and any(end.op == "arange" for end in ends) else ""


def _given(places: Value) -> str:
    """The parameter that the places are, in some layout."""
    ends = list(_ends(places))
    return str(ends[0].data) if len(ends) == 1 and ends[0].op == "param" else ""


def _ends(value: Value) -> Iterator[Value]:
    """What a value may be, whichever way the branches go, without its layout."""
    value = strip(value)
    while value.op in _LAYOUT and value.args:
        value = strip(value.args[0])
    if value.op == "phi":
        for side in value.args[1:]:
            yield from _ends(side)
    else:
        yield value
