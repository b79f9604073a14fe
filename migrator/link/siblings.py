"""The files of the user's own that others import from: each is read once, and each name traced to where it is made."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from migrator.errors import MigrateError
from migrator.read.packages import ImportedFiles, package_of
from migrator.read.source import Source, read
from migrator.recognise.bindings import bound_at_top, import_nodes
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.syntax import FunctionNode, imported_names

_WORD = re.compile(r"[^\W\d]\w*")
_FROM = re.compile(r"(?:^|;)[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import\b", re.MULTILINE)


@dataclass(eq=False)
class Member:
    """A file that can be read as one with others."""

    source: Source
    index: FileIndex

    @property
    def path(self) -> Path:
        return self.source.target

    @cached_property
    def package(self) -> str:
        return package_of(self.path)[0]

    @cached_property
    def imports(self) -> list[tuple[Definition, ast.ImportFrom]]:
        """Every `from ... import` at module level, with the statement that it stands in."""
        return [
            (definition, node)
            for definition in self.index.definitions
            for node in import_nodes(definition)
            if isinstance(node, ast.ImportFrom)
        ]

    @cached_property
    def has_modules(self) -> bool:
        """Whether it defines what looks like an `nn.Module`, by its base or by its `forward`."""
        return any(info.is_module or "forward" in info.methods for info in self.index.classes.values())

    def defines(self, name: str) -> ClassInfo | Definition | None:
        """The class or function of this name."""
        return self.index.classes.get(name) or self.index.functions.get(name)

    @cached_property
    def words_of_definitions(self) -> set[str]:
        """Every word in the classes and functions of the file, so that no tree has to be walked."""
        inside = (d for d in self.index.definitions if isinstance(d.tree, FunctionNode | ast.ClassDef))
        return {word for definition in inside for word in _WORD.findall(definition.text)}

    @cached_property
    def bound(self) -> dict[str, list[Definition | tuple[ast.Import | ast.ImportFrom, str]]]:
        """What binds each module-level name: statements, and imports with the dotted name that they bring."""
        table: dict[str, list[Definition | tuple[ast.Import | ast.ImportFrom, str]]] = {}
        for definition in self.index.definitions:
            for name in bound_at_top(definition):
                table.setdefault(name, []).append(definition)
            for node in import_nodes(definition):
                for name, dotted in imported_names(node):
                    table.setdefault(name, []).append((node, dotted))
        return table


class Siblings:
    """Finds members. Files are the ones given, or what lies on disk beside them."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._given = {source.target: source for source in sources}
        self._members: dict[Path, Member | None] = {}
        self._borrowed: dict[Path, list[Borrowed]] = {}
        self._origins: dict[tuple[Path, str], Member | None] = {}
        self._files = ImportedFiles()

    def imported_files(self, source: Source) -> Iterator[Path]:
        """Files of the user's that a text has imports of; without parsing it."""
        for dots, module in dict.fromkeys(_FROM.findall(source.text)):
            path = self._files.of(source.target, ast.ImportFrom(module or None, [], len(dots)))
            if path is not None:
                yield path

    def may_import(self, source: Source) -> bool:
        return next(self.imported_files(source), None) is not None

    def member(self, path: Path) -> Member | None:
        """The file at a path, unless it is no Python that can be read."""
        if path not in self._members:
            self._members[path] = self._read(path)
        return self._members[path]

    def _read(self, path: Path) -> Member | None:
        try:
            source = self._given.get(path) or read(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return Member(source, FileIndex(source.text))
        except (MigrateError, SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def file_of(self, member: Member, node: ast.ImportFrom) -> Path | None:
        return self._files.of(member.path, node)

    def origin(self, member: Member, node: ast.ImportFrom, name: str) -> Member | None:
        """Where the class or function is defined that `from ... import name` brings into a file."""
        other = self._imported(member, node)
        if other is None:
            return None
        if (other.path, name) not in self._origins:
            self._origins[other.path, name] = self._definer(other, name, frozenset())
        return self._origins[other.path, name]

    def _imported(self, member: Member, node: ast.ImportFrom) -> Member | None:
        path = self.file_of(member, node)
        return self.member(path) if path is not None else None

    def _definer(self, member: Member, name: str, passed: frozenset[Path]) -> Member | None:
        """The file that defines what `member` calls `name`: itself, or the one it has it from."""
        if member.path in passed:
            return None
        if member.defines(name) is not None:
            return member
        bringing = [node for _, node in member.imports if _brings(node, name)]
        stars = [node for _, node in member.imports if node.names[0].name == "*"]
        found = {
            definer.path: definer
            for node in bringing or stars
            if (other := self._imported(member, node)) is not None
            and (definer := self._definer(other, name, passed | {member.path})) is not None
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def borrowed(self, member: Member) -> list[Borrowed]:
        """Every class and function that a file takes from a sibling."""
        if member.path not in self._borrowed:
            self._borrowed[member.path] = list(self._borrowings(member))
        return self._borrowed[member.path]

    def known(self, path: Path) -> Member | None:
        """The file at a path, if it had to be read for something."""
        return self._members.get(path)

    def _borrowings(self, member: Member) -> Iterator[Borrowed]:
        for definition, node in member.imports:
            for alias in node.names:
                for name in self._names(member, node) if alias.name == "*" else [alias.name]:
                    origin = self.origin(member, node, name)
                    if origin is not None and origin.defines(name) is not None:
                        yield Borrowed(definition, node, name, alias.asname or name, origin)

    def _names(self, member: Member, node: ast.ImportFrom) -> list[str]:
        """What `from ... import *` brings: the public classes and functions of that file."""
        other = self._imported(member, node)
        if other is None:
            return []
        return [name for name in (*other.index.classes, *other.index.functions) if not name.startswith("_")]


def _brings(node: ast.ImportFrom, name: str) -> bool:
    return any(alias.name == name and alias.asname in (None, name) for alias in node.names)


@dataclass(frozen=True, eq=False)
class Borrowed:
    """`from ... import name as local`, and the file that defines it."""

    definition: Definition
    node: ast.ImportFrom
    name: str
    local: str
    origin: Member
