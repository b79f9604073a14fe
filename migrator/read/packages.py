"""Which package a file belongs to, and which file an import in it names. Nothing is imported for that."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

INIT = "__init__.py"
_RUNTIME = "runtime"


def package_of(path: Path) -> tuple[str, Path]:
    """The dotted name of the package around a file, by its folders' `__init__.py`, and where that is imported from."""
    names: list[str] = []
    folder = path.parent
    while (folder / INIT).exists() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


class ImportedFiles:
    """Finds the files behind imports. What is on disk is asked for once."""

    def __init__(self) -> None:
        self._file = cache(_file)
        self._root = cache(lambda folder: package_of(folder / INIT)[1])

    def of(self, importer: Path, node: ast.ImportFrom) -> Path | None:
        """The real path of the file of the user's that `from module import ...` means, if there is one.

        A script's imports are looked up where Python would look if it were run from its folder, or from the one
        above it.
        """
        parts = tuple(node.module.split(".")) if node.module else ()
        if parts[:1] == (_RUNTIME,) and not node.level:
            return None  # ours, though a copy of it may stand beside the file
        for root in self._roots(importer, node.level):
            found = self._file(root, parts)
            if found is not None and found != importer:
                return found
        return None

    def _roots(self, importer: Path, level: int) -> Iterator[Path]:
        if level:
            yield importer.parents[min(level, len(importer.parents)) - 1]
            return
        yield self._root(importer.parent)
        yield importer.parent
        yield importer.parent.parent


def _file(root: Path, parts: tuple[str, ...]) -> Path | None:
    if parts and not (os.path.isdir(root / parts[0]) or os.path.isfile(root / f"{parts[0]}.py")):
        return None  # most imports are of what is installed
    base = root.joinpath(*parts)
    candidates = [base.with_name(f"{base.name}.py"), base / INIT] if parts else [base / INIT]
    return next((candidate.resolve() for candidate in candidates if os.path.isfile(candidate)), None)
