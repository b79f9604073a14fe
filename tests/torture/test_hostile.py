"""Hostile models, as a user meets them: a clear line each, never a proof, nothing left running, no file changed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.torture.attacks import ATTACKS, LIE, model

HONEST = "an honest model"


@dataclass(frozen=True)
class Aftermath:
    """What is left of one run over all hostile models, and an honest one among them."""

    folder: Path
    before: dict[Path, bytes]
    code: int
    error: str
    files: dict[str, dict[str, Any]]
    stray: list[str]
    visitors: int


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("src", "user", "home"):
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text("mine\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        places = {"user": str(folder / "user"), "home": str(folder / "home"), "port": server.getsockname()[1]}
        for name, code in ATTACKS.items():
            (folder / f"src/{name}.py").write_text(model(code + LIE, **places))
        (folder / f"src/{HONEST}.py").write_text(model("pass"))
        before = contents(folder)
        run = migrate(folder, "src", "--timeout", "6", "-j", "2", "--format", "json")
        stray = left_running(folder)
        yield Aftermath(folder, before, run.returncode, run.stderr, files_of(run.stdout), stray, connections(server))


def migrate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(folder / "home"), "MIGRATE_TEST_MARK": str(folder)}
    command = [sys.executable, "-m", "migrator", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def files_of(output: str) -> dict[str, dict[str, Any]]:
    return {Path(file["path"]).stem: file for file in json.loads(output)["files"]}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def connections(server: socket.socket) -> int:
    with contextlib.suppress(BlockingIOError):
        server.accept()
        return 1
    return 0


def left_running(folder: Path) -> list[str]:
    """The processes of the run that have not ended a few seconds after it, by their environment."""
    until = time.monotonic() + 5
    while (found := marked(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def marked(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if int(entry.parent.name) != os.getpid() and f"MARK={folder}".encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_there_are_at_least_twenty() -> None:
    assert len(ATTACKS) >= 20


@pytest.mark.parametrize("name", ATTACKS)
def test_it_ends_in_one_clear_line_and_is_not_proved(aftermath: Aftermath, name: str) -> None:
    assert aftermath.code == 4
    assert aftermath.files[name]["verification"]["status"] in ("failed", "not verified")
    (line,) = [line for line in aftermath.error.splitlines() if line.startswith(f"src/{name}.py: ")]
    assert line.split(": ")[1] in ("proof-failed", "not-verified")
    assert len(line) < 700 and line.isprintable()


def test_an_honest_model_among_them_is_proved_and_still_not_written(aftermath: Aftermath) -> None:
    assert aftermath.files[HONEST]["verification"]["status"] == "proved"
    assert not aftermath.files[HONEST]["written"]


def test_nothing_else_is_said(aftermath: Aftermath) -> None:
    assert len(aftermath.error.splitlines()) == len(ATTACKS)


def test_nothing_is_left_running(aftermath: Aftermath) -> None:
    assert aftermath.stray == []


def test_no_file_is_changed_and_nothing_was_sent(aftermath: Aftermath) -> None:
    if aftermath.files[HONEST]["verification"]["confinement"] == "nothing":
        pytest.skip("this system cannot keep code from files and the network")
    assert contents(aftermath.folder) == aftermath.before
    assert aftermath.visitors == 0
