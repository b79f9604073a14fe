"""A run that is ended before each single thing that it does to files; whoever comes next makes the set whole."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.write import journal
from tests.torture.running import NEW, OLD
from tests.torture.stepping import Stepper

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
NAMES = ("a.py", "b.py", "deep/c.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    return tmp_path / "src"


@pytest.fixture
def stepper(folder: Path) -> Iterator[Stepper]:
    stepper = Stepper(folder)
    yield stepper
    stepper.close()


def lay(folder: Path, text: str) -> None:
    """As if nothing had run here yet."""
    shutil.rmtree(folder.parent / "state", ignore_errors=True)
    for name in NAMES:
        (folder / name).write_text(text)


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in NAMES]


def litter(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"]


def halves(folder: Path) -> int:
    """How many files are new, if some are and some are not."""
    new = [text == NEW for text in texts(folder)]
    return sum(new) if not all(new) else 0


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("then", ["run", "undo"])
def test_a_run_is_made_whole_after_every_step(folder: Path, stepper: Stepper, number: int, then: str) -> None:
    seen = set()
    for step in itertools.count():
        lay(folder, OLD)
        ended = stepper.run("--no-verify", folder, step=step, number=number)
        assert set(texts(folder)) <= {OLD, NEW}, step
        seen.add((halves(folder), (folder / journal.NAME).exists()))
        if then == "run":
            assert stepper.run("--no-verify", folder).code == 0, step
            assert texts(folder) == [NEW] * 3, step
        else:
            assert stepper.run("undo", folder.parent).code in (0, 2), step
            assert texts(folder) == [OLD] * 3, step
        assert litter(folder) == [], step
        if not ended.reached:
            break
    if number == signal.SIGKILL:  # the others wait until the set is whole
        assert {(0, True), (1, True), (2, True), (0, False)} <= seen
    else:
        assert seen == {(0, False)}


@pytest.mark.parametrize("number", SIGNALS)
def test_an_undo_is_made_whole_after_every_step(folder: Path, stepper: Stepper, number: int) -> None:
    """By calling it again; never does it take back more than that one run."""
    seen = set()
    for step in itertools.count():
        lay(folder, OLD)
        assert stepper.run("--no-verify", folder).code == 0
        ended = stepper.run("undo", folder, step=step, number=number)
        seen.add(halves(folder))
        again = stepper.run("undo", folder)
        assert again.code == 0 or "nothing-to-undo" in again.output, step
        assert texts(folder) == [OLD] * 3, step
        assert litter(folder) == [], step
        if not ended.reached:
            break
    assert seen == ({0, 1, 2} if number == signal.SIGKILL else {0})


def test_a_run_that_brings_its_runtime_is_made_whole_after_every_step(folder: Path, stepper: Stepper) -> None:
    arguments = ("--no-verify", "--vendor", folder / "a.py")
    lay(folder, OLD)
    assert stepper.run(*arguments).code == 0
    whole = sorted(path.name for path in (folder / "runtime").iterdir())
    assert {"__init__.py", "attention.py", "LICENSE"} <= set(whole)
    for step in itertools.count():
        shutil.rmtree(folder / "runtime")
        lay(folder, OLD)
        ended = stepper.run(*arguments, step=step)
        assert (folder / "a.py").read_text() in (OLD, NEW), step
        assert stepper.run(*arguments).code == 0, step
        assert (folder / "a.py").read_text() == NEW, step
        assert sorted(path.name for path in (folder / "runtime").iterdir()) == whole, step
        if not ended.reached:
            break
