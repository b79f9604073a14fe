"""What has to hold, and what has to go, when additive positions leave a group of consumers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.consumers import Consumer, PositionGroup, base_number, consumers, self_attention, uncovered
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.values import Value

Obstacle = tuple[str, str, str]


@dataclass(frozen=True)
class Departure:
    """A statement that goes (`replacement` None) or an expression that is replaced by its argument."""

    definition: Definition
    node: ast.AST
    replacement: str | None
    call: ast.expr | None  # the call of the carrier, where there is one
    argument: str = ""


def keepers(index: FileIndex) -> list[Consumer]:
    """Consumers that have positions and no attention."""
    return [consumer for consumer in consumers(index) if not consumer.stacks and consumer.calls]


def group_obstacle(index: FileIndex, group: PositionGroup) -> Obstacle | None:
    """The first reason why the positions cannot leave: (code, what was seen, remedy)."""
    for consumer in group.consumers:
        where = f"{consumer.info.name}.{consumer.attribute}"
        if consumer.elsewhere:
            remedy = "give the other part a positional encoding of its own"
            return (
                "mixed-consumers",
                f"the positions of {where} do not go to attention alone: {consumer.elsewhere}",
                remedy,
            )
        reader = _other_reader(index, consumer)
        if reader:
            return "positions-read", f"{where} is read by {reader}", "remove that use, or keep the positions"
    missing = uncovered(index, group)
    if missing:
        return "uncovered", missing, "use a separate attention class there, or keep the positions"
    return _bases(index, group) or _attentions(group)


def departures(group: PositionGroup) -> Iterator[Departure]:
    """All that goes: the attribute and each call of it."""
    for consumer in group.consumers:
        definition = consumer.info.definition
        yield Departure(definition, consumer.assignment.statement, None, None)
        for _, value in consumer.calls:
            yield _of_call(definition, value)


def _of_call(definition: Definition, value: Value) -> Departure:
    node, statement = value.node, value.statement
    assert isinstance(node, ast.Call) and statement is not None
    argument = definition.source(node.args[0])
    if isinstance(statement, ast.Assign) and statement.value is node and ast.unparse(statement.targets[0]) == argument:
        return Departure(definition, statement, None, node, argument)
    return Departure(definition, node, argument, node, argument)


def _bases(index: FileIndex, group: PositionGroup) -> Obstacle | None:
    bases = {base_number(index, consumer) for consumer in group.consumers}
    if None in bases:
        return "bases", "the base of the sinusoid is not a number that the source says", "write it as a literal"
    if len(bases) > 1:
        return "bases", f"bases {sorted(b for b in bases if b is not None)} meet in one attention", "use one base"
    return None


def _attentions(group: PositionGroup) -> Obstacle | None:
    for name, held in group.attentions.items():
        for found in held:
            if found.kind == "legacy":
                return "not-fused", f"the attention of {name} is still spelled out", "see the refusal of `attention`"
            if not self_attention(found):
                return "cross-attention", f"{name} compares queries and keys of different inputs", "split the two uses"
    return None


def _other_reader(index: FileIndex, consumer: Consumer) -> str:
    """Code that uses the attribute in another way than the consumer's own calls."""
    calls = {id(value.node.func) for _, value in consumer.calls if isinstance(value.node, ast.Call)}
    for definition in index.definitions:
        if consumer.attribute not in definition.text:
            continue
        for node in ast.walk(definition.tree):
            if not (
                isinstance(node, ast.Attribute) and node.attr == consumer.attribute and isinstance(node.ctx, ast.Load)
            ):
                continue
            own_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if id(node) not in calls and not (own_self and definition is not consumer.info.definition):
                return f"line {definition.line(node)}"
    return ""
