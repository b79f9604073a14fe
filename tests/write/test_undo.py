"""`migrate undo`, and what git has to say before a file is written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from migrator.errors import MigrateError
from migrator.write.transaction import Change, replace_all, undo
from migrator.write.worktree import uncommitted

OLD, NEW, NEWER = b"old = 1\n", b"new = 2\n", b"newer = 3\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "migrate"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "src" / name for name in ("a.py", "b.py")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(OLD)
    return paths


def test_runs_are_undone_one_after_another(files: list[Path], tmp_path: Path) -> None:
    replace_all([Change(path, OLD, NEW) for path in files])
    replace_all([Change(files[0], NEW, NEWER)])
    assert undo([tmp_path]) == files[:1]
    assert files[0].read_bytes() == NEW
    assert undo([files[1]]) == files
    assert [path.read_bytes() for path in files] == [OLD, OLD]
    with pytest.raises(MigrateError) as caught:
        undo([tmp_path])
    assert caught.value.code == "nothing-to-undo"
    assert caught.value.cause == f"no run is known that wrote {tmp_path}"


def test_undo_refuses_if_a_file_was_changed_since(files: list[Path]) -> None:
    replace_all([Change(path, OLD, NEW) for path in files])
    files[1].write_bytes(b"mine = 4\n")
    with pytest.raises(MigrateError) as caught:
        undo(files)
    assert (caught.value.code, caught.value.path) == ("changed-since", str(files[1]))
    assert [path.read_bytes() for path in files] == [NEW, b"mine = 4\n"]


def test_a_run_that_failed_leaves_nothing_to_undo(files: list[Path], state: Path) -> None:
    with pytest.raises(MigrateError):
        replace_all([Change(files[0], b"other\n", NEW)])
    assert list(state.glob("*.json")) == []


def test_a_state_directory_that_is_no_directory_is_passed_over(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(files[1]))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    replace_all([Change(files[0], OLD, NEW)])
    assert undo(files[:1]) == files[:1]


def test_nowhere_to_keep_the_old_bytes(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.write.state.candidates", lambda: [files[0] / "no"])
    with pytest.raises(MigrateError, match="no-state: the old bytes cannot be kept anywhere .tried"):
        replace_all([Change(files[0], OLD, NEW)])
    assert files[0].read_bytes() == OLD


def test_whoever_writes_keeps_others_waiting(files: list[Path], state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.write.state.PATIENCE", 0.05)
    state.mkdir(parents=True)
    with FileLock(state / "lock", is_singleton=False), pytest.raises(MigrateError) as caught:
        replace_all([Change(files[0], OLD, NEW)])
    assert (caught.value.code, caught.value.cause) == ("busy", "another run of migrate is writing")
    assert files[0].read_bytes() == OLD


def test_a_git_that_hangs_is_no_permission(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("git", 30)

    (files[0].parent / ".git").mkdir()
    monkeypatch.setattr(subprocess, "run", hang)
    (error,) = uncommitted(files)
    assert "git gave no answer (" in error.cause


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_only_tracked_files_with_changes_are_uncommitted(files: list[Path]) -> None:
    folder = files[0].parent
    assert uncommitted(files) == []
    git(folder, "init")
    git(folder, "add", "a.py")
    assert [error.path for error in uncommitted(files)] == [str(files[0])]
    git(folder, "commit", "-m", "x")
    assert uncommitted(files) == []
    files[0].write_bytes(NEW)
    files[1].write_bytes(NEW)
    (error,) = uncommitted(files)
    assert (error.code, error.path) == ("uncommitted-changes", str(files[0]))


def test_no_git_is_no_obstacle_but_a_broken_repository_is(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (files[0].parent / ".git").write_text("gitdir: nowhere\n")
    (error,) = uncommitted(files)
    assert "git cannot say what is committed" in error.cause
    monkeypatch.setenv("PATH", "")
    assert uncommitted(files) == []
