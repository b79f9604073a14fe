"""Who adds sinusoidal positions to what, and which attentions would have to carry them instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.anatomy import Attention
from migrator.recognise.attention import attention_classes
from migrator.recognise.composition import Component, components, contains, reached
from migrator.recognise.constants import number
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import Assignment, ClassInfo, FileIndex
from migrator.recognise.learned import LearnedTable, learned_tables
from migrator.recognise.positions import carriers, dropout_of, encodings, sinusoids
from migrator.recognise.shapes import symbol
from migrator.recognise.spelling import bound_in
from migrator.recognise.syntax import bind
from migrator.recognise.tables import table_of
from migrator.recognise.trial.waves import waves
from migrator.recognise.values import Flow, Value, walked

RETURNED = "they are returned"
_DEFAULT_BASE = 10000.0  # of the runtime's encoding
_NUMBERS = frozenset({"add", "attr", "const", "div", "global", "mul", "neg", "pow", "sqrt", "sub"})
_ROWWISE = _NUMBERS | {"contiguous", "dropout", "float", "param", "phi", "to", "tuple", "unpack"}
_ROWWISE_MODULES = frozenset(f"torch.nn.{name}" for name in ("Linear", "LayerNorm", "RMSNorm"))
_SAME_KIND = {"reshape": "view", "permute": "transpose", "swapaxes": "transpose"}
_PASSING = ("dropout", "contiguous", "identity", "phi")


@dataclass(eq=False)
class Consumer:
    """A class with positions of its own: `attribute` is added to its values in `calls`.

    It is a carrier, and the calls are its calls; or a `table` that is learned, and the calls are the sums.

    `stacks` are the attending components that the sums flow into; `positioned` are the ids of the very nodes that name
    them there; `elsewhere` tells what else the sums meet. `base` is an expression, `base_text` how it is written.
    """

    info: ClassInfo
    attribute: str
    assignment: Assignment
    base: ast.expr | None
    base_text: str
    calls: list[tuple[Flow, Value]]
    stacks: list[Component] = field(default_factory=list)
    positioned: set[int] = field(default_factory=set)
    elsewhere: str = ""
    dropout: str = ""  # the attribute of the carrier that drops a part of the sum
    replacement: str | None = None  # what makes such a dropout in the carrier's place
    table: LearnedTable | None = None

    @property
    def named(self) -> set[int]:
        """The ids of the nodes by which the calls, and what goes with them, name the attribute."""
        kept_up = self.table.upkeep if self.table is not None else []
        upkeep = {id(node) for one in kept_up for node in ast.walk(one.gone)}
        reads = [lookup.read for lookup in self.table.lookups] if self.table else [value for _, value in self.calls]
        return upkeep | {id(node) for read in reads for node in _naming(read)}


@dataclass(eq=False)
class PositionGroup:
    """Consumers and attention classes that can only change together."""

    consumers: list[Consumer]
    attentions: dict[str, list[Attention]]


def consumers(index: FileIndex) -> list[Consumer]:
    """Every class that holds and calls a sinusoidal carrier, or adds rows of a learned table."""
    known = carriers(index)
    found: list[Consumer] = [_of_table(index, table) for table in learned_tables(index)]
    for info in index.modules.values():
        for attribute, carrier in _carrier_attributes(index, info, known):
            assignment = info.attributes[attribute][0]
            base, text = _base(info, assignment, carrier)
            consumer = Consumer(info, attribute, assignment, base, text, _calls(index, info, attribute))
            consumer.dropout = dropout_of(carrier) if carrier is not None else ""
            if carrier is not None and consumer.dropout and isinstance(assignment.value, ast.Call):
                consumer.replacement = _dropout(info, assignment.value, carrier, consumer.dropout)
            _follow(index, consumer)
            found.append(consumer)
    return found


def _of_table(index: FileIndex, table: LearnedTable) -> Consumer:
    """A learned table has no base, if it was no sinusoid at first; then rotary positions begin with the paper's."""
    calls = [(lookup.flow, lookup.total) for lookup in table.lookups]
    base = next((wave.base for wave in waves(table.info) if wave.attribute == table.attribute), _DEFAULT_BASE)
    consumer = Consumer(
        table.info, table.attribute, table.assignment, ast.Constant(base), repr(base), calls, table=table
    )
    _follow(index, consumer)
    return consumer


def _naming(read: Value) -> Iterator[ast.AST]:
    if isinstance(read.node, ast.Call):
        yield read.node.func
    elif isinstance(read.node, ast.Subscript):
        yield read.node.value


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


def _carrier_attributes(
    index: FileIndex, info: ClassInfo, known: dict[str, ClassInfo]
) -> Iterator[tuple[str, ClassInfo | None]]:
    for component in components(info):
        if component.name in known and component.kind == "single":
            yield component.attribute, known[component.name]
    if info.name not in known:
        for attribute in sorted(encodings(info)):
            yield attribute, None


