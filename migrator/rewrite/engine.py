"""From a file's text to a plan: codemods one after another, repeated until none of a phase finds anything more."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.codemod import (
    AnyEdit,
    Codemod,
    Finding,
    Import,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Site,
)
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.syntax import split_lines
from migrator.rewrite.given import within_given
from migrator.rewrite.keeping import Keeping, Kept
from migrator.rewrite.plan import Outcome, Plan, Stage
from migrator.rewrite.registry import chosen, name_of

if TYPE_CHECKING:
    from migrator.rewrite.edits import DefinitionEdit

_MAX_ROUNDS = 64  # a method has its sites rewritten one in each round


def plan(
    path: Path,
    source: str,
    *,
    index: FileIndex | None = None,
    phase: Phase,
    only: frozenset[str] = frozenset(),
    skip: frozenset[str] = frozenset(),
    choices: Mapping[str, str] | None = None,
    findings_only: bool = False,
    left_out: frozenset[tuple[str, str]] = frozenset(),
) -> Plan:
    """What `migrate` would do to a file. Pure: reads no file, runs none of its code.

    Args:
        path: only for messages.
        source: the file's text; must parse.
        index: of that text, if there is one already.
        phase: the last phase that is applied; the ones before it are too.
        only, skip: names of codemods.
        choices: such as {"positions": "alibi"}.
        findings_only: the outcomes are asked for and the text is not, so that less has to be rewritten.
        left_out: (codemod, symbol) of findings that are not to be rewritten.
    """
    run = Run(index or FileIndex(source), left_out)
    run.all(phase, only, skip, choices or {}, findings_only)
    return run.plan(path)


@dataclass
class Run:
    """The codemods at work on an index. What comes from a member in `fixed` (see `migrator.link`) must not change."""

    index: FileIndex
    left_out: frozenset[tuple[str, str]] = frozenset()
    fixed: frozenset[int] = frozenset()
    stages: list[Stage] = field(default_factory=list)
    modern: dict[type[Codemod], list[Outcome]] = field(default_factory=dict)
    left: dict[type[Codemod], list[Outcome]] = field(default_factory=dict)
    told: dict[tuple[str, str, int, str | None], list[Outcome]] = field(default_factory=dict)
    original: FileIndex = field(init=False)
    keeping: Keeping = field(init=False)
    rows: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.original = self.index
        self.keeping = Keeping(self.index, self.left_out)

    def all(
        self, last: Phase, only: frozenset[str], skip: frozenset[str], choices: Mapping[str, str], findings_only: bool
    ) -> None:
        """All phases up to the last one; the arguments are those of `plan`."""
        for step in Phase:
            if step <= last:
                self.phase(chosen(step, only, skip, choices), findings_only and step == last)
        if self.stages and not findings_only:
            ast.parse(self.index.source)

    def plan(self, path: Path) -> Plan:
        return Plan(path, self.original.source, self.index.source, tuple(self.stages), self.outcomes())

    def phase(self, codemods: list[type[Codemod]], findings_only: bool) -> None:
        """Run the codemods of a phase until none finds more; for findings only, apply what others wait for."""
        if findings_only:
            waited_for = {name for codemod in codemods for name in codemod.after}
            for codemod in codemods:
                self.one(codemod, name_of(codemod) in waited_for)
        else:
            for _ in range(_MAX_ROUNDS):
                if not [codemod for codemod in codemods if self.one(codemod)]:
                    break
        for codemod in codemods:
            self.rows += self.modern.get(codemod, [])
            self.rows += self.left.get(codemod, [])
            self.rows += [self.row(codemod, kept) for kept in self.keeping.kept.get(name_of(codemod), [])]

    def one(self, codemod: type[Codemod], apply: bool = True) -> bool:
        """One pass of one codemod; whether it changed anything."""
        findings = self.keeping.without_kept(name_of(codemod), self.index, codemod().find(self.index))
        if self.fixed:
            findings = within_given(codemod, self.index, findings, self.fixed)
        sites = [finding for finding in findings if isinstance(finding, Site)]
        refused = [self.row(codemod, finding) for finding in findings if isinstance(finding, Refusal)]
        self.left[codemod] = list(self._as_first_told(refused))
        if codemod not in self.modern:  # what this run makes modern is reported as migrated
            self.modern[codemod] = [self.row(codemod, finding) for finding in findings if isinstance(finding, Modern)]
        if not apply:
            self.rows += [self.row(codemod, site) for site in sites]
        if not sites or not apply:
            return False
        applied, index = self.apply(codemod, sites)
        if not applied:
            return False
        claims = tuple(site.claim for site in applied)
        stage = Stage((name_of(codemod),), codemod.promise, self.index.source, index.source, claims)
        for site in applied:
            self.rows.append(self.row(codemod, site))
        self.index = index
        self.add_stage(stage)
        return True

    def _as_first_told(self, refused: list[Outcome]) -> Iterator[Outcome]:
        """A refusal is explained by the file as the user has it, not by what other codemods have put there since."""
        groups: dict[tuple[str, str, int, str | None], list[Outcome]] = {}
        for row in refused:
            groups.setdefault((row.codemod, row.symbol, row.line, row.code), []).append(row)
        for key, rows in groups.items():
            first = self.told.setdefault(key, rows)
            yield from first if len(first) == len(rows) else rows

    def apply(self, codemod: type[Codemod], sites: list[Site]) -> tuple[list[Site], FileIndex]:
        """Apply as many sites as go together; each wholly or not at all."""
        from migrator.rewrite.edits import CannotEdit, overlapping

        applied: list[Site] = []
        edits: list[AnyEdit] = []
        index = self.index
        try:
            everything = [list(codemod().rewrite(site)) for site in sites]
            if not any(overlapping(_not_imports(a), _not_imports(b)) for a, b in combinations(everything, 2)):
                return sites, _applied(index, [edit for new in everything for edit in new])
        except CannotEdit:
            pass  # find out below which site it is
        for site in sites:
            new = list(codemod().rewrite(site))
            if overlapping(_not_imports(edits), _not_imports(new)):
                continue
            try:
                index = _applied(self.index, [*edits, *new])
            except CannotEdit as obstacle:
                remedy = "bring it into plain statements, one on a line"
                self.left[codemod].append(self.row(codemod, Refusal(site.place, "layout", str(obstacle), remedy)))
                continue
            applied.append(site)
            edits += new
        return applied, index

    def add_stage(self, stage: Stage) -> None:
        """Exact changes compose: the proof compares the first text with the last."""
        if self.stages and self.stages[-1].promise == stage.promise == Promise.EXACT:
            last = self.stages.pop()
            stage = Stage(
                tuple(dict.fromkeys(last.codemods + stage.codemods)),
                stage.promise,
                last.before,
                stage.after,
                last.claims + stage.claims,
            )
        self.stages.append(stage)

    def row(self, codemod: type[Codemod], finding: Finding | Kept) -> Outcome:
        first, last = self.original_lines(finding.place)
        status, code, message, remedy = _described(finding)
        return Outcome(
            name_of(codemod),
            int(codemod.phase),
            str(codemod.promise),
            status,
            code,
            self.in_original_lines(message),
            finding.place.symbol,
            first,
            last,
            remedy,
        )

    def in_original_lines(self, message: str) -> str:
        """A message that speaks of lines of the text as it is now, for a reader of the file."""

        def line(found: re.Match[str]) -> str:
            number = int(found[1])
            return f"line {self.original_lines(Place('', number, number))[0]}"

        return message if self.index is self.original else re.sub(r"\bline (\d+)\b", line, message)

    def original_lines(self, place: Place) -> tuple[int, int]:
        """The lines of a place in the file as the user has it."""
        now = next((d for d in self.index.definitions if d.first_line <= place.line <= d.last_line), None)
        if now is None or self.index is self.original:
            return place.line, place.end_line
        then = _same_definition(now, self.index, self.original)
        if then is None:
            return place.line, place.end_line
        lines = _line_map(then, now)
        return lines(place.line), lines(place.end_line)

    def outcomes(self) -> tuple[Outcome, ...]:
        rows = [*self.rows, *map(_complaint, self.keeping.complaints())]
        return tuple(sorted(rows, key=lambda row: (row.phase, row.line, row.codemod)))


def _complaint(of: Refusal) -> Outcome:
    """The row of a comment `# migrate: ...` that does not do what its author thinks."""
    place = of.place
    return Outcome(
        "keep", 1, str(Promise.EXACT), "refused", of.code, of.seen, place.symbol, place.line, place.end_line, of.remedy
    )


def _not_imports(edits: list[AnyEdit]) -> list[DefinitionEdit]:
    return [edit for edit in edits if not isinstance(edit, Import)]


def _applied(index: FileIndex, edits: list[AnyEdit]) -> FileIndex:
    """The index after these edits; only definitions that are edited are printed anew."""
    from migrator.rewrite.edits import CannotEdit, apply
    from migrator.rewrite.imports import with_imports, without_unused

    texts: dict[int, str] = {}
    for position, definition in enumerate(index.definitions):
        here = [edit for edit in edits if not isinstance(edit, Import) and _within(definition, edit.definition)]
        if here:
            if _shares_a_line(index, position):
                raise CannotEdit("another statement stands on the definition's line")
            texts[position] = apply(definition, here)
    for position, text in with_imports(index, [edit for edit in edits if isinstance(edit, Import)]).items():
        if position in texts:
            raise CannotEdit("the import would have to stand inside an edited definition")
        texts[position] = text
    try:
        after = index.replaced(texts)
    except SyntaxError as error:
        raise CannotEdit("the code that would stand here is no Python") from error
    unused = without_unused(index, after)
    return after.replaced(unused) if unused else after


def _within(definition: Definition, other: Definition) -> bool:
    return definition is other or definition.tree is other.tree


def _shares_a_line(index: FileIndex, position: int) -> bool:
    here = index.definitions[position]
    others = (index.definitions[p] for p in (position - 1, position + 1) if 0 <= p < len(index.definitions))
    return any(other.first_line <= here.last_line and here.first_line <= other.last_line for other in others)


def _described(finding: Finding | Kept) -> tuple[str, str | None, str, str]:
    if isinstance(finding, Site):
        return "migrated", None, finding.message, ""
    if isinstance(finding, Modern):
        return "modern", None, finding.message, ""
    if isinstance(finding, Kept):
        return "kept", finding.code, finding.message, ""
    return "refused", finding.code, finding.seen, finding.remedy


def _same_definition(now: Definition, current: FileIndex, original: FileIndex) -> Definition | None:
    """The original of a definition: of several with one name, the one in the same place among them."""
    rank = [d for d in current.definitions if d.name == now.name].index(now)
    same = [d for d in original.definitions if d.name == now.name and now.name]
    return same[rank] if rank < len(same) else None


class _line_map:
    def __init__(self, then: Definition, now: Definition) -> None:
        self.then, self.now = then, now
        lines = [split_lines(then.text), split_lines(now.text)]
        self.blocks = difflib.SequenceMatcher(None, lines[0], lines[1], autojunk=False).get_opcodes()

    def __call__(self, line: int) -> int:
        offset = line - self.now.first_line
        for tag, start, end, new_start, new_end in self.blocks:
            if new_start <= offset < new_end:
                inside = offset - new_start if tag == "equal" else min(offset - new_start, max(end - start - 1, 0))
                return self.then.first_line + min(start + inside, len(split_lines(self.then.text)) - 1)
        return self.then.first_line
