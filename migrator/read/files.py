"""From the paths on the command line to the Python files behind them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import MigrateError

_FOREIGN = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
CANDIDATE = ".candidate.py"


@dataclass(frozen=True)
class Named:
    """A file, and whether the user named it (rather than a directory above it)."""

    path: Path
    explicit: bool


def python_files(paths: Iterable[Path]) -> list[Named]:
    """All Python files under `paths`, each once, in the order given, directories in alphabetical order.

    Hidden directories, virtual environments, caches and build folders are passed over.

    Raises:
        MigrateError: a path does not exist, or a directory has no Python file in it.
    """
    found: dict[str, Named] = {}
    for path in paths:
        for named in _under(path):
            found.setdefault(os.path.realpath(named.path), named)
    return list(found.values())


def _under(path: Path) -> list[Named]:
    if not path.is_dir():
        return [Named(path, explicit=True)]  # whether it exists, and what it is, shows when it is read
    files = [Named(file, explicit=False) for file in _walk(path)]
    if not files:
        cause = "there is no Python file in this directory"
        raise MigrateError("no-python-files", cause, "name the file or a directory above it", path=path)
    return files


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if _wanted(folder, name))
        for name in sorted(names):
            file = Path(folder, name)
            if name.endswith(".py") and not name.endswith(CANDIDATE) and file.is_file():
                yield file


def _wanted(folder: str, name: str) -> bool:
    hidden = name.startswith(".") or name in _FOREIGN or name.endswith(".egg-info")
    return not hidden and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))


def _unreadable(error: OSError) -> None:
    cause = f"cannot be listed ({error.strerror})"
    raise MigrateError("unreadable", cause, "check the rights of the directory", path=error.filename) from error
