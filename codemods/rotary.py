"""Additive positions leave and rotary positions arrive, in one step, wherever the consumers attend."""

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
    Replace,
    RotaryPart,
    Site,
)
from migrator.recognise import other_positions
from migrator.recognise.anatomy import Attention
from migrator.recognise.carriage import Departure, base_obstacle, departures, group_obstacle, keepers, said_of
from migrator.recognise.constants import init_values
from migrator.recognise.consumers import PositionGroup, base_number, groups
from migrator.recognise.index import FileIndex
from migrator.recognise.spelling import free_name, runtime_name
from migrator.recognise.widths import head_dim


@dataclass(frozen=True)
class _Arrival:
    """Rotary positions in one attention class."""

    attention: Attention
    init: ast.stmt
    assignment: str
    statement: ast.stmt
    rotation: str
    renamed: tuple[tuple[ast.expr, str], ...]


@dataclass(frozen=True)
class _Part:
    arrivals: tuple[_Arrival, ...]
    departures: tuple[Departure, ...]
    imports: Import


class Rotary(Codemod):
    """h = h + sinusoid(h) before the blocks -> queries and keys are rotated inside of them."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "Rotated queries and keys see relative distance, in every layer, and leave the residual stream alone."
    reference = "Su et al. 2021, RoFormer, arXiv 2104.09864"
    formula = "(R_m q) . (R_n k) = q . R_(n-m) k, where R_t turns each pair (2i, 2i+1) by t / base^(2i/D)"
    choice = ("positions", "rotary")
    refusals = {
        "mixed-consumers": "the positions go to something else than attention too",
        "uncovered": "the attention is also used without these positions",
        "bases": "the positions that share an attention have different bases, or unknown ones",
        "positions-read": "the positional encoding is read by other code",
        "head-dim": "the width of a head cannot be told from `__init__`",
        "odd-head-dim": "rotation works on pairs, and the width of a head is odd",
        "cross-attention": "queries and keys come from different inputs",
        "not-fused": "the attention itself was refused in phase 1",
        "foreign-attention": "there is, or may be, an attention that rotary positions cannot be brought into",
        "carrier": "the class that adds the positions does more than that",
        "conditional": "the positions are added under a condition",
        "offset": "the positions start somewhere else than at 0",
        "layout": "the place cannot be edited statement by statement",
        **other_positions.REFUSALS,
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for group in groups(index):
            yield self.finding(index, group)
        for consumer, doubt in keepers(index):
            place = Place.of(consumer.info.name, consumer.assignment.statement, consumer.info.definition)
            kept = Modern(place, "keeps its sinusoid: nothing in it attends, so rotary positions have no place")
            yield Refusal(place, *doubt) if doubt is not None else kept
        yield from other_positions.refused(index, "rotary")

    def finding(self, index: FileIndex, group: PositionGroup) -> Finding:
        first = group.consumers[0]
        symbol = ", ".join(consumer.info.name for consumer in group.consumers)
        place = Place.of(symbol, first.assignment.statement, first.info.definition)
        obstacle = other_positions.relative_in(index, group) or group_obstacle(index, group)
        obstacle = obstacle or base_obstacle(index, group) or _odd(index, group)
        if obstacle is not None:
            return Refusal(place, *obstacle)
        spelling, imported = runtime_name(index, "RotaryEmbedding")
        base = first.base_text
        arrivals = (_arrival(index, one, spelling, base) for held in group.attentions.values() for one in held)
        part = _Part(tuple(arrivals), tuple(departures(group)), imported)
        message = f"{said_of(group)} -> rotary positions in {', '.join(group.attentions)} (base {base})"
        return Site(place, message, _claim(index, group, part), part)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        initialised: list[ast.stmt] = []
        for arrival in part.arrivals:
            definition = arrival.attention.flow.definition
            if arrival.init not in initialised:
                yield Insert(definition, arrival.init, arrival.assignment, "end")
            initialised.append(arrival.init)
            yield Insert(definition, arrival.statement, arrival.rotation, "before")
            for node, name in arrival.renamed:
                yield Replace(definition, node, name)
        yield from (departure.edit() for departure in part.departures if departure.edits)
        yield part.imports


def _odd(index: FileIndex, group: PositionGroup) -> tuple[str, str, str] | None:
    for name, held in group.attentions.items():
        info = index.modules[name]
        widths = [head_dim(found) for found in held]
        said = {ast.unparse(width) for width in widths if width is not None}
        if len(said) != 1 or None in widths or "__init__" not in info.methods:
            seen = f"the width of a head of {name} is not said in `__init__`"
            return "head-dim", seen, "keep it as self.head_dim, and use that in forward"
        assert widths[0] is not None
        odd = [value for value in init_values(index, info, widths[0]) if value is not None and value % 2]
        if odd:
            seen = f"{name} is built with heads of width {odd[0]}, and rotation needs pairs"
            return "odd-head-dim", seen, "choose sizes that make head widths even"
    return None


def _arrival(index: FileIndex, found: Attention, spelling: str, base: str) -> _Arrival:
    width = head_dim(found)
    owner, statement, definition = found.owner, found.output.statement, found.flow.definition
    assert width is not None and owner is not None and statement is not None and isinstance(found.node, ast.Call)
    attribute = _attribute(found)
    assignment = f"self.{attribute} = {spelling}({ast.unparse(width)}, base={base})"
    q, k = found.node.args[:2]
    free = all(_is_read_here_alone(found, node) for node in (q, k)) and ast.unparse(q) != ast.unparse(k)
    fresh = [free_name(index, definition, "queries", "rotated_q"), free_name(index, definition, "keys", "rotated_k")]
    names = [ast.unparse(q), ast.unparse(k)] if free else fresh
    renamed = () if free else ((q, fresh[0]), (k, fresh[1]))
    rotation = f"{', '.join(names)} = self.{attribute}({definition.source(q)}, {definition.source(k)})"
    return _Arrival(found, owner.methods["__init__"], assignment, statement, rotation, renamed)


def _is_read_here_alone(found: Attention, node: ast.expr) -> bool:
    """Whether the node is a name whose value nothing else needs from here on, so that it may be assigned anew."""
    statement = found.output.statement
    assert statement is not None
    if not isinstance(node, ast.Name):
        return False
    for outer in ast.walk(found.flow.function):
        if isinstance(outer, ast.For | ast.While) and any(inner is node for inner in ast.walk(outer)):
            return False
        later = isinstance(outer, ast.Name) and outer.id == node.id and outer.lineno >= statement.lineno
        if later and outer is not node and isinstance(getattr(outer, "ctx", None), ast.Load):
            return False
    return True


def _attribute(found: Attention) -> str:
    assert found.owner is not None
    taken = {*found.owner.attributes, *found.owner.methods}
    return next(name for name in ("rotary", "rotary_embedding", "rotary_positions") if name not in taken)


def _claim(index: FileIndex, group: PositionGroup, part: _Part) -> Claim:
    base = base_number(index, group, group.consumers[0])
    assert base is not None
    consumers = [consumer.info.name for consumer in group.consumers]
    return Claim(
        definitions=(*consumers, *group.attentions),
        models=(*group.attentions, *consumers),
        dropped=tuple((one.info.name, one.attribute) for one in group.consumers if one.table is not None),
        off=tuple(swap for departure in part.departures if (swap := departure.off) is not None),
        parts=tuple(
            RotaryPart(name, _attribute(held[0]), base, "interleaved") for name, held in group.attentions.items()
        ),
        changes=(
            ("absolute position", "rotary attention sees distances between tokens, no longer their absolute places"),
        ),
    )
