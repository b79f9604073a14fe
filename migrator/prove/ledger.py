"""What has been checked so far, and what could not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from migrator.prove.result import Check


@dataclass
class Ledger:
    """Checks of all stages. `unable` are those that could not run: with one of them nothing is proved."""

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)
    stage: str = ""

    def add(
        self,
        name: str,
        symbol: str,
        passed: bool,
        message: str,
        figure: float | None = None,
        limit: float | None = None,
    ) -> None:
        self.checks.append(Check(name, symbol, passed, message, figure, limit, self.stage))

    def cannot(self, name: str, symbol: str, why: str) -> None:
        """A check that has to run and cannot."""
        self.unable.append(f"{symbol}: {name} could not be checked: {why}")
        self.add(name, symbol, False, f"could not be checked: {why}")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def failed(self) -> bool:
        """Whether a check ran and failed."""
        return any(not check.passed and not check.message.startswith("could not be checked") for check in self.checks)

    @contextmanager
    def tally(self, name: str, symbol: str, limit: float | None = None) -> Iterator[Tally]:
        """One line of the report for many comparisons; it is written at the end of the block."""
        tally = Tally(limit)
        yield tally
        self.write(name, symbol, tally)

    def write(self, name: str, symbol: str, tally: Tally) -> None:
        """The line of the report for a tally that is complete."""
        limit = tally.limit
        if tally.failure is not None:
            self.add(name, symbol, False, tally.failure, tally.figure, limit)
        elif not tally.count:
            self.cannot(name, symbol, tally.why or "there is nothing to compare")
        else:
            self.add(
                name, symbol, True, tally.words, tally.figure, limit if limit is None else max(limit, tally.widest)
            )
            if tally.skipped:
                self.note(f"{symbol}: {name}: {tally.skipped} of the comparisons could not be made: {tally.why}")


@dataclass
class Tally:
    """The worst of many comparisons."""

    limit: float | None = None
    figure: float | None = None
    failure: str | None = None
    why: str | None = None
    count: int = 0
    skipped: int = 0
    words: str = ""
    widest: float = 0.0

    def measured(self, figure: float, what: str, own_error: float = 0.0) -> None:
        """A comparison that gave a number; `what` says where, should it be too large.

        `own_error` is how far the code before is from the exact result: two roundings may be twice that apart.
        """
        self.count += 1
        assert self.limit is not None
        allowed = max(self.limit, 2 * own_error)
        if not figure <= allowed:
            self.fail(f"{what} differs by {figure:.1e}, at most {allowed:.0e} is allowed", figure)
        elif self.failure is None:
            self.figure = max(figure, self.figure or 0.0)
            self.widest = max(self.widest, allowed if figure > self.limit else 0.0)

    def ok(self) -> None:
        self.count += 1

    def fail(self, message: str, figure: float | None = None) -> None:
        self.count += 1
        if self.failure is None:
            self.failure, self.figure = message, figure

    def cannot(self, why: str) -> None:
        """One comparison that could not be made; it only matters if none can."""
        self.why = self.why or why
        self.skipped += 1
