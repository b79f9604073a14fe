"""The old bytes of several files, kept while they are being replaced, so that a killed run can be made whole.

Every run looks for journals, hardly any finds one: what only the finder needs is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import MigrateError
from migrator.write import state

NAME = ".migrate-journal.json"


class Unfinished(MigrateError):
    """Some files are new and could not be made old again; the journal stays, for the next run."""


@dataclass(frozen=True)
class Entry:
    """A file of an unfinished run: its bytes before, and the digest of what that run wrote."""

    target: Path
    before: bytes
    after: str

    def current(self) -> bytes | None:
        """The bytes that the file has now; None if there is no such file."""
        return self.target.read_bytes() if self.target.is_file() else None

    @property
    def replaced(self) -> bool:
        """Whether the file has what the unfinished run wrote, and nothing that came later."""
        now = self.current()
        return now is not None and digest(now) == self.after


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def written(changes: Sequence[tuple[Path, bytes, bytes]]) -> Iterator[None]:
    """Keep a journal for the length of the block, in the deepest directory that is above all of the files.

    There every later run that touches one of them finds it; where that directory cannot be written, it is kept in the
    user's own. The journal is locked while its writer lives.

    Raises:
        MigrateError: another run is writing there, or the directory cannot be written.
    """
    import fcntl

    folder = Path(os.path.commonpath([target.parent for target, _, _ in changes]))
    path = (folder if os.access(folder, os.W_OK) else state.folder()) / NAME
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise _busy(path) from error
    except OSError as error:
        raise _no_room(path.parent, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _fill(handle, path.parent, changes)
        yield
    except Unfinished:
        raise
    except BaseException:
        path.unlink()
        raise
    else:
        path.unlink()
    finally:
        os.close(handle)


def unfinished(files: Iterable[Path]) -> list[Path]:
    """The journals that killed runs left in or above any of these paths, or in the user's own directory."""
    folders = {folder for file in files for folder in (file, *file.parents)} | set(state.candidates())
    return sorted(folder / NAME for folder in folders if (folder / NAME).is_file())


@contextlib.contextmanager
def taken_over(path: Path) -> Iterator[list[Entry]]:
    """The entries of an unfinished run; the journal goes when the block ends well.

    Raises:
        MigrateError: the run is not unfinished but alive.
    """
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(path) from error
        yield load(file.read(), path.parent)
        path.unlink(missing_ok=True)


def save(path: Path, changes: Sequence[tuple[Path, bytes, bytes]]) -> None:
    """Write the old bytes of some files into a new file of ours.

    Raises:
        MigrateError: it cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _no_room(path.parent, error) from error
    try:
        _fill(handle, path.parent, changes)
    finally:
        os.close(handle)


def load(data: bytes, folder: Path) -> list[Entry]:
    """What a journal in `folder` says."""
    import base64
    import json

    try:
        files = json.loads(data)["files"]
        entries = [Entry(folder / file["path"], base64.b64decode(file["before"]), file["after"]) for file in files]
    except (ValueError, KeyError, TypeError):
        return []  # killed while the journal itself was written: no file had been touched
    if folder in state.candidates():
        return entries
    # Elsewhere a journal speaks for its own directory only, wherever it may have come from.
    home = os.path.realpath(folder)
    return [entry for entry in entries if Path(os.path.realpath(entry.target)).is_relative_to(home)]


def _fill(handle: int, folder: Path, changes: Sequence[tuple[Path, bytes, bytes]]) -> None:
    import base64
    import json

    files = [
        {
            "path": os.path.relpath(target, folder) if target.is_relative_to(folder) else str(target),
            "before": base64.b64encode(before).decode("ascii"),
            "after": digest(after),
        }
        for target, before, after in changes
    ]
    data = memoryview(json.dumps({"version": 1, "files": files}).encode("ascii"))
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError as error:
        raise _no_room(folder, error) from error


def _no_room(folder: Path, error: OSError) -> MigrateError:
    cause = f"the old bytes cannot be kept there ({error.strerror}); nothing was written"
    return MigrateError("not-written", cause, "check the rights and the space of the directory", path=folder)


def _busy(path: Path) -> MigrateError:
    return MigrateError("busy", "another run is writing these files", "wait until it has ended", path=path.parent)
