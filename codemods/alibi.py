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
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
    Swap,
)
from migrator.recognise.attention import Attention
from migrator.recognise.carriage import Departure, departures, group_obstacle
from migrator.recognise.consumers import PositionGroup, groups
from migrator.recognise.index import FileIndex
from migrator.recognise.spelling import call, runtime_name
from migrator.recognise.widths import num_heads


@dataclass(frozen=True)
class _Part:
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
    choice = ("positions", "alibi")
    refusals = {
        "mixed-consumers": "the positions go to something else than attention too",
        "uncovered": "the attention is also used without these positions",
        "bases": "the positions that share an attention have different bases, or unknown ones",
        "positions-read": "the positional encoding is read by other code",
        "num-heads": "the number of heads cannot be told from `__init__`",
        "bias-taken": "the attention has an additive mask already",
        "cross-attention": "queries and keys come from different inputs",
        "not-fused": "the attention itself was refused in phase 1",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for group in groups(index):
            first = group.consumers[0]
            symbol = ", ".join(consumer.info.name for consumer in group.consumers)
            place = Place.of(symbol, first.assignment.statement, first.info.definition)
            obstacle = group_obstacle(index, group) or _heads(group)
            yield Refusal(place, *obstacle) if obstacle is not None else _site(index, group, place)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        for found in part.attentions:
            yield from _arrival(found, part)
        for departure in part.departures:
            if departure.replacement is None:
                assert isinstance(departure.node, ast.stmt)
                yield Remove(departure.definition, departure.node)
            else:
                yield Replace(departure.definition, departure.node, departure.replacement)
        yield part.imports


def _heads(group: PositionGroup) -> tuple[str, str, str] | None:
    for name, held in group.attentions.items():
        for found in held:
            if num_heads(found) is None:
                return (
                    "num-heads",
                    f"the number of heads of {name} is not said in `__init__`",
                    "keep it as self.num_heads",
                )
            assert isinstance(found.node, ast.Call)
            if any(k.arg == "bias" for k in found.node.keywords):
                return "bias-taken", f"the attention of {name} adds a mask to its scores", "make that mask boolean"
    return None


def _site(index: FileIndex, group: PositionGroup, place: Place) -> Site:
    spelling, imported = runtime_name(index, "Alibi")
    attentions = tuple(found for held in group.attentions.values() for found in held)
    taken = {name for found in attentions if found.owner for name in {*found.owner.attributes, *found.owner.methods}}
    attribute = next(name for name in ("alibi", "alibi_bias", "distance_bias") if name not in taken)
    part = _Part(attentions, tuple(departures(group)), attribute, spelling, imported)
    consumers = [consumer.info.name for consumer in group.consumers]
    claim = Claim(
        definitions=(*consumers, *group.attentions),
        models=(*group.attentions, *consumers),
        off=tuple(Swap.of(d.definition, d.call, d.argument) for d in part.departures if d.call is not None),
        parts=tuple(AlibiPart(name, attribute) for name in group.attentions),
        changes=(
            ("absolute position", "ALiBi attention sees distances between tokens, no longer their absolute places"),
        ),
    )
    return Site(place, f"additive sinusoid -> ALiBi in {', '.join(group.attentions)}", claim, part)


def _arrival(found: Attention, part: _Part) -> Iterator[AnyEdit]:
    heads, owner = num_heads(found), found.owner
    assert heads is not None and owner is not None and isinstance(found.node, ast.Call)
    definition = found.flow.definition
    assignment = f"self.{part.attribute} = {part.spelling}({ast.unparse(heads)})"
    yield Insert(definition, owner.methods["__init__"], assignment, "end")
    q, k = (definition.source(node) for node in found.node.args[:2])
    bias = f"self.{part.attribute}({q}, {k})"
    if found.node.end_lineno == found.node.lineno:
        yield Replace(definition, found.node, _longer_call(found, bias))
    else:
        yield Edit(definition, found.node, lambda node: _with_bias(cast(cst.Call, node), bias))


def _longer_call(found: Attention, bias: str) -> str:
    """The call with one more argument, broken into lines where it must be."""
    node, statement, definition = found.node, found.output.statement, found.flow.definition
    assert isinstance(node, ast.Call) and statement is not None
    words = [definition.source(argument) for argument in node.args]
    words += [f"{k.arg}={definition.source(k.value)}" for k in node.keywords]
    around = len(definition.source(statement).split("\n")[0]) - len(definition.source(node))
    return call(definition.source(node.func), [*words, f"bias={bias}"], indent=statement.col_offset + around)


def _with_bias(node: cst.Call, bias: str) -> cst.Call:
    """The call with `bias=` as its last argument."""
    bare = cst.AssignEqual(whitespace_before=cst.SimpleWhitespace(""), whitespace_after=cst.SimpleWhitespace(""))
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    argument = cst.Arg(cst.parse_expression(bias), keyword=cst.Name("bias"), equal=bare)
    *others, last = node.args
    if not isinstance(last.comma, cst.Comma):
        last = last.with_changes(comma=comma)
        return node.with_changes(args=[*others, last, argument])
    return node.with_changes(args=[*others, last, argument.with_changes(comma=last.comma)])
