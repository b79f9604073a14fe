"""One text from the files of a unit, in which every line can be traced to its file.

Each file stands in it as a whole, after those that it imports from. What it imports from them is left blank, what it
imports from elsewhere by a relative path is made absolute; nothing else is different, and no line is moved.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrator.link.conflicts import comes_from
from migrator.link.siblings import Member, Siblings
from migrator.recognise.index import Definition, FileIndex, parsed
from migrator.recognise.syntax import split_lines
from migrator.rewrite.plan import Extent

_FUTURE = "from __future__ import annotations\n"


@dataclass(frozen=True)
class Linked:
    """The text of several files. Definitions carry the number of their file (`Definition.member`)."""

    members: tuple[Member, ...]
    extents: tuple[Extent, ...]
    index: FileIndex


def linked(siblings: Siblings, members: Sequence[Member]) -> Linked:
    """Read these files, which `conflict` has nothing against, as one."""
    linker = _Linker(siblings, members)
    if any(_is_future(definition.tree) for member in members for definition in member.index.definitions):
        linker.begin(_FUTURE)
    for number, member in enumerate(members):
        linker.add(number, member)
    return Linked(tuple(members), tuple(linker.extents), FileIndex("".join(linker.texts), tuple(linker.definitions)))


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


class _Linker:
    """The text of a unit, as far as it has been put together."""

    def __init__(self, siblings: Siblings, members: Sequence[Member]) -> None:
        self.siblings = siblings
        self.inside = {member.path for member in members}
        self.texts: list[str] = []
        self.extents: list[Extent] = []
        self.definitions: list[Definition] = []
        self.height = 0  # in lines

    def begin(self, text: str) -> None:
        self.definitions += parsed(text, 1)
        self.texts.append(text)
        self.height += 1

    def add(self, number: int, member: Member) -> None:
        """Put a file at the end."""
        lines = split_lines(member.source.text)
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += "\n"
        for definition in member.index.definitions:
            instead = self._instead(member, definition)
            if instead is None:
                self.definitions.append(definition.moved(self.height, number))
                continue
            first, last = definition.first_line, definition.last_line
            lines[first - 1 : last] = [instead or "\n", *["\n"] * (last - first)]
            self.definitions += parsed(instead, first + self.height, number) if instead else []
        self.extents.append(Extent(member.source.path, self.height + 1, len(lines)))
        self.texts += lines
        self.height += len(lines)

    def _instead(self, member: Member, definition: Definition) -> str | None:
        """What stands for an import in the text of the unit, if it cannot stay as it is."""
        node = definition.tree
        if not isinstance(node, ast.ImportFrom):
            return None
        kept = list(self._from_outside(member, node))
        module = _absolute(member, node)
        if len(kept) == len(node.names) and module == node.module:
            return None
        return ast.unparse(ast.ImportFrom(module, kept, 0)) + "\n" if kept else ""

    def _from_outside(self, member: Member, node: ast.ImportFrom) -> Iterator[ast.alias]:
        for alias in node.names if not _is_future(node) else ():
            if not comes_from(self.siblings, member, node, alias.name, self.inside):
                yield alias


def _absolute(member: Member, node: ast.ImportFrom) -> str | None:
    """The module's dotted name, from the top of the package."""
    if not node.level:
        return node.module
    around = member.package.split(".")
    above = around[: len(around) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])]) or None
