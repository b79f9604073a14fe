"""Where the arguments of a module come from: what the classes of the file hand to it."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recognise.composition import Component, built_outside, users_of
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import parameters
from migrator.recognise.values import Flow, Value, walked


def origins(index: FileIndex, info: ClassInfo, name: str) -> list[tuple[Flow, Value]] | None:
    """(flow, value) for each call that hands in the parameter `name` of `forward`; None if not all can be seen."""
    holders = users_of(index, info.name)
    names = list(parameters(info.methods["forward"]))
    if not holders or built_outside(index, info.name) or index.subclasses.get(info.name):
        return None
    found: list[tuple[Flow, Value]] = []
    for holder in holders:
        calls = list(_calls(holder))
        if not calls:
            return None
        for flow, value, given in calls:
            if len(given) > len(names) or value.node is None or "**" in flow.definition.source(value.node):
                return None
            handed = {**dict(zip(names, given, strict=False)), **value.keywords}.get(name)
            found += [(flow, handed)] if handed is not None else []
    return found


def _calls(holder: Component) -> Iterator[tuple[Flow, Value, tuple[Value, ...]]]:
    """(flow, call, positional arguments) wherever the owner of a component runs it."""
    info, path = holder.owner, holder.attribute
    for name, method in info.methods.items():
        if name != "__init__":
            flow = flow_of(info.index, info.definition, method, info)
            for value in flow.values:
                if value.op == "module" and value.data == path:
                    yield flow, value, value.args
                elif value.op == "call_local" or value.data == "checkpointed":
                    source = walked(value.args[0]) if value.args else None
                    if source is not None and source.op == "attr" and source.data == path:
                        yield flow, value, value.args[1:]
