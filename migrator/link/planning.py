"""The plans for the files of a unit."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from migrator.codemod import Phase, Promise
from migrator.link.callers import callers
from migrator.link.linking import Linked, linked
from migrator.link.parting import parts
from migrator.link.siblings import Siblings
from migrator.link.units import Unit
from migrator.read.source import Source
from migrator.recognise.index import FileIndex
from migrator.rewrite import engine
from migrator.rewrite.plan import Plan


def plan(
    unit: Unit,
    *,
    phase: Phase,
    only: frozenset[str] = frozenset(),
    skip: frozenset[str] = frozenset(),
    choices: Mapping[str, str] | None = None,
    findings_only: bool = False,
    left_out: frozenset[tuple[str, str]] = frozenset(),
) -> list[Plan]:
    """What `migrate` would do to each of the unit's files that were given; the arguments are those of `engine.plan`.

    Raises:
        SyntaxError, RecursionError, MemoryError: the one file of a unit is no Python.
    """
    settings = _Settings(phase, only, skip, choices or {}, findings_only, left_out)
    files = _together(unit, settings) if unit.members else [_alone(unit, settings)]
    if findings_only:
        return files
    return [_warned(unit, source, file) for source, file in zip(unit.given, files, strict=True)]


class _Settings(NamedTuple):
    """Arguments of `engine.plan`."""

    phase: Phase
    only: frozenset[str]
    skip: frozenset[str]
    choices: Mapping[str, str]
    findings_only: bool
    left_out: frozenset[tuple[str, str]]


def _alone(unit: Unit, settings: _Settings) -> Plan:
    (source,) = unit.given
    known = unit.siblings.known(source.target)
    return engine.plan(source.path, source.text, index=known.index if known is not None else None, **settings._asdict())


def _together(unit: Unit, settings: _Settings) -> list[Plan]:
    given = {source.target for source in unit.given}
    text = linked(unit.siblings, unit.members)
    fixed = frozenset(number for number, member in enumerate(unit.members) if member.path not in given)
    run = engine.Run(text.index, settings.left_out, fixed)
    run.all(settings.phase, settings.only, settings.skip, settings.choices, settings.findings_only)
    whole = replace(run.plan(unit.members[-1].path), extents=text.extents)
    files = parts(text, whole, run.index)
    if whole.changed and not settings.findings_only:
        _check_parts(text, files, run.index)
    by_path = {member.path: file for member, file in zip(unit.members, files, strict=True)}
    return [by_path[source.target] for source in unit.given]


def _warned(unit: Unit, source: Source, file: Plan) -> Plan:
    """The plan with a warning for each caller elsewhere of a class whose function changes."""
    claims = [
        claim for stage in (file.whole or file).stages if stage.promise != Promise.EXACT for claim in stage.claims
    ]
    changed = {name for claim in claims for name in claim.definitions}
    if changed:
        changed &= {node.name for node in ast.parse(file.source).body if isinstance(node, ast.ClassDef)}
    return replace(file, warnings=tuple(callers(unit, source, frozenset(changed)))) if changed else file


def _check_parts(text: Linked, files: list[Plan], after: FileIndex) -> None:
    """What is written has to be what is proved: the new files, read as one, say what the new text says."""
    sources = [replace(member.source, text=plan.text) for member, plan in zip(text.members, files, strict=True)]
    siblings = Siblings(sources)
    members = [siblings.member(source.target) for source in sources]
    again = linked(siblings, [member for member in members if member is not None])
    if _statements(again.index) != _statements(after):
        raise RuntimeError("the files differ from the text that they were planned as")


def _statements(index: FileIndex) -> list[str]:
    imports = ast.Import | ast.ImportFrom
    return [ast.dump(definition.tree) for definition in index.definitions if not isinstance(definition.tree, imports)]
