"""Who else uses what changes: files that are not read together with the one that they import from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from migrator.errors import MigrateError
from migrator.link.siblings import Borrowed, Member, Siblings
from migrator.link.units import Unit
from migrator.read.files import python_files
from migrator.read.packages import INIT, package_of
from migrator.read.source import Source, read_bytes

_MOST_FILES = 2_000  # that are looked through


def callers(unit: Unit, source: Source, names: frozenset[str]) -> list[str]:
    """A warning for each file that takes one of these classes from `source`, and that stays as it is.

    Args:
        names: classes of the file whose function changes.
    """
    together = {member.path for member in unit.members} or {source.target}
    apart = {(row.importer, row.name): f" ({row.why})" for row in unit.apart if row.origin == source.target}
    users: dict[str, dict[str, str]] = {}
    for member, borrowed in _importers(unit.siblings, source, names):
        if member.path not in together:
            place = f"{_shown(member.path)}:{borrowed.definition.line(borrowed.node)}"
            users.setdefault(place, {})[borrowed.name] = apart.get((member.path, borrowed.name), "")
    return [_said(place, used) for place, used in users.items()]


def _said(place: str, used: dict[str, str]) -> str:
    verb = "changes" if len(used) == 1 else "change"
    why = next((why for why in used.values() if why), "")
    return f"{place} imports {' and '.join(f'`{name}`' for name in used)}, which {verb}, and stays as it is{why}"


def _importers(siblings: Siblings, source: Source, names: frozenset[str]) -> Iterator[tuple[Member, Borrowed]]:
    for path in islice(_files_around(source.target), _MOST_FILES):
        if path == source.target or path.name == INIT or not _mentions(path, names):
            continue
        member = siblings.member(path)
        if member is None:
            continue
        for borrowed in siblings.borrowed(member):
            if borrowed.origin.path == source.target and borrowed.name in names:
                yield member, borrowed


def _files_around(path: Path) -> Iterator[Path]:
    """The files of the package that a file belongs to; beside a script, those of its folder."""
    package, root = package_of(path)
    top = root / package.partition(".")[0] if package else path.parent
    yield from (named.path for named in python_files([top]))
    if package:
        yield from sorted(file for file in root.glob("*.py") if file.is_file())


def _mentions(path: Path, names: frozenset[str]) -> bool:
    try:
        data = read_bytes(path)
    except MigrateError:
        return False
    return b"import" in data and any(name.encode() in data for name in names)


def _shown(path: Path) -> str:
    """The path as a reader would type it."""
    here = os.path.relpath(path)
    return str(path) if here.startswith(os.pardir) else here
