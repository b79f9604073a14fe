"""Runs `migrate` over a folder of foreign code: plans each file, proves what changes, and sums up what was seen."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from migrator.codemod import Phase
from migrator.errors import MigrateError
from migrator.link.planning import plan
from migrator.link.telling import in_files
from migrator.link.units import Unit, units
from migrator.prove import Prover
from migrator.read.prefilter import may_belong_to_one, may_contain_transformer
from migrator.read.source import Source, decode
from migrator.rewrite.plan import Outcome, Plan

SECONDS = 120.0  # for the proof of one file


@dataclass
class Row:
    """What was seen in one file, in one phase and the ones before it.

    `verdict` is that of the proof, "unchanged" where there was nothing to prove, or "crash".
    """

    path: str
    outcomes: tuple[Outcome, ...]
    verdict: str
    notes: tuple[str, ...] = ()
    text: str = ""
    unit: str = ""  # the first of the files that this one is read as one with

    @property
    def words(self) -> list[str]:
        """`migrated attention`, `refused attention [scale]`, each with its number, and the verdict."""
        seen = Counter(f"{o.status} {o.codemod}" + (f" [{o.code}]" if o.code else "") for o in self.outcomes)
        rows = [word if count == 1 else f"{word} x{count}" for word, count in sorted(seen.items())]
        return [*rows, *([] if self.verdict == "unchanged" else [self.verdict])]

    def count(self, status: str, codemod: str = "attention") -> int:
        return sum(o.status == status and o.codemod == codemod for o in self.outcomes)


@dataclass
class Look:
    """All files of a folder in which something was found; how many lines were read, and how long planning took."""

    rows: list[Row] = field(default_factory=list)
    files: int = 0
    lines: int = 0
    seconds: float = 0.0


def look(folder: Path, prover: Prover | None, phase: Phase = Phase.DROP_IN, earlier: Look | None = None) -> Look:
    """Plan every Python file below `folder`, and prove what changes if there is a prover.

    What `earlier`, the look of the phase before, has proved already is not proved again.
    """
    seen = Look()
    before = {row.path: row for row in earlier.rows} if earlier is not None else {}
    start = time.perf_counter()
    sources = list(_sources(folder, seen))
    closely = [source for source in sources if may_contain_transformer(source.data)]
    for unit in units(closely, [source for source in sources if source not in closely]):
        for row in _rows(unit, phase, prover, before, folder):
            if row.outcomes or row.verdict == "crash":
                seen.rows.append(row)
    seen.rows.sort(key=lambda row: row.path)
    seen.seconds = time.perf_counter() - start
    return seen


def _sources(folder: Path, seen: Look) -> Iterator[Source]:
    for path in sorted(folder.rglob("*.py")):
        data = path.read_bytes()
        seen.files += 1
        seen.lines += data.count(b"\n")
        if may_belong_to_one(data):
            with contextlib.suppress(MigrateError):  # a template, or in no encoding
                yield decode(path.resolve(), data)


def _rows(unit: Unit, phase: Phase, prover: Prover | None, before: dict[str, Row], folder: Path) -> Iterator[Row]:
    names = [source.path.relative_to(folder.resolve()).as_posix() for source in unit.given]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the foreign code
            plans = plan(unit, phase=phase)
    except SyntaxError:
        return  # Python 2
    except Exception as error:  # what the corpus is there to find
        yield Row(names[0], (), "crash", (f"{type(error).__name__}: {error}",))
        return
    verdict, notes = _proved(plans, prover, [before.get(name) for name in names])
    for name, planned in zip(names, plans, strict=True):
        if planned.changed:
            yield Row(name, planned.outcomes, verdict, notes, planned.text, names[0])
        else:
            yield Row(name, planned.outcomes, "unchanged", unit=names[0])


def _proved(plans: list[Plan], prover: Prover | None, before: list[Row | None]) -> tuple[str, tuple[str, ...]]:
    """The verdict on all files of a unit, which are proved as one."""
    changed = [(planned, row) for planned, row in zip(plans, before, strict=True) if planned.changed]
    if not changed:
        return "unchanged", ()
    if all(row is not None and row.text == planned.text for planned, row in changed):
        known = changed[0][1]
        assert known is not None
        return known.verdict, known.notes
    if prover is None:
        return "not tried", ()
    whole = plans[0].whole or plans[0]
    verification = prover.prove(whole, timeout=SECONDS * min(len(changed), 3))
    failed = tuple(f"{c.symbol}: {c.name}: {c.message}" for c in verification.checks if not c.passed)
    return verification.status, tuple(in_files(note, whole.extents) for note in failed or verification.notes)


def refusals(rows: list[Row]) -> Counter[str]:
    return Counter(f"{o.codemod} [{o.code}]" for row in rows for o in row.outcomes if o.status == "refused")


def attention_sites(rows: list[Row]) -> Iterator[tuple[str, int]]:
    """("proved", 12), ("not verified", 3), ("modern", 5), ("refused", 7)."""
    for verdict in ("proved", "not verified", "failed", "not tried"):
        yield verdict, sum(row.count("migrated") for row in rows if row.verdict == verdict)
    for status in ("modern", "refused"):
        yield status, sum(row.count(status) for row in rows)
