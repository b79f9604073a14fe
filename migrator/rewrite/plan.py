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
class Plan:
    """All stages from `source` to `text`. Exact changes are merged into one stage, each new one stands alone."""

    path: Path
    source: str
    text: str
    stages: tuple[Stage, ...] = ()
    outcomes: tuple[Outcome, ...] = field(default=())
    probes: tuple[tuple[str, str], ...] = ()  # (class, expression that builds it), as the project's configuration says

    tolerances: Tolerances = Tolerances()

    @property
    def changed(self) -> bool:
        return self.text != self.source
