"""Old or new, never half: whatever fails, and wherever a run is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.write import journal, transaction
from migrator.write.transaction import Change, check_writable, recover, replace_all

OLD, NEW = b"old = 1\n", b"new = 2\n"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a.py", "b.py", "sub/c.py")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(OLD)
    return paths


def changes(files: list[Path]) -> list[Change]:
    return [Change(path, OLD, NEW) for path in files]


def contents(files: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in files]


def litter(files: list[Path]) -> list[str]:
    return [path.name for path in files[0].parent.rglob(".*")]


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int, failure: Callable[[Path], BaseException]) -> None:
    """Let the n-th rename of the run fail."""
    count = 0
    rename = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise failure(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)


def test_all_files_are_replaced_and_nothing_else_is_left(files: list[Path]) -> None:
    replace_all(changes(files))
    assert contents(files) == [NEW] * 3
    assert litter(files) == []


def test_mode_and_owner_stay(files: list[Path]) -> None:
    files[0].chmod(0o750)
    before = files[0].stat()
    replace_all(changes(files[:1]))
    after = files[0].stat()
    assert stat.S_IMODE(after.st_mode) == 0o750
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino  # replaced, not written into


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize(
    "failure", [lambda path: OSError(28, "No space left on device"), lambda path: KeyboardInterrupt()]
)
def test_a_failing_rename_leaves_all_files_old(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, call: int, failure: Callable[[Path], BaseException]
) -> None:
    fail_at(monkeypatch, call, failure)
    with pytest.raises((MigrateError, KeyboardInterrupt)):
        replace_all(changes(files))
    assert contents(files) == [OLD] * 3
    assert litter(files) == []


def test_failure_names_the_file(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 2, lambda path: OSError(28, "No space left on device"))
    with pytest.raises(MigrateError, match="not-written: cannot be written .No space left on device.") as caught:
        replace_all(changes(files))
    assert caught.value.path == str(files[1])


def test_a_file_that_changed_since_it_was_read_stops_all(files: list[Path]) -> None:
    files[1].write_bytes(b"mine = 3\n")
    with pytest.raises(MigrateError) as caught:
        replace_all(changes(files))
    assert caught.value.code == "changed-meanwhile"
    assert contents(files) == [OLD, b"mine = 3\n", OLD]
    assert litter(files) == []


def test_roll_back_leaves_what_somebody_else_wrote(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def failure(target: Path) -> OSError:
        files[0].write_bytes(b"mine = 3\n")
        return OSError(5, "Input/output error")

    fail_at(monkeypatch, 2, failure)
    with pytest.raises(MigrateError):
        replace_all(changes(files))
    assert contents(files) == [b"mine = 3\n", OLD, OLD]


@pytest.mark.parametrize("mode", [0o444, 0o555, 0o000])
def test_read_only_files_are_refused(files: list[Path], mode: int) -> None:
    files[1].chmod(mode)
    with pytest.raises(MigrateError) as caught:
        replace_all(changes(files))
    assert caught.value.code == "read-only"
    files[1].chmod(0o644)
    assert contents(files) == [OLD] * 3


def test_hard_links_are_refused(files: list[Path]) -> None:
    os.link(files[0], files[0].with_name("other.py"))
    with pytest.raises(MigrateError) as caught:
        check_writable(files[0])
    assert caught.value.code == "hard-link"
    assert "the file has 2 hard links, and replacing it would cut it off from the others" in caught.value.cause


def test_files_of_others_are_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: files[0].stat().st_uid + 1)
    with pytest.raises(MigrateError) as caught:
        check_writable(files[0])
    assert caught.value.code == "not-owner"
    assert caught.value.cause == "the file belongs to another user, and what replaces it could not"


def test_a_directory_that_takes_no_file_is_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != files[0].parent)
    with pytest.raises(MigrateError, match=f"read-only: no file can be created in {files[0].parent}"):
        check_writable(files[0])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrateError, match="not-a-file: this is no regular file"):
        check_writable(tmp_path)
    with pytest.raises(MigrateError, match="not-written: cannot be written .No such file or directory."):
        check_writable(tmp_path / "none.py")


def test_ctrl_c_waits_until_the_set_is_whole(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with it ignored
    with pytest.raises(KeyboardInterrupt):
        replace_all(changes(files))
    assert contents(files) == [NEW] * 3
    assert litter(files) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from migrator.write.transaction import Change, replace_all

    rename, count = os.replace, 0

    def killed(source, target):
        global count
        count += 1
        if count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = killed
    replace_all([Change(Path(path), b"old = 1\\n", b"new = 2\\n") for path in sys.argv[2:]])
"""


def kill_at(call: int, files: list[Path]) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(call), *map(str, files)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("call", [1, 2, 3])
def test_the_next_run_makes_whole_what_a_killed_one_left(files: list[Path], call: int) -> None:
    kill_at(call, files)
    assert contents(files) == [NEW] * (call - 1) + [OLD] * (4 - call)
    assert recover(files[-1:]) == files[: call - 1]
    assert contents(files) == [OLD] * 3
    assert litter(files) == []


def test_a_single_file_is_old_or_new_when_killed(files: list[Path]) -> None:
    kill_at(1, files[:1])
    assert contents(files) == [OLD] * 3


def test_recovery_keeps_what_was_written_after_the_kill(files: list[Path]) -> None:
    kill_at(3, files)
    files[0].write_bytes(b"mine = 3\n")
    assert recover(files) == [files[1]]
    assert contents(files) == [b"mine = 3\n", OLD, OLD]


def test_a_journal_that_was_not_finished_is_removed(files: list[Path]) -> None:
    (files[0].parent / journal.NAME).write_text('{"version": 1, "fi')
    assert recover(files) == []
    assert litter(files) == []


def test_a_journal_says_nothing_about_files_elsewhere(files: list[Path], tmp_path: Path) -> None:
    inner = tmp_path / "sub"
    outside = tmp_path / "a.py"
    with journal.written([(outside, b"stolen\n", OLD), (inner / "c.py", OLD, NEW)]):
        text = (tmp_path / journal.NAME).read_text()
    (inner / journal.NAME).write_text(text.replace('"a.py"', '"../a.py"'))
    assert recover([inner / "c.py"]) == []
    assert outside.read_bytes() == OLD


def test_two_runs_do_not_write_the_same_files(files: list[Path]) -> None:
    with journal.written([(path, OLD, NEW) for path in files]):
        for attempt in (lambda: replace_all(changes(files)), lambda: recover(files)):
            with pytest.raises(MigrateError) as caught:
                attempt()
            assert (caught.value.code, caught.value.cause) == ("busy", "another run is writing these files")
    assert contents(files) == [OLD] * 3


def test_a_roll_back_that_fails_keeps_the_journal_for_the_next_run(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        fail_at(broken, 2, lambda path: OSError(5, "Input/output error"))
        broken.setattr(transaction, "_restore", lambda target, before: (_ for _ in ()).throw(OSError(5, "again")))
        with pytest.raises(MigrateError) as caught:
            replace_all(changes(files))
    assert caught.value.code == "half-written"
    assert contents(files) == [NEW, OLD, OLD]
    assert recover(files) == [files[0]]
    assert contents(files) == [OLD] * 3
