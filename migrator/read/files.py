"""From the paths on the command line to the Python files behind them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import MigrateError
from migrator.read.ignoring import GITIGNORE, Rules

_FOREIGN = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
CANDIDATE = ".candidate.py"
NO_RULES = Rules()


@dataclass(frozen=True)
class Named:
    """A file, and whether the user named it (rather than a directory above it)."""

    path: Path
    explicit: bool


def python_files(paths: Iterable[Path], excluded: Rules = NO_RULES) -> list[Named]:
    """All Python files under `paths`, each once, in the order given, directories in alphabetical order.

    Hidden directories, virtual environments, caches and build folders are passed over, and what a `.gitignore` or
    `excluded` names. A file that is named itself always counts.

    Raises:
        MigrateError: a path does not exist, or a directory has no Python file in it.
    """
    found: dict[str, Named] = {}
    for path in paths:
        for named in _under(path, excluded):
            found.setdefault(os.path.realpath(named.path), named)
    return list(found.values())


def _under(path: Path, excluded: Rules) -> list[Named]:
    if not path.is_dir():
        return [Named(path, explicit=True)]  # whether it exists, and what it is, shows when it is read
    files = [Named(file, explicit=False) for file in _walk(path, excluded)]
    if not files:
        cause = "there is no Python file in this directory"
        raise MigrateError("no-python-files", cause, "name the file or a directory above it", path=path)
    return files


def _walk(top: Path, excluded: Rules) -> Iterator[Path]:
    root = os.path.abspath(top)
    ignored = {root: Rules.above(Path(root))}
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        rules = ignored.pop(folder)
        if GITIGNORE in names:
            rules = rules.inside(Path(folder))
        folders[:] = [
            name
            for name in sorted(folders)
            if _wanted(folder, name) and not any(r.ignore(f"{folder}/{name}/") for r in (rules, excluded))
        ]
        ignored.update((os.path.join(folder, name), rules) for name in folders)
        for name in sorted(names):
            file = os.path.join(folder, name)
            if not name.endswith(".py") or name.endswith(CANDIDATE) or rules.ignore(file) or excluded.ignore(file):
                continue
            if os.path.isfile(file):
                yield top / os.path.relpath(file, root)


def _wanted(folder: str, name: str) -> bool:
    hidden = name.startswith(".") or name in _FOREIGN or name.endswith(".egg-info")
    return not hidden and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))


def _unreadable(error: OSError) -> None:
    cause = f"cannot be listed ({error.strerror})"
    raise MigrateError("unreadable", cause, "check the rights of the directory", path=error.filename) from error
