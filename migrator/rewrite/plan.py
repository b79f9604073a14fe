"""What a run intends for one file: texts, stages and outcomes. Plain data, no torch, no libcst."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from migrator.codemod import Claim, Promise
from migrator.config import Tolerances


@dataclass(frozen=True)
class Outcome:
    """One row of the report. Lines are those of the file as the user has it, before any change."""

    codemod: str
    phase: int
    promise: str
    status: str  # migrated | modern | kept | refused
    code: str | None
    message: str
    symbol: str
    line: int
    end_line: int
    remedy: str = ""


@dataclass(frozen=True)
class Stage:
    """A step from one text to the next, with what its changes claim. The proof checks stage by stage."""

    codemods: tuple[str, ...]
    promise: Promise
    before: str
    after: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Extent:
    """A file in a text of several: `first` is the line of that text where its line 1 stands."""

    path: Path
    first: int
    lines: int

    def __contains__(self, line: int) -> bool:
        return self.first <= line < self.first + self.lines

    def line(self, line: int) -> int:
        """The line of the file that a line of the whole text is."""
        return line - self.first + 1


@dataclass(frozen=True)
class Plan:
    """All stages from `source` to `text`. Exact changes are merged into one stage, each new one stands alone.

    Args:
        probes: (class, expression that builds it), as the project's configuration says.
        whole: where the file is read as one with others, the plan for the text of all; that one is proved.
        extents: where the files stand in such a text.
        warnings: what the user should know and the outcomes do not say.
    """

    path: Path
    source: str
    text: str
    stages: tuple[Stage, ...] = ()
    outcomes: tuple[Outcome, ...] = field(default=())
    probes: tuple[tuple[str, str], ...] = ()
    tolerances: Tolerances = Tolerances()
    whole: Plan | None = None
    extents: tuple[Extent, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.text != self.source
