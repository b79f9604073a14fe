"""What `migrate undo` needs: for each run that wrote, the old bytes of its files and the digests of the new ones."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import MigrateError
from migrator.write import journal, state

KEPT = 100  # runs that can be undone


@dataclass(frozen=True)
class Record:
    """A run: its files, and the file that says so."""

    path: Path
    entries: tuple[journal.Entry, ...]

    def touches(self, scope: Sequence[Path]) -> bool:
        return any(entry.target.is_relative_to(path) for entry in self.entries for path in scope)

    @property
    def spent(self) -> bool:
        """Whether all files have their old bytes: the run was killed, or undone by other means."""
        return all(entry.current() == entry.before for entry in self.entries)


@contextlib.contextmanager
def kept(changes: Sequence[tuple[Path, bytes, bytes]]) -> Iterator[None]:
    """Have a record of the changes before they are made in the block; it goes if they fail.

    Raises:
        MigrateError: there is no room for it.
    """
    folder = state.folder()
    path = folder / f"{time.time_ns():020d}-{os.getpid()}.json"
    try:
        journal.save(path, changes)
        yield
    except journal.Unfinished:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    for old in sorted(folder.glob("*-*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)


def touching(scope: Sequence[Path]) -> list[Record]:
    """The runs that wrote one of these files or below one of these directories, the last one first."""
    found = [
        Record(path, tuple(journal.load(path.read_bytes(), folder)))
        for folder in state.candidates()
        for path in sorted(folder.glob("*-*.json"), reverse=True)
    ]
    return [record for record in found if record.touches(scope)]


def latest(known: Iterable[Record], scope: Sequence[Path]) -> Record:
    """The last of these runs that is still to be undone.

    Raises:
        MigrateError: there is none.
    """
    record = next((record for record in known if not record.spent), None)
    if record is None:
        where = ", ".join(map(str, scope))
        raise MigrateError("nothing-to-undo", f"no run is known that wrote {where}", "name the file that was migrated")
    return record


def still_new(record: Record) -> list[tuple[journal.Entry, bytes]]:
    """The files to set back, with the bytes that they have.

    Raises:
        MigrateError: somebody has changed or removed one since.
    """
    found = []
    for entry in record.entries:
        now = entry.current()
        if now is None or journal.digest(now) not in (entry.after, journal.digest(entry.before)):
            cause = "the file is gone" if now is None else "the file was changed since it was migrated"
            remedy = "nothing was undone; set your own change aside first"
            raise MigrateError("changed-since", cause, remedy, path=entry.target)
        if now != entry.before:
            found.append((entry, now))
    return found
