"""What a run found and did, as all formats of the report get it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrator.errors import MigrateError
    from migrator.prove.result import Verification
    from migrator.rewrite.plan import Outcome, Plan
    from migrator.validate.result import Validation

WRITE, CHECK, DRY_RUN = "write", "check", "dry-run"
PROVED = "proved"


@dataclass
class FileResult:
    """One file: its plan (none where the bytes alone say that it has no transformer), its proof, what became of it."""

    path: Path
    plan: Plan | None = None
    verification: Verification | None = None
    diff: bytes = b""
    written: bool = False
    declined: bool = False  # --interactive: it could have been written
    candidate: Path | None = None
    copies: tuple[Path, ...] = ()  # modules of the runtime that are put beside it
    texts: tuple[str, str] | None = None  # before and after, with the file's own line ends
    validation: Validation | None = None
    unmeasured: str = ""  # why a validation that was asked for could not be made

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return () if self.plan is None else self.plan.outcomes

    @property
    def warnings(self) -> tuple[str, ...]:
        return () if self.plan is None else self.plan.warnings

    @property
    def planned(self) -> Plan:
        """What is proved: the plan for this file, or for all files that are read as one with it."""
        assert self.plan is not None
        return self.plan.whole or self.plan

    @property
    def changed(self) -> bool:
        """Whether there is anything to rewrite. Where only findings were asked for, the plan's text tells nothing."""
        return self.plan is not None and (self.plan.changed or any(row.status == "migrated" for row in self.outcomes))

    @property
    def unproved(self) -> bool:
        return self.verification is not None and self.verification.status != PROVED


@dataclass(frozen=True)
class RunResult:
    """A whole run. `verify` is false where the user asked for no proof."""

    files: tuple[FileResult, ...]
    phase: int
    mode: str = WRITE
    verify: bool = True
    errors: tuple[MigrateError, ...] = ()
    restored: tuple[Path, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 done, 1 work left under `--check`, 2 unreadable, 3 something refused or measured worse, 4 not proved."""
        if self.errors:
            return max(error.exit_code for error in self.errors)
        if any(file.unproved for file in self.files):
            return 4
        left = set(self._statuses())
        if self.mode == CHECK:
            return int(bool(left & {"migrated", "refused"}))
        worse = any(file.unmeasured or (file.validation is not None and file.validation.worse) for file in self.files)
        return 3 if self.mode == WRITE and ("refused" in left or worse) else 0

    def _statuses(self) -> Iterator[str]:
        return (outcome.status for file in self.files for outcome in file.outcomes)
