"""The fixture cases: folders `fixtures/<codemod>/<case>` with before.py, report.txt and perhaps after.py and probe.py."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Outcome, Plan
from migrator.rewrite.registry import all_codemods, name_of

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"


@dataclass(frozen=True)
class Case:
    """One folder. Texts are read and written as bytes, so that line ends stay what they are."""

    folder: Path

    @property
    def codemod(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return f"{self.codemod}/{self.folder.name}"

    @property
    def before(self) -> str:
        return self.text("before.py")

    @property
    def after(self) -> str:
        """What before.py has to become: itself, if there is no after.py."""
        return self.text("after.py") if (self.folder / "after.py").exists() else self.before

    @property
    def rewritten(self) -> bool:
        return (self.folder / "after.py").exists()

    def text(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode("utf-8")

    def plan(self, text: str) -> Plan:
        """What the codemod alone makes of a text."""
        this = next(codemod for codemod in all_codemods() if name_of(codemod) == self.codemod)
        choices = dict([this.choice]) if this.choice is not None else {}
        return plan(Path("before.py"), text, phase=this.phase, only=frozenset({self.codemod}), choices=choices)


def all_cases() -> list[Case]:
    """Every case of every codemod, in alphabetical order."""
    folders = (path.parent for codemod in all_codemods() for path in (FIXTURES / name_of(codemod)).glob("*/before.py"))
    return sorted((Case(folder) for folder in folders), key=lambda case: case.name)


def report(planned: Plan) -> str:
    """`LINE STATUS [CODE] SYMBOL: MESSAGE; REMEDY` for each outcome."""
    return "".join(f"{row(outcome)}\n" for outcome in planned.outcomes)


def row(outcome: Outcome) -> str:
    code = f" [{outcome.code}]" if outcome.code else ""
    remedy = f"; {outcome.remedy}" if outcome.remedy else ""
    return f"{outcome.line} {outcome.status}{code} {outcome.symbol}: {outcome.message}{remedy}"


def difference(expected: str, found: str) -> str:
    """A unified diff for the message of a failed comparison."""
    lines = difflib.unified_diff(expected.splitlines(True), found.splitlines(True), "expected", "found")
    return "".join(lines)


def load(text: str, name: str) -> ModuleType:
    """The module that a text is, executed here and now."""
    module = ModuleType(name)
    exec(compile(text, f"{name}.py", "exec", dont_inherit=True), module.__dict__)
    return module


def probes(case: Case) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(name, constructor arguments, inputs) of every probe of a case.

    The constructor arguments are a tuple, or a dict of keyword arguments; None stands for a plain function.
    """
    yield from load(case.text("probe.py"), "probe").probe()
