"""Runs `migrate` over a folder of foreign code: plans each file, proves what changes, and sums up what was seen."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from migrator.codemod import Phase
from migrator.prove import Prover
from migrator.read.prefilter import may_contain_transformer
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Outcome

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
    for path in sorted(folder.rglob("*.py")):
        data = path.read_bytes()
        seen.files += 1
        seen.lines += data.count(b"\n")
        start = time.perf_counter()
        name = path.relative_to(folder).as_posix()
        row = _row(path, data, phase, prover, before.get(name)) if may_contain_transformer(data) else None
        seen.seconds += time.perf_counter() - start
        if row is not None and (row.outcomes or row.verdict == "crash"):
            row.path = name
            seen.rows.append(row)
    return seen


def _row(path: Path, data: bytes, phase: Phase, prover: Prover | None, before: Row | None) -> Row | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the foreign code
            planned = plan(path, data.decode("utf-8"), phase=phase)
    except (SyntaxError, UnicodeDecodeError):
        return None  # Python 2, or a template
    except Exception as error:  # what the corpus is there to find
        return Row(str(path), (), "crash", (f"{type(error).__name__}: {error}",))
    if not planned.changed:
        return Row(str(path), planned.outcomes, "unchanged")
    if before is not None and before.text == planned.text:
        return Row(str(path), planned.outcomes, before.verdict, before.notes)
    if prover is None:
        return Row(str(path), planned.outcomes, "not tried")
    verification = prover.prove(replace(planned, path=path.resolve()), timeout=SECONDS)
    failed = tuple(f"{c.symbol}: {c.name}: {c.message}" for c in verification.checks if not c.passed)
    return Row(str(path), planned.outcomes, verification.status, failed or verification.notes, planned.text)


def refusals(rows: list[Row]) -> Counter[str]:
    return Counter(f"{o.codemod} [{o.code}]" for row in rows for o in row.outcomes if o.status == "refused")


def attention_sites(rows: list[Row]) -> Iterator[tuple[str, int]]:
    """("proved", 12), ("not verified", 3), ("modern", 5), ("refused", 7)."""
    for verdict in ("proved", "not verified", "failed", "not tried"):
        yield verdict, sum(row.count("migrated") for row in rows if row.verdict == verdict)
    for status in ("modern", "refused"):
        yield status, sum(row.count(status) for row in rows)
