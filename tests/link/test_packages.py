"""Files that are read as one: what is rewritten, what is said, and that the packages still work as packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator import prove
from migrator.codemod import Phase
from tests.cases import ROOT, difference
from tests.link.packages import Package, all_packages, changed, plans_of, report

CASES = all_packages()
REWRITTEN = [case for case in CASES if case.after]


def named(case: Package) -> str:
    return case.name


@pytest.fixture(scope="module")
def prover() -> Iterator[prove.Prover]:
    with prove.start() as prover:
        yield prover


def copied(case: Package, folder: Path, *, after: bool = False) -> Path:
    """The case's files in a folder of their own."""
    top = folder / "top"
    shutil.copytree(case.before, top)
    for name, text in case.after.items() if after else ():
        (top / name).write_text(text, encoding="utf-8")
    return top


@pytest.mark.parametrize("case", CASES, ids=named)
def test_texts_and_report(case: Package) -> None:
    plans = plans_of([case.before])
    now = changed(plans, case.before)
    assert now.keys() == case.after.keys()
    for name, text in case.after.items():
        assert now[name] == text, difference(text, now[name])
    assert report(plans, case.before) == (case.folder / "report.txt").read_text("utf-8")


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_a_second_run_finds_nothing(case: Package, tmp_path: Path) -> None:
    top = copied(case, tmp_path, after=True)
    assert changed(plans_of([top]), top) == {}


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_one_phase_after_the_other_gives_the_same(case: Package, tmp_path: Path) -> None:
    top = copied(case, tmp_path)
    for file in plans_of([top], Phase.DROP_IN):
        file.path.write_text(file.text, encoding="utf-8")
    for file in plans_of([top]):
        file.path.write_text(file.text, encoding="utf-8")
    expected = copied(case, tmp_path / "expected", after=True)
    for file in expected.rglob("*.py"):
        assert (top / file.relative_to(expected)).read_text("utf-8") == file.read_text("utf-8")


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_all_of_it_is_proved(case: Package, prover: prove.Prover) -> None:
    plans = {id(file.whole or file): file.whole or file for file in plans_of([case.before]) if file.changed}
    for planned in plans.values():
        verification = prover.prove(planned, timeout=120)
        assert verification.status == "proved", [c for c in verification.checks if not c.passed] or verification.notes


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_the_written_files_import_one_another(case: Package, tmp_path: Path) -> None:
    """As Python does it, each file in a process of its own, with nothing of what linked them for the proof."""
    top = copied(case, tmp_path, after=True)
    for name in case.after:
        module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        command = [sys.executable, "-c", f"import {module}"]
        found = subprocess.run(command, cwd=top, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr


def test_negatives_are_as_many_as_positives() -> None:
    """Cases in which something is left apart or refused."""
    negatives = [case for case in CASES if "refused" in (case.folder / "report.txt").read_text("utf-8")]
    assert len(negatives) >= len(CASES) / 2
