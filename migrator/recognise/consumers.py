"""Who adds sinusoidal positions to what, and which attentions would have to carry them instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.attention import Attention, attention_classes
from migrator.recognise.composition import Component, built_outside, components, contains, reached, users_of
from migrator.recognise.constants import number
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import Assignment, ClassInfo, FileIndex
from migrator.recognise.positions import carriers, encodings
from migrator.recognise.shapes import symbol
from migrator.recognise.syntax import bind
from migrator.recognise.values import Flow, Value

_PASSING = ("dropout", "contiguous", "identity", "phi")


@dataclass(eq=False)
class Consumer:
    """A class with a position carrier: `attribute` is added to its values in `calls`.

    `stacks` are the attending components that the sums flow into; `elsewhere` tells what else they meet.
    """

    info: ClassInfo
    attribute: str
    assignment: Assignment
    base: ast.expr | None
    calls: list[tuple[Flow, Value]]
    stacks: list[Component] = field(default_factory=list)
    elsewhere: str = ""


@dataclass(eq=False)
class PositionGroup:
    """Consumers and attention classes that can only change together."""

    consumers: list[Consumer]
    attentions: dict[str, list[Attention]]


def consumers(index: FileIndex) -> list[Consumer]:
    """Every class that holds and calls a sinusoidal carrier."""
    known = carriers(index)
    found: list[Consumer] = []
    for info in index.modules.values():
        for attribute, carrier in _carrier_attributes(index, info, known):
            assignment = info.attributes[attribute][0]
            consumer = Consumer(
                info, attribute, assignment, _base(index, assignment, carrier), _calls(index, info, attribute)
            )
            _follow(index, consumer)
            found.append(consumer)
    return found


def groups(index: FileIndex) -> list[PositionGroup]:
    """Consumers with attention, joined where they share an attention class."""
    attending = attention_classes(index)
    result: list[PositionGroup] = []
    for consumer in consumers(index):
        names = {n for c in consumer.stacks for n in reached(index, c.name, set(attending))}
        if not names:
            continue
        same = [group for group in result if names & set(group.attentions)]
        merged = PositionGroup([consumer], {name: attending[name] for name in sorted(names)})
        for group in same:
            merged = PositionGroup(group.consumers + merged.consumers, {**group.attentions, **merged.attentions})
            result.remove(group)
        result.append(merged)
    return result


def uncovered(index: FileIndex, group: PositionGroup) -> str:
    """Where an attention of the group is used without the group's positions, or ""."""
    covered = {id(component.call) for consumer in group.consumers for component in consumer.stacks}
    todo, seen = list(group.attentions), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if built_outside(index, name):
            return f"{name} is also built outside of these classes"
        if not users_of(index, name) and name not in {consumer.info.name for consumer in group.consumers}:
            return f"{name} is not built anywhere in this file"
        for component in users_of(index, name):
            if id(component.call) not in covered:
                if component.owner.name in {consumer.info.name for consumer in group.consumers}:
                    return f"{component.owner.name}.{component.attribute} attends without the positions"
                todo.append(component.owner.name)
    return ""


def _carrier_attributes(
    index: FileIndex, info: ClassInfo, known: dict[str, ClassInfo]
) -> Iterator[tuple[str, ClassInfo | None]]:
    for component in components(info):
        if component.name in known and component.kind == "single":
            yield component.attribute, known[component.name]
    if info.name not in known:
        for attribute in sorted(encodings(info)):
            yield attribute, None


def _base(index: FileIndex, assignment: Assignment, carrier: ClassInfo | None) -> ast.expr | None:
    """The base of the carrier as the consumer's own source gives it."""
    if not isinstance(assignment.value, ast.Call):
        return None
    if carrier is None:
        bound = bind({"base": None}, assignment.value)
        return bound.get("base") if bound else None
    bound = bind(carrier.init_parameters, assignment.value)
    name = _base_parameter(carrier)
    return bound.get(name) if bound and name else None


def _base_parameter(carrier: ClassInfo) -> str:
    """Which parameter of the carrier's `__init__` is the base of its runtime encoding."""
    for attribute in encodings(carrier):
        value = carrier.attribute(attribute)
        if isinstance(value, ast.Call):
            for argument in [*value.args, *(k.value for k in value.keywords)]:
                if isinstance(argument, ast.Name) and argument.id in carrier.init_parameters:
                    return argument.id
                if isinstance(argument, ast.Attribute):
                    held = carrier.attribute(argument.attr)
                    if isinstance(held, ast.Name):
                        return held.id
    return ""


def _calls(index: FileIndex, info: ClassInfo, attribute: str) -> list[tuple[Flow, Value]]:
    found: list[tuple[Flow, Value]] = []
    for name, method in info.methods.items():
        if name != "__init__":
            flow = flow_of(index, info.definition, method, info)
            found.extend((flow, v) for v in flow.values if v.op == "module" and v.data == attribute)
    return found


def _follow(index: FileIndex, consumer: Consumer) -> None:
    """Where the sums go: attending components of the class, or something else."""
    attending = set(attention_classes(index))
    held = {c.attribute: c for c in components(consumer.info) if contains(index, c.name, attending)}
    for flow, value in consumer.calls:
        returned = {v for v, _ in flow.returns}
        todo = [value]
        while todo:
            one = todo.pop()
            if one in returned:
                consumer.elsewhere = "they are returned"
            for user in one.users:
                component = _component(user, held)
                if component is not None:
                    if component not in consumer.stacks:
                        consumer.stacks.append(component)
                elif user.op in _PASSING or (user.op == "loop"):
                    todo.append(user)
                elif user.op not in ("shape", "size", "looped"):
                    consumer.elsewhere = f"`{ast.unparse(user.node)}` uses them" if user.node is not None else user.op


def _component(user: Value, held: dict[str, Component]) -> Component | None:
    if user.op == "module" and user.data in held:
        return held[user.data]
    if user.op == "looped" and user.args[3].op == "attr":
        return held.get(user.args[3].data)
    if user.op == "call_local" and user.args[0].op == "element" and user.args[0].args[0].op == "attr":
        return held.get(user.args[0].args[0].data)
    return None


def base_number(index: FileIndex, consumer: Consumer) -> float | None:
    """The base of a consumer's positions, where the source says it."""
    value = number(index, consumer.base) if consumer.base is not None else None
    return None if value is None else float(value)


def self_attention(found: Attention) -> bool:
    """Whether queries and keys come from one and the same input."""
    return _sources(found.q) == _sources(found.k) and len(_sources(found.q)) >= 1


def _sources(value: Value) -> set[object]:
    seen: set[Value] = set()
    todo, sources = [value], set()
    while todo:
        one = todo.pop()
        if one in seen or one.op in ("size", "shape"):
            continue
        seen.add(one)
        if one.op == "param":
            sources.add(symbol(one))
        todo.extend(one.operands())
    return sources
