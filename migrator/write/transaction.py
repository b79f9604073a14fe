"""All files of a run become new, or all stay old; no reader ever sees half a file."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import stat
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from migrator.errors import MigrateError
from migrator.write import journal, records, state


@dataclass(frozen=True)
class Change:
    """The bytes that `target`, a regular file, had when it was read, and those that it is to have."""

    target: Path
    before: bytes
    after: bytes


def check_writable(target: Path) -> None:
    """See that a file can be replaced, before anybody waits for a proof.

    Raises:
        MigrateError: read-only, not a regular file, one of several hard links, or somebody else's.
    """
    try:
        status = os.lstat(target)
    except OSError as error:
        raise _failure(target, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise MigrateError("not-a-file", "this is no regular file", "name the file itself", path=target)
    if status.st_nlink != 1:
        cause = f"the file has {status.st_nlink} hard links, and replacing it would cut it off from the others"
        raise MigrateError("hard-link", cause, "migrate a copy", path=target)
    if os.geteuid() not in (0, status.st_uid):
        cause = "the file belongs to another user, and what replaces it could not"
        raise MigrateError("not-owner", cause, "run migrate as its owner, or migrate a copy", path=target)
    if not status.st_mode & stat.S_IWUSR or not os.access(target, os.W_OK):
        raise MigrateError("read-only", "the file is read-only", f"run `chmod u+w {target}` first", path=target)
    if not os.access(target.parent, os.W_OK):
        cause = f"no file can be created in {target.parent}"
        raise MigrateError("read-only", cause, "check the rights of the directory", path=target)


def replace_all(changes: Sequence[Change]) -> None:
    """Replace the files, all or none: on any failure those already replaced get their old bytes back.

    The old bytes are kept first: in a record for `undo`, and for several files in a journal, from which the next run
    makes the set whole if this one is killed half-way. Signals that would end the process wait until the set is whole.

    Raises:
        MigrateError: a file cannot be replaced, or is no longer the one that was read; nothing was written.
    """
    with state.locked(), _uninterrupted(), records.kept(_triples(changes)):
        _replace_all(changes, _triples(changes))


@contextlib.contextmanager
def created(target: Path, *, force: bool) -> Iterator[Path]:
    """An empty file beside `target`, to be filled in the block; at its end it becomes `target`, if the block ends well.

    Raises:
        MigrateError: `target` is there and `force` is not given, or no file can be written there.
    """
    target = target.resolve()
    _check_free(target, force)
    temporary = target.with_name(_temporary_name(target.name, secrets.token_hex(6)))
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        raise _failure(target, error) from error
    try:
        yield temporary
        _check_free(target, force)
        with _uninterrupted(), open(temporary, "rb") as file:
            if target.exists():
                _copy_attributes(target, file.fileno())
            os.fsync(file.fileno())
            os.replace(temporary, target)
        _sync_directory(target.parent)
    except OSError as error:
        raise _failure(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_free(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise MigrateError("exists", "this file is there already", "name another, or add --force", path=target)
    if target.exists():
        check_writable(target)


def recover(files: Iterable[Path]) -> list[Path]:
    """Make whole what a killed run left half-done above any of `files`, and say which files got their old bytes back.

    Raises:
        MigrateError: the other run is still alive.
    """
    with state.locked(), _uninterrupted():
        return _recover(files)


def undo(scope: Sequence[Path]) -> list[Path]:
    """Set back the files of the last run that wrote one of these files, or below one of these directories.

    What a killed run left half-done there, which may have been an undo itself, is set back first, and is all then.

    Raises:
        MigrateError: there is no such run, or one of its files was changed since; nothing was written.
    """
    with state.locked(), _uninterrupted():
        known = records.touching(scope)
        written = {entry.target for record in known for entry in record.entries}
        _sweep(written)
        restored = _recover([*scope, *written])  # a journal below the scope lies above the files of its record
        if restored:
            return restored
        record = records.latest(known, scope)
        back = [Change(entry.target, now, entry.before) for entry, now in records.still_new(record)]
        # The journal says where all this leads to, so that whoever finds it brings it to its end.
        _replace_all(back, [(change.target, change.after, change.before) for change in back])
        record.path.unlink()
        return [entry.target for entry in record.entries]


def _triples(changes: Sequence[Change]) -> list[tuple[Path, bytes, bytes]]:
    return [(change.target, change.before, change.after) for change in changes]


def _replace_all(changes: Sequence[Change], journalled: Sequence[tuple[Path, bytes, bytes]]) -> None:
    for change in changes:
        check_writable(change.target)
    _sweep({change.target for change in changes})
    with contextlib.ExitStack() as cleanup:
        staged = [(change, _stage(change.target, change.after, cleanup)) for change in changes]
        if len(changes) > 1:
            cleanup.enter_context(journal.written(journalled))
        _swap(staged)


def _recover(files: Iterable[Path]) -> list[Path]:
    restored: list[Path] = []
    for path in journal.unfinished(files):
        with journal.taken_over(path) as entries:
            for entry in entries:
                if entry.replaced:
                    _restore(entry.target, entry.before)
                    restored.append(entry.target)
            _sweep({entry.target for entry in entries})
    return restored


def _sweep(targets: Collection[Path]) -> None:
    """Remove what killed runs left beside these files."""
    for folder in {target.parent for target in targets}:
        for litter in folder.glob(_temporary_name("*", "*")):
            if litter.with_name(litter.name[1:].rsplit(".", 2)[0]) in targets:
                litter.unlink(missing_ok=True)


def _restore(target: Path, before: bytes) -> None:
    with contextlib.ExitStack() as cleanup:
        os.replace(_stage(target, before, cleanup), target)
        _sync_directory(target.parent)


def _sync_directory(folder: Path) -> None:
    """Make renames in a directory last through a loss of power, on file systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(staged: Sequence[tuple[Change, Path]]) -> None:
    done: list[Change] = []
    try:
        for change, temporary in staged:
            _replace(change, temporary)
            done.append(change)
    except BaseException:
        _roll_back(done)
        raise
    for folder in {change.target.parent for change in done}:
        _sync_directory(folder)


