"""Positions that are added to what attends, but in another class, or beside something that is not understood."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recognise.anatomy import Obstacle, text_of
from migrator.recognise.ancestry import (
    Ancestor,
    ancestry,
    flows,
    held_calls,
    learned_rows,
    reaches_attention,
    serves_attention,
)
from migrator.recognise.consumers import consumers
from migrator.recognise.index import FileIndex
from migrator.recognise.positions import carriers, sinusoids
from migrator.recognise.tables import table_of
from migrator.recognise.values import Flow, Value


def apart(index: FileIndex, grids: list[Flow]) -> Iterator[Obstacle]:
    """Each sum of positions that flows into attention in a way that no rewriting follows.

    Functions that make positions of `grids` have been told already.
    """
    for consumer in consumers(index):
        if consumer.table is None or consumer.stacks:
            continue
        flow, total = consumer.calls[0]
        where = f"{consumer.info.name}.{consumer.attribute}"
        if total.node is not None and reaches_attention(flow, total):
            seen = f"the positions of {where} do not go to attention alone: {consumer.elsewhere}"
            remedy = "hand the sum to the blocks as it is, or keep the positions"
            yield Obstacle(flow, total.node, "mixed-consumers", seen, remedy)
        elif total.node is not None and _is_handed_on(flow):
            seen = f"{where} is added in one class, and another one attends"
            yield Obstacle(flow, total.node, "carrier", seen, "add the rows in the class that runs the blocks")
    known = {id(one.total) for one in sinusoids(index)}
    carrying = carriers(index)
    for flow in flows(index, "forward"):
        if serves_attention(index, flow.definition) and flow.definition.name not in carrying:
            for total in flow.of("add"):
                rows = next((arg for arg in total.args if _is_wave(flow, arg, grids)), None)
                if rows is not None and total.node is not None and id(total) not in known and _goes_on(flow, total):
                    seen = f"the sinusoid `{text_of(rows)}` is not added by a class that does just that"
                    remedy = "give the sum a class of its own, and hold that where the blocks are run"
                    yield Obstacle(flow, total.node, "carrier", seen, remedy)
                    break


def _goes_on(flow: Flow, total: Value) -> bool:
    return reaches_attention(flow, total) or _is_handed_on(flow)


def _is_handed_on(flow: Flow) -> bool:
    """Whether what the class gives out goes into attention where it is used."""
    return any(reaches_attention(outer, call) for outer, call in held_calls(flow))


def _is_wave(flow: Flow, value: Value, grids: list[Flow]) -> bool:
    """Whether a value is a sinusoid of places in a sequence alone, computed or kept."""
    behind = ancestry(flow, value)
    from_outside = any(one.value.op in ("param", "opaque") and one.caller is None for one in behind)
    if from_outside or any(one.flow in grids or learned_rows(one) for one in behind):
        return False
    ops = {one.value.op for one in behind}
    return {"sin", "cos", "arange"} <= ops or any(_is_kept(one) for one in behind)


def _is_kept(one: Ancestor) -> bool:
    """A sinusoidal table of a class that gives out nothing but its rows."""
    owner = one.flow.owner
    kept = table_of(owner) if owner is not None and one.value.op == "attr" else None
    return kept is not None and kept.attribute == one.value.data