def _base(info: ClassInfo, assignment: Assignment, carrier: ClassInfo | None) -> tuple[ast.expr | None, str]:
    """The base of the carrier: an expression that means the same anywhere in the file, and its text."""
    if not isinstance(assignment.value, ast.Call):
        return None, ""
    if carrier is None:
        return _encoding_base(info, assignment.value)
    kept = table_of(carrier)
    computed = [one.base for one in sinusoids(info.index) if one.owner.node is carrier.node] if kept is None else []
    told = kept.base if kept is not None else computed[0] if computed else None
    if isinstance(told, float):
        return ast.Constant(told), repr(told)
    inner, text = next((_encoding_base(carrier, value) for value in _encoding_calls(carrier)), (None, ""))
    if not isinstance(inner, ast.Name) or inner.id not in carrier.init_parameters:
        return (inner, text) if isinstance(inner, ast.Constant) else (None, "")
    bound = bind(carrier.init_parameters, assignment.value)
    value = bound.get(inner.id) if bound is not None else None
    if value is None:
        return None, ""
    source = carrier if value is carrier.init_parameters[inner.id] else info
    return value, source.definition.source(value)


def _dropout(info: ClassInfo, call: ast.Call, carrier: ClassInfo, attribute: str) -> str | None:
    """`nn.Dropout(rate)` as the class that holds the carrier can say it."""
    made = carrier.attribute(attribute)
    rates = [*made.args, *(k.value for k in made.keywords)] if isinstance(made, ast.Call) else []
    if not isinstance(made, ast.Call) or len(rates) > 1:
        return None
    spelling, rate = carrier.definition.source(made.func), rates[0] if rates else None
    if rate is None or isinstance(rate, ast.Constant):
        return f"{spelling}({'' if rate is None else carrier.definition.source(rate)})"
    bound = bind(carrier.init_parameters, call)
    given = bound.get(rate.id) if bound is not None and isinstance(rate, ast.Name) else None
    if given is None or not isinstance(rate, ast.Name):
        return None
    source = carrier if given is carrier.init_parameters.get(rate.id) else info
    return f"{spelling}({source.definition.source(given)})"


def _encoding_calls(carrier: ClassInfo) -> Iterator[ast.Call]:
    for attribute in sorted(encodings(carrier)):
        value = carrier.attribute(attribute)
        if isinstance(value, ast.Call):
            yield value


def _encoding_base(info: ClassInfo, call: ast.Call) -> tuple[ast.expr | None, str]:
    """What `SinusoidalPositionalEncoding(...)` is given, attributes of `self` spelled out."""
    bound = bind({"base": ast.Constant(_DEFAULT_BASE)}, call)
    value = bound.get("base") if bound is not None else None
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        value = info.attribute(value.attr) if value.value.id == "self" else None
    if value is None:
        return None, ""
    return value, info.definition.source(value) if hasattr(value, "lineno") else repr(_DEFAULT_BASE)


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
                consumer.elsewhere = RETURNED
            for user in one.users:
                component = _component(user, held)
                if component is not None:
                    consumer.positioned.add(id(_named_by(user)))
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
    source = walked(user.args[0]) if user.op == "call_local" else None
    return held.get(source.data) if source is not None and source.op == "attr" else None


def _named_by(user: Value) -> ast.AST | None:
    """The node `self.attribute` by which a component is run: what is called, or looped over."""
    if user.op == "call_local":
        source = walked(user.args[0])
        return source.node if source is not None else None
    if user.op == "looped":
        return user.args[3].node
    return user.node.func if isinstance(user.node, ast.Call) else None


def base_number(index: FileIndex, group: PositionGroup, consumer: Consumer) -> float | None:
    """The base of a consumer's positions, where the source says it and it means the same in the group's classes."""
    names = {node.id for node in ast.walk(consumer.base) if isinstance(node, ast.Name)} if consumer.base else set()
    definitions = [consumer.info.definition, *(index.classes[name].definition for name in group.attentions)]
    if consumer.base is None or any(names & bound_in(definition) for definition in definitions):
        return None
    value = number(index, consumer.base)
    return None if value is None else float(value)


def self_attention(found: Attention) -> bool:
    """Whether queries and keys come from one and the same input, by the same kinds of steps: row i belongs to row i."""
    one, other = found.q, found.k
    same = found.owner is not None and _path(found.owner, one) == _path(found.owner, other)
    return same and _sources(one) == _sources(other) != set()


def _sources(value: Value) -> set[object]:
    return {symbol(one) for one in _behind(value) if one.op == "param"}


def _path(info: ClassInfo, value: Value) -> list[str]:
    """The kinds of steps that may move or drop rows, in no order."""
    return sorted({_kind(info, one) for one in _behind(value)} - {""})


def _kind(info: ClassInfo, value: Value) -> str:
    if value.op == "module":
        made = info.attribute(value.data)
        name = (info.index.resolve(made.func) or value.data) if isinstance(made, ast.Call) else ""
        return "" if name in _ROWWISE_MODULES else name
    return "" if value.op in _ROWWISE else _SAME_KIND.get(value.op, value.op)


def _behind(value: Value) -> list[Value]:
    """The value and all that it is computed from, sizes left aside."""
    found: list[Value] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if one not in found and one.op not in ("size", "shape"):
            found.append(one)
            todo.extend(one.operands())
    return found