def _replace(change: Change, temporary: Path) -> None:
    try:
        if change.target.read_bytes() != change.before:
            cause = "the file was changed by somebody else in the meantime; nothing was written"
            raise MigrateError("changed-meanwhile", cause, "run migrate again", path=change.target)
        os.replace(temporary, change.target)
    except OSError as error:
        raise _failure(change.target, error) from error


def _roll_back(done: Sequence[Change]) -> None:
    for change in reversed(done):
        try:
            if change.target.read_bytes() == change.after:
                _restore(change.target, change.before)
        except (OSError, MigrateError) as error:
            cause = "the file is already the new one and could not be set back"
            remedy = "run migrate again once the cause is gone: it sets the file back from its journal"
            raise journal.Unfinished("half-written", cause, remedy, path=change.target) from error


def _stage(target: Path, data: bytes, cleanup: contextlib.ExitStack) -> Path:
    """A complete, synced file beside `target` with its mode and owner, removed at the end if nobody renamed it."""
    temporary = target.with_name(_temporary_name(target.name, secrets.token_hex(6)))
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        cleanup.callback(temporary.unlink, missing_ok=True)
        with open(handle, "wb") as file:
            file.write(data)
            _copy_attributes(target, file.fileno())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _failure(target, error) from error
    return temporary


def _temporary_name(name: str, token: str) -> str:
    return f".{name}.{token}.migrate"


def _copy_attributes(target: Path, handle: int) -> None:
    old, new = os.stat(target), os.fstat(handle)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    if hasattr(os, "listxattr"):
        # Attributes that only the system may set (labels of a security module) come by themselves or cannot be copied.
        with contextlib.suppress(OSError):
            for name in os.listxattr(target):
                os.setxattr(handle, name, os.getxattr(target, name))
    os.fchmod(handle, stat.S_IMODE(old.st_mode))  # last, because a change of owner clears bits of the mode


def _failure(target: Path, error: OSError) -> MigrateError:
    cause = f"cannot be written ({error.strerror}); nothing was written"
    return MigrateError("not-written", cause, "check the rights and the space of its directory", path=target)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    usual = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler or signal.SIG_DFL)
    for received in waiting:
        signal.raise_signal(received)
