"""Cases of several files: folders `fixtures/packages/<case>` with before/, report.txt and, where files change, after/.

`python -m tests.link.packages [CASE ...]` writes after/ and report.txt anew, for a person to review the diff.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from migrator.codemod import Phase
from migrator.link.planning import plan
from migrator.link.units import Unit, units
from migrator.read.files import python_files
from migrator.read.prefilter import may_contain_transformer
from migrator.read.source import read
from migrator.rewrite.plan import Plan
from tests.cases import FIXTURES, row

PACKAGES = FIXTURES / "packages"


@dataclass(frozen=True)
class Package:
    """One folder. `after` holds the files that change, and only these."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def before(self) -> Path:
        return self.folder / "before"

    @property
    def after(self) -> dict[str, str]:
        top = self.folder / "after"
        return {file.relative_to(top).as_posix(): file.read_text("utf-8") for file in sorted(top.rglob("*.py"))}


def all_packages() -> list[Package]:
    return [Package(folder) for folder in sorted(PACKAGES.iterdir()) if folder.is_dir()]


def units_of(paths: list[Path]) -> list[Unit]:
    """The units that a run over these paths works on."""
    sources = [read(named.path) for named in python_files(paths)]
    closely = [source for source in sources if may_contain_transformer(source.data)]
    return units(closely, [source for source in sources if source not in closely])


def plans_of(paths: list[Path], phase: Phase = Phase.ARCHITECTURE) -> list[Plan]:
    return [file for unit in units_of(paths) for file in plan(unit, phase=phase)]


def changed(plans: list[Plan], top: Path) -> dict[str, str]:
    return {file.path.relative_to(top).as_posix(): file.text for file in plans if file.changed}


def report(plans: list[Plan], top: Path) -> str:
    return "".join(sorted(_report(plans, top)))


def _report(plans: list[Plan], top: Path) -> Iterator[str]:
    """A paragraph for each file in which anything was found."""
    for file in plans:
        lines = [row(outcome) for outcome in file.outcomes]
        lines += [f"warning: {warning}" for warning in file.warnings]
        if lines:
            yield "\n    ".join([file.path.relative_to(top).as_posix(), *lines]) + "\n"


def update(case: Package) -> None:
    plans = plans_of([case.before])
    shutil.rmtree(case.folder / "after", ignore_errors=True)
    for name, text in changed(plans, case.before).items():
        path = case.folder / "after" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (case.folder / "report.txt").write_text(report(plans, case.before), encoding="utf-8")


if __name__ == "__main__":
    for package in all_packages():
        if package.name in sys.argv[1:] or not sys.argv[1:]:
            update(package)
