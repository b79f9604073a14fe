"""Learned tables of positions: looked up by place, and added to the embeddings of tokens."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import Assignment, ClassInfo, FileIndex
from migrator.recognise.liveness import unneeded
from migrator.recognise.shapes import size_of
from migrator.recognise.trial.waves import waves
from migrator.recognise.upkeep import Upkeep, upkeep
from migrator.recognise.values import Flow, Value, made_by, strip

_LAYOUT = frozenset({"unsqueeze", "expand", "expand_as", "repeat", "to", "long", "contiguous", "getitem", "view"})
_SCALED = frozenset({"mul", "div", "dropout", "to", "float"})


@dataclass(eq=False)
class Lookup:
    """One use of a table: `total` is the sum of `tokens`, which stay, and the rows that `read` gives."""

    flow: Flow
    read: Value
    total: Value
    tokens: Value

    @property
    def unneeded(self) -> list[ast.stmt]:
        """Statements that made nothing but the rows."""
        return unneeded(self.flow, self.total, [self.tokens])


@dataclass(eq=False)
class LearnedTable:
    """`self.attribute` is an nn.Embedding or a parameter with a row for each place, and `lookups` are all its sums.

    `holder` is the call that has it as a keyword, where it is an item of an nn.ModuleDict.
    """

    info: ClassInfo
    attribute: str
    assignment: Assignment
    lookups: list[Lookup]
    holder: ast.Call | None = None

    @property
    def item(self) -> str:
        return self.attribute.rpartition(".")[2]

    @cached_property
    def upkeep(self) -> list[Upkeep]:
        """What goes with the table."""
        return upkeep(self.info, self.attribute)

    @property
    def is_sinusoid(self) -> bool:
        """Whether the table is a sinusoid that is not trained."""
        return any(wave.attribute == self.attribute and not wave.learned for wave in waves(self.info))


def learned_tables(index: FileIndex) -> Iterator[LearnedTable]:
    """Every table that is only ever added to embedded tokens, from the first place on."""
    for info in index.modules.values():
        for attribute, assignment, value, holder in _candidates(info):
            if _is_table(info, attribute, value):
                lookups = list(_lookups(info, attribute))
                if lookups:
                    yield LearnedTable(info, attribute, assignment, lookups, holder)


def _candidates(info: ClassInfo) -> Iterator[tuple[str, Assignment, ast.expr, ast.Call | None]]:
    """Attributes, and the items of each `nn.ModuleDict(dict(wte=..., wpe=...))`."""
    for name, assigned in info.attributes.items():
        if len(assigned) != 1:
            continue
        value = assigned[0].value
        yield name, assigned[0], value, None
        for key, item in info.items_of(name).items():
            inner = value.args[0] if isinstance(value, ast.Call) and value.args else None
            if isinstance(inner, ast.Call):
                yield f"{name}.{key}", assigned[0], item, inner


def _is_table(info: ClassInfo, attribute: str, value: ast.expr) -> bool:
    name = info.index.resolve(value.func) if isinstance(value, ast.Call) else None
    if name == "torch.nn.Embedding.from_pretrained":
        return any(wave.attribute == attribute and wave.empty is None for wave in waves(info))
    return name in ("torch.nn.Embedding", "torch.nn.Parameter")


def _lookups(info: ClassInfo, attribute: str) -> Iterator[Lookup]:
    for name, method in info.methods.items():
        if name == "__init__" or attribute.rpartition(".")[2] not in info.definition.text:
            continue
        flow = flow_of(info.index, info.definition, method, info)
        for value in flow.values:
            if _reads(value, attribute):
                lookup = _added(flow, value)
                if lookup is not None:
                    yield lookup


def _reads(value: Value, attribute: str) -> bool:
    """`self.table(torch.arange(T))`, with some views around it, or `self.table[:, :T]`."""
    if value.op == "module" and value.data == attribute and len(value.args) == 1:
        return _numbers_places(value.args[0])
    if value.op == "getitem" and value.args[0].op == "attr" and value.args[0].data == attribute:
        items = value.data.elts if isinstance(value.data, ast.Tuple) else [value.data]
        slices = [item for item in items if isinstance(item, ast.Slice)]
        cut = [item for item in slices if item.upper is not None]
        return len(slices) == len(items) and len(cut) == 1 and all(s.lower is None and s.step is None for s in slices)
    return False


def _numbers_places(value: Value) -> bool:
    """0, 1, ... up to the length of something: `torch.arange(T)`."""
    value = strip(value)
    while value.op in _LAYOUT and value.args:
        value = strip(value.args[0])
    if value.op != "arange" or value.keywords.keys() & {"step", "start", "end"}:
        return False
    first, last = (value.args[0], value.args[1]) if len(value.args) == 2 else (None, value.args[0])
    size = size_of(strip(last)) if len(value.args) in (1, 2) else None
    return size is not None and size[1] in (1, -1, -2) and (first is None or first.is_const(0))


def _added(flow: Flow, read: Value) -> Lookup | None:
    """The one sum that the rows go into, if its other side is made of tokens."""
    users = list(_uses(read))
    if len(users) != 1 or users[0].op != "add" or len(users[0].args) != 2 or users[0].keywords:
        return None
    one, other = users[0].args
    tokens = other if strip(one) is read else one
    if users[0].node is None or not isinstance(users[0].node, ast.BinOp) or not _embedded(flow, tokens):
        return None
    return Lookup(flow, read, users[0], tokens)


def _uses(read: Value) -> Iterator[Value]:
    for user in read.users:
        if user.op not in ("shape", "size"):
            yield user


def _embedded(flow: Flow, value: Value) -> bool:
    """Whether a value is looked up by tokens, scaled or not, or the sum of such: no patches, no frames, no features."""
    value = strip(value)
    if value.op == "module":
        return made_by(flow, value) == "torch.nn.Embedding" and not _numbers_places(value.args[0])
    if value.op == "add":
        return all(_embedded(flow, arg) for arg in value.args)
    return value.op in _SCALED and bool(value.args) and _embedded(flow, value.args[0])
