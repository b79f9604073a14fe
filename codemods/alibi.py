"""Additive positions leave and ALiBi's distance penalty arrives, in one step, wherever the consumers attend."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import libcst as cst

from migrator.codemod import (
    AlibiPart,
    AnyEdit,
    Claim,
    Codemod,
    Edit,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Replace,
    Site,
)
from migrator.recognise import other_positions
from migrator.recognise.anatomy import Attention
from migrator.recognise.carriage import Departure, departures, group_obstacle, keepers, said_of
from migrator.recognise.consumers import PositionGroup, groups
from migrator.recognise.index import FileIndex
from migrator.recognise.spelling import call, free_name, runtime_name
from migrator.recognise.widths import num_heads


@dataclass(frozen=True)
class _Part:
    index: FileIndex
    attentions: tuple[Attention, ...]
    departures: tuple[Departure, ...]
    attribute: str
    spelling: str
    imports: Import


class ALiBi(Codemod):
    """h = h + sinusoid(h) before the blocks -> attention(..., bias=self.alibi(q, k)) inside of them."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "A penalty that grows with distance needs no table and holds beyond the length it was trained on."
    reference = "Press et al. 2022, Train Short, Test Long, arXiv 2108.12409"
    formula = "softmax(q_m . k_n / sqrt(D) - 2^(-8 h/H) (m - n)) for head h of H"
    choice = ("positions", "alibi")
    refusals = {
        "mixed-consumers": "the positions go to something else than attention too",
        "uncovered": "the attention is also used without these positions",
        "positions-read": "the positional encoding is read by other code",
        "num-heads": "the number of heads cannot be told from `__init__`",
        "bias-taken": "the attention has an additive mask already",
        "cross-attention": "queries and keys come from different inputs",
        "not-fused": "the attention itself was refused in phase 1",
        "foreign-attention": "there is, or may be, an attention that the bias cannot be brought into",
        "carrier": "the class that adds the positions does more than that",
        "conditional": "the positions are added under a condition",
        "offset": "the positions start somewhere else than at 0",
        "layout": "the place cannot be edited statement by statement",
        **other_positions.REFUSALS,
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for group in groups(index):
            first = group.consumers[0]
            symbol = ", ".join(consumer.info.name for consumer in group.consumers)
            place = Place.of(symbol, first.assignment.statement, first.info.definition)
            obstacle = other_positions.relative_in(index, group) or group_obstacle(index, group)
            obstacle = obstacle or _heads(index, group)
            yield Refusal(place, *obstacle) if obstacle is not None else _site(index, group, place)
        for consumer, doubt in keepers(index):
            place = Place.of(consumer.info.name, consumer.assignment.statement, consumer.info.definition)
            kept = Modern(place, "keeps its sinusoid: nothing in it attends, so a bias has no place")
            yield Refusal(place, *doubt) if doubt is not None else kept
        yield from other_positions.refused(index, "alibi")

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        owners = [found.owner for found in part.attentions]
        for position, found in enumerate(part.attentions):
            yield from _arrival(part.index, found, part, found.owner not in owners[:position])
        yield from (departure.edit() for departure in part.departures if departure.edits)
        yield part.imports


def _heads(index: FileIndex, group: PositionGroup) -> tuple[str, str, str] | None:
    for name, held in group.attentions.items():
        said = [num_heads(found) for found in held]
        if None in said or len({ast.unparse(heads) for heads in said if heads}) != 1 or not _has_init(index, name):
            seen = f"the number of heads of {name} is not said in `__init__`"
            return "num-heads", seen, "keep it as self.num_heads, and use that in forward"
        for found in held:
            assert isinstance(found.node, ast.Call)
            if found.kind == "sdpa":
                seen = f"{name} calls torch's scaled_dot_product_attention, which takes the bias in the place of a mask"
                return "foreign-attention", seen, "call runtime.attention there"
            if any(k.arg == "bias" for k in found.node.keywords):
                return "bias-taken", f"the attention of {name} adds a mask to its scores", "make that mask boolean"
    return None


def _has_init(index: FileIndex, name: str) -> bool:
    return "__init__" in index.modules[name].methods


def _site(index: FileIndex, group: PositionGroup, place: Place) -> Site:
    spelling, imported = runtime_name(index, "Alibi")
    attentions = tuple(found for held in group.attentions.values() for found in held)
    taken = {name for found in attentions if found.owner for name in {*found.owner.attributes, *found.owner.methods}}
    attribute = next(name for name in ("alibi", "alibi_bias", "distance_bias") if name not in taken)
    part = _Part(index, attentions, tuple(departures(group)), attribute, spelling, imported)
    consumers = [consumer.info.name for consumer in group.consumers]
    claim = Claim(
        definitions=(*consumers, *group.attentions),
        models=(*group.attentions, *consumers),
        dropped=tuple((one.info.name, one.attribute) for one in group.consumers if one.table is not None),
        off=tuple(swap for departure in part.departures if (swap := departure.off) is not None),
        parts=tuple(AlibiPart(name, attribute) for name in group.attentions),
        changes=(
            ("absolute position", "ALiBi attention sees distances between tokens, no longer their absolute places"),
        ),
    )
    return Site(place, f"{said_of(group)} -> ALiBi in {', '.join(group.attentions)}", claim, part)


def _arrival(index: FileIndex, found: Attention, part: _Part, first: bool) -> Iterator[AnyEdit]:
    heads, owner = num_heads(found), found.owner
    assert heads is not None and owner is not None and isinstance(found.node, ast.Call)
    definition, statement = found.flow.definition, found.output.statement
    assert statement is not None
    if first:
        assignment = f"self.{part.attribute} = {part.spelling}({ast.unparse(heads)})"
        yield Insert(definition, owner.methods["__init__"], assignment, "end")
    words = [definition.source(node) for node in found.node.args]
    for position, name in ((0, "queries"), (1, "keys")):
        if not isinstance(found.node.args[position], ast.Name):  # say it once, not twice
            fresh = free_name(index, definition, name, f"{name}_")
            yield Insert(definition, statement, f"{fresh} = {words[position]}", "before")
            words[position] = fresh
    bias = f"self.{part.attribute}({words[0]}, {words[1]})"
    if found.node.end_lineno == found.node.lineno:
        yield Replace(definition, found.node, _longer_call(found, words, bias))
    else:
        yield Edit(definition, found.node, lambda node: _with_bias(cast(cst.Call, node), words, bias))


def _longer_call(found: Attention, positional: list[str], bias: str) -> str:
    """The call with one more argument, broken into lines where it must be."""
    node, statement, definition = found.node, found.output.statement, found.flow.definition
    assert isinstance(node, ast.Call) and statement is not None
    words = [*positional, *(f"{k.arg}={definition.source(k.value)}" for k in node.keywords)]
    around = len(definition.source(statement).split("\n")[0]) - len(definition.source(node))
    return call(definition.source(node.func), [*words, f"bias={bias}"], indent=statement.col_offset + around)


def _with_bias(node: cst.Call, positional: list[str], bias: str) -> cst.Call:
    """The call with these positional arguments and `bias=` as its last one."""
    bare = cst.AssignEqual(whitespace_before=cst.SimpleWhitespace(""), whitespace_after=cst.SimpleWhitespace(""))
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    argument = cst.Arg(cst.parse_expression(bias), keyword=cst.Name("bias"), equal=bare)
    given = list(node.args)
    for place, text in enumerate(positional):
        given[place] = given[place].with_changes(value=cst.parse_expression(text))
    *others, last = given
    if not isinstance(last.comma, cst.Comma):
        last = last.with_changes(comma=comma)
        return node.with_changes(args=[*others, last, argument])
    argument = argument.with_changes(comma=last.comma)
    return node.with_changes(args=[*others, last.with_changes(comma=others[-1].comma), argument])
