"""A sinusoid that is computed anew in each forward becomes the runtime's cached, offset-aware table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
)
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.learned import learned_tables
from migrator.recognise.liveness import unneeded
from migrator.recognise.positions import Sinusoid, carriers, encodings, sinusoids
from migrator.recognise.spelling import runtime_name
from migrator.recognise.syntax import stored_names
from migrator.recognise.tables import adds_table, table_of


@dataclass(frozen=True)
class _Part:
    sinusoid: Sinusoid
    init: ast.stmt
    attribute: str
    assignment: str
    call: str
    dead: tuple[ast.stmt, ...]
    imports: Import


class PositionalEncodingToRuntime(Codemod):
    """x + sin(position / base ** (2 i / C)) -> self.encoding(x)."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "The table depends on the length alone, so it is computed once; an offset makes it fit cached decoding."
    reference = "Vaswani et al. 2017, Attention Is All You Need, section 3.5, arXiv 1706.03762"
    formula = "x[t, 2i] += sin(t / base^(2i/C)), x[t, 2i+1] += cos(t / base^(2i/C))"
    refusals = {
        "rounding": "the same sinusoid in another order of operations: its last bits would differ",
        "in-place": "the sinusoid is added in place, to a tensor that others may hold",
        "layout": "the place cannot be edited statement by statement",
        "mutable-base": "the base of the sinusoid is assigned outside of `__init__`, or learned",
        "no-init": "the class has no `__init__` that could hold the table",
        "table-read": "the table is read by more than the sum",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        seen: set[str] = set()
        for sinusoid in sinusoids(index):
            found = _finding(index, sinusoid)
            if isinstance(found, Site) and found.place.symbol in seen:
                continue  # in the next pass, which sees the table that this one makes
            seen |= {found.place.symbol} if isinstance(found, Site) else set()
            yield found
        for info in carriers(index).values():
            if encodings(info):
                forward = info.methods["forward"]
                place = Place(
                    info.name, info.definition.line(forward), (forward.end_lineno or 0) + info.definition.shift
                )
                yield Modern(place, "sinusoidal table is cached already")
        for info in index.modules.values():
            kept = table_of(info)
            if kept is not None and adds_table(info, kept):
                place = Place.of(info.name, info.node, info.definition)
                yield Modern(place, f"sinusoidal table is computed once, and kept in `{kept.attribute}`")
        for table in learned_tables(index):
            if table.is_sinusoid:
                place = Place.of(table.info.name, table.assignment.statement, table.info.definition)
                yield Modern(place, f"sinusoidal table is computed once, and kept in `{table.attribute}`")

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.sinusoid.owner.definition
        if part.assignment:
            yield Insert(definition, part.init, part.assignment, "end")
        for statement in part.dead:
            yield Remove(definition, statement)
        assert part.sinusoid.total.node is not None
        yield Replace(definition, part.sinusoid.total.node, part.call)
        if part.assignment:
            yield part.imports


def _finding(index: FileIndex, found: Sinusoid) -> Finding:
    info, node = found.owner, found.total.node or found.total.statement
    assert node is not None and found.total.statement is not None
    place = Place(info.name, info.definition.line(node), (node.end_lineno or node.lineno) + info.definition.shift)
    obstacle = _obstacle(index, found)
    if obstacle is not None:
        code, seen, remedy = obstacle
        return Refusal(place, code, seen, remedy)
    wishes = ("encoding", "sinusoid", "sinusoidal_encoding")
    attribute = next(name for name in wishes if name not in {*info.attributes, *info.methods})
    spelling, imported = runtime_name(index, "SinusoidalPositionalEncoding")
    value = f"{spelling}(base={_base(found)})"
    made = {info.definition.source(info.attributes[name][0].value): name for name in encodings(info)}
    shared = made.get(value, "")
    attribute = shared or attribute
    x = found.flow.text_at(found.x, found.total.statement)
    part = _Part(
        found,
        info.methods["__init__"],
        attribute,
        "" if shared else f"self.{attribute} = {value}",
        f"self.{attribute}({x})",
        tuple(unneeded(found.flow, found.total, [found.x])),
        imported,
    )
    return Site(place, "additive sinusoid -> cached table", Claim((info.name,), (info.name,)), part)


def _obstacle(index: FileIndex, found: Sinusoid) -> tuple[str, str, str] | None:
    info = found.owner
    if "__init__" not in info.methods:
        return "no-init", "the class has no `__init__` of its own", "give it one that calls super().__init__()"
    if isinstance(found.base, str) and _assigned_elsewhere(index, info, found.base):
        return "mutable-base", f"`{found.base}` is assigned outside of `__init__`", "assign it in `__init__` only"
    if isinstance(found.base, str) and not _is_number(info, found.base):
        return "mutable-base", f"`{found.base}` may be more than a number", "make the base a number"
    if found.total.node is None:
        return "in-place", "the table is added in place, so the caller's tensor changes too", "write `x = x + table`"
    if any(user is not found.total for user in found.term.users):
        return "table-read", "the table is read by more than the sum", "keep it, or compute it apart from the sum"
    if not found.same_rounding:
        seen = "the table is a sinusoid, but not computed as u / base ** ((j - k) / C) + pi / 2 * k"
        if info.name in carriers(index):
            return "rounding", seen, "keep it, or let phase 2 replace it by rotary positions"
        return "rounding", seen, "keep it, or give it a class whose forward is that sum, which phase 2 can replace"
    return None


def _assigned_elsewhere(index: FileIndex, info: ClassInfo, name: str) -> bool:
    if info.attribute(name) is None or name in info.stores_outside_init:
        return True
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store)
        for definition in index.definitions
        if definition is not info.definition and name in definition.text
        for node in ast.walk(definition.tree)
    )


def _is_number(info: ClassInfo, name: str) -> bool:
    """Whether `__init__` gives the attribute a number, as far as can be told: no parameter, no tensor."""
    value = info.attribute(name)
    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call)] if value is not None else []
    return all(info.index.resolve(node.func) in ("float", "int", "max", "min", "math.sqrt") for node in calls)


def _base(found: Sinusoid) -> str:
    """The base as `__init__` can say it: the very expression that the attribute got, if that is a name or number."""
    if isinstance(found.base, float):
        return repr(int(found.base)) if found.base.is_integer() and found.base < 1e5 else repr(found.base)
    value = found.owner.attribute(found.base)
    rebound = stored_names(found.owner.methods["__init__"].body)
    if isinstance(value, ast.Constant) or (isinstance(value, ast.Name) and value.id not in rebound):
        return ast.unparse(value)
    return f"self.{found.base}"
