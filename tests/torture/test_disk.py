"""Disks that are full or read-only, and output that nobody can take: one clear line, and every file as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.running import NEW, OLD, finish, start

MOUNT = 'mount -t tmpfs -o size=128k tmpfs "$0" && exec "$@"'
FULL = "No space left on device"


def on_small_disk(folder: Path, case: str) -> list[dict[str, str | int]]:
    """What `main` below says of a case, in namespaces of its own, with a disk of 128 KiB mounted on a folder."""
    folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` to mount a small disk with")
    command = ["unshare", "-rm", "sh", "-c", MOUNT, str(folder)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk in namespaces of its own")
    command += [sys.executable, "-m", "tests.torture.test_disk", case, str(folder)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_whatever_space_is_left_all_files_are_old_or_all_are_new(tmp_path: Path) -> None:
    rows = on_small_disk(tmp_path / "disk", "files")
    for row in rows:
        assert (row["code"], row["new"]) in ((0, 3), (2, 0)), row
        assert row["code"] == 0 or (FULL in str(row["error"]) and str(row["error"]).count("\n") == 1), row
        assert row["code"] == 0 or "nothing was written" in str(row["error"]), row
        assert row["others"] == 0, row
    assert {row["code"] for row in rows} == {0, 2}


def test_no_space_for_the_old_bytes(tmp_path: Path) -> None:
    rows = on_small_disk(tmp_path / "disk", "state")
    for row in rows:
        assert (row["code"], row["new"]) in ((0, 3), (2, 0)), row
        assert row["code"] == 0 or f"the old bytes cannot be kept there ({FULL})" in str(row["error"]), row
    assert {row["code"] for row in rows} == {0, 2}


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    (row,) = on_small_disk(tmp_path / "disk", "read-only")
    assert (row["code"], row["new"], row["others"]) == (2, 0, 0)
    assert "read-only: the file is read-only" in str(row["error"]) and str(row["error"]).count("\n") == 1


@pytest.mark.parametrize(
    "arguments", ["{file} --check", "{file} --dry-run", "{file} --check --format json", "list", "explain rotary", "-h"]
)
def test_a_full_disk_behind_standard_output(tmp_path: Path, arguments: str) -> None:
    file = tmp_path / "model.py"
    file.write_text(OLD)
    with open("/dev/full", "wb") as full:
        code, error = finish(start(tmp_path, *arguments.format(file=file).split(), stdout=full))
    assert code == 2 and error.count("\n") == 1
    what = "report" if "model.py" in arguments.format(file=file) else "output"
    assert error.startswith(f"not-printed: the {what} cannot be printed ({FULL}); ")
    assert file.read_text() == OLD


def test_what_was_written_is_said_where_the_report_finds_no_space(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(OLD)
    with open("/dev/full", "wb") as full:
        assert "files written: 1" in finish(start(tmp_path, "--no-verify", file, stdout=full))[1]
        assert file.read_text() == NEW
        code, error = finish(start(tmp_path, "undo", file, stdout=full))
    assert code == 2 and "what was done is done" in error
    assert file.read_text() == OLD


@pytest.mark.parametrize("arguments", [["none.py"], ["--nonsense"], ["{file}", "--dry-run"]])
def test_a_full_disk_behind_standard_error(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "model.py"
    file.write_text(OLD)
    with open("/dev/full", "wb") as full:
        run = start(tmp_path, *(argument.format(file=file) for argument in arguments), stderr=full)
        run.communicate(timeout=60)
    assert run.returncode == 2


def test_no_streams_at_all(tmp_path: Path) -> None:
    """What is opened next would get their numbers, and then have printed into it."""
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for file in files:
        file.write_text(OLD)
    command = [sys.executable, "-m", "migrator", "--no-verify", *map(str, files)]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    run = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "-", *command], env=environment, check=False)
    assert run.returncode == 0
    assert [file.read_text() for file in files] == [NEW, NEW]


# --- inside of the namespaces --------------------------------------------------------------------------------------


def main(case: str, disk: Path) -> None:
    """Run `migrate` with more and more space left on the disk, and print how each run ended."""
    sources = disk if case != "state" else disk.parent / "src"
    sources.mkdir(exist_ok=True)
    state = disk.parent / "kept" if case != "state" else disk
    for left in range(0, 32 << 10, 4 << 10) if case != "read-only" else [0]:
        files = [sources / f"{name}.py" for name in "abc"]
        for file in files:
            file.write_text(OLD)
        fill(disk, left)
        if case == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, error = finish(start(state, "--no-verify", sources))
        new = sum(file.read_text() == NEW for file in files)
        others = len(set(sources.iterdir()) - {*files, sources / "filling"})
        print(json.dumps({"left": left, "code": code, "new": new, "error": error, "others": others}))
        if case == "state":
            shutil.rmtree(disk / "migrate")


def fill(disk: Path, left: int) -> None:
    """Have this many bytes left on a disk."""
    with open(disk / "filling", "wb", buffering=0) as file:
        status = os.statvfs(disk)
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - left)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
