"""Runs over twenty files that are killed, that meet, or that find no space: every file is wholly old or wholly new."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from migrator.write import journal
from tests.torture.running import NEW, OLD, count, finish, start

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(20):
        (folder / f"model_{number}.py").write_text(OLD)
    return folder


def texts(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.glob("*.py")}


@pytest.mark.parametrize("number", range(count(8)))
def test_a_killed_run_is_made_whole(folder: Path, tmp_path: Path, number: int) -> None:
    """Every other one is killed while it writes, the rest at any moment; the next run or `undo` makes it whole."""
    chance = random.Random(number)
    run = start(tmp_path, "--no-verify", folder)
    if number % 2:
        until = time.monotonic() + 30
        while not (folder / journal.NAME).exists() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.0001)
        time.sleep(chance.uniform(0, 0.004))
    else:
        time.sleep(chance.uniform(0, 1.5))
    run.send_signal(SIGNALS[number % 3])
    finish(run)
    assert texts(folder) <= {OLD, NEW}
    if number % 4 < 2:
        assert finish(start(tmp_path, "--no-verify", folder))[0] in (0, 3)
        assert texts(folder) == {NEW}
        assert list(folder.glob(".*")) == []
    else:
        finish(start(tmp_path, "undo", folder))
        assert texts(folder) == {OLD}


IN_A_DESTRUCTOR = """
import os, signal, sys, time
from migrator import cli
from migrator.rewrite import engine

class Held:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.01)

def plan(*arguments, **options):
    held = Held()
    del held
    time.sleep(10)

engine.plan = plan
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_in_a_destructor_is_not_dropped(folder: Path, number: int) -> None:
    command = [sys.executable, "-c", IN_A_DESTRUCTOR, str(int(number)), str(folder), "--no-verify"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 128 + number and "Traceback" not in run.stderr
    assert run.stderr.strip().startswith("interrupted: ")
    assert texts(folder) == {OLD}


def test_two_runs_at_once(folder: Path, tmp_path: Path) -> None:
    runs = [start(tmp_path, "--no-verify", folder) for _ in range(2)]
    ends = [finish(run) for run in runs]
    assert any(code in (0, 3) for code, _ in ends), ends
    assert texts(folder) == {NEW}
    assert list(folder.glob(".*")) == []


def test_no_space(folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk, which takes rights to mount."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        run = start(tmp_path, "--no-verify", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    code, error = finish(run)
    assert code == 2 and "nothing was written" in error
    assert texts(folder) == {OLD}
    assert list(folder.glob(".*")) == []
