"""Findings in files that are read as one with others, not all of which may be changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from migrator.codemod import Codemod, Finding, Import, Place, Refusal, Site
from migrator.recognise.index import Definition, FileIndex

CODE = "elsewhere"


def within_given(
    codemod: type[Codemod], index: FileIndex, findings: Iterable[Finding], fixed: frozenset[int]
) -> list[Finding]:
    """Findings in the files that may be changed; one that would change another file too becomes a refusal.

    Args:
        fixed: numbers of the members that stay as they are.
    """
    return list(_within(codemod, index, findings, fixed))


def _within(
    codemod: type[Codemod], index: FileIndex, findings: Iterable[Finding], fixed: frozenset[int]
) -> Iterator[Finding]:
    for finding in findings:
        here = _around(index, finding.place)
        ours = here is None or here.member not in fixed
        if not isinstance(finding, Site):
            if ours:
                yield finding
            continue
        edited = [edit.definition for edit in codemod().rewrite(finding) if not isinstance(edit, Import)]
        theirs = [definition for definition in edited if definition.member in fixed]
        changed = [definition for definition in edited if definition.member not in fixed]
        if not theirs:
            yield finding
        elif ours or changed:
            yield _refusal(finding.place if ours else _place(changed[0]), theirs)


def _refusal(place: Place, theirs: list[Definition]) -> Refusal:
    names = ", ".join(dict.fromkeys(f"`{definition.name}` (line {definition.first_line})" for definition in theirs))
    seen = f"{names} would change with it, in a file that is not changed together with this one"
    return Refusal(place, CODE, seen, "give both files, or the folder that they stand in")


def _around(index: FileIndex, place: Place) -> Definition | None:
    return next((d for d in index.definitions if d.first_line <= place.line <= d.last_line), None)


def _place(definition: Definition) -> Place:
    return Place(definition.name, definition.first_line, definition.last_line)
