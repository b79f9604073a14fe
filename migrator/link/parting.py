"""From the plan for the text of a unit back to its files: each gets the definitions that are its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace

from migrator.codemod import Import
from migrator.link.linking import Linked
from migrator.link.siblings import Member
from migrator.link.telling import in_files
from migrator.recognise.index import Definition, FileIndex
from migrator.rewrite.imports import with_imports, without_unused
from migrator.rewrite.plan import Outcome, Plan

_Imports = ast.Import | ast.ImportFrom


def parts(linked: Linked, plan: Plan, after: FileIndex) -> list[Plan]:
    """A plan for each file of the unit, in the order of its members.

    Args:
        plan: what becomes of the text of the unit.
        after: the index of that text, whose definitions know which file they come from.
    """
    return [
        Plan(
            member.source.path,
            member.source.text,
            _text(member, number, linked.index, after) if plan.changed else member.source.text,
            outcomes=tuple(_outcomes(linked, number, plan.outcomes)),
            whole=plan,
        )
        for number, member in enumerate(linked.members)
    ]


# --- texts ----------------------------------------------------------------------------------------------------------


def _text(member: Member, number: int, before: FileIndex, after: FileIndex) -> str:
    pairs = list(zip(_own(member.index, 0), _own(before, number), _own(after, number), strict=True))
    changed = {position: new for (position, _), (_, old), (_, new) in pairs if new.text != old.text}
    if not changed:
        return member.source.text
    texts = {position: definition.text for position, definition in changed.items()}
    now = member.index.replaced(texts)
    now = now.replaced(with_imports(now, list(_imports(now, list(changed.values()), after))))
    return now.replaced(without_unused(member.index, now)).source


def _own(index: FileIndex, number: int) -> list[tuple[int, Definition]]:
    """The statements of a file but for its imports, with their places in the index."""
    return [
        (position, definition)
        for position, definition in enumerate(index.definitions)
        if definition.member == number and not isinstance(definition.tree, _Imports)
    ]


def _imports(now: FileIndex, changed: Sequence[Definition], after: FileIndex) -> Iterator[Import]:
    """What the new definitions of a file speak of the runtime, and the file does not import."""
    spoken = {node.id for definition in changed for node in definition.nodes if isinstance(node, ast.Name)}
    for name in sorted(spoken - now.shadowed):
        dotted = after.imports.get(name, "")
        if dotted.partition(".")[0] != "runtime" or now.imports.get(name) == dotted:
            continue
        module, _, original = dotted.rpartition(".")
        yield Import(module, original if original == name else f"{original} as {name}") if module else Import(dotted)


# --- outcomes -------------------------------------------------------------------------------------------------------


def _outcomes(linked: Linked, number: int, outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    here = linked.extents[number]
    for outcome in outcomes:
        if outcome.line in here:
            yield replace(
                outcome,
                line=here.line(outcome.line),
                end_line=here.line(outcome.end_line),
                message=in_files(outcome.message, linked.extents, here.path),
                remedy=in_files(outcome.remedy, linked.extents, here.path),
            )
