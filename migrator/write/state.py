"""Where that is kept which outlives a run: the lock of those who write, and the old bytes for `migrate undo`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from migrator.errors import MigrateError

PATIENCE = 20.0  # seconds; writing takes milliseconds


def folder() -> Path:
    """The user's own directory for it, made if it is missing: `$XDG_STATE_HOME/migrate` or the first that works.

    Raises:
        MigrateError: none does.
    """
    for path in candidates():
        with contextlib.suppress(OSError):
            path.mkdir(0o700, parents=True, exist_ok=True)
            if path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK):
                return path
    cause = f"the old bytes cannot be kept anywhere (tried {', '.join(map(str, candidates()))})"
    raise MigrateError("no-state", cause, "set XDG_STATE_HOME to a directory that can be written")


def candidates() -> list[Path]:
    """Directories in the order in which they are tried."""
    given = os.environ.get("XDG_STATE_HOME", "")
    home = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~"), ".local", "state")
    return [home / "migrate", Path(tempfile.gettempdir(), f"migrate-{os.geteuid()}")]


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let nobody else of this user write meanwhile.

    Raises:
        MigrateError: somebody does, and goes on doing so.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder() / "lock", timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        cause = "another run of migrate is writing"
        raise MigrateError("busy", cause, "run migrate again when it has ended", path=lock.lock_file) from error
    try:
        yield
    finally:
        lock.release()
