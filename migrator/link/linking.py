"""One text from the files of a unit, in which every line can be traced to its file.

Each file stands in it as a whole, after those that it imports from. What it imports from them is left blank, what it
imports from elsewhere by a relative path is made absolute; nothing else is different, and no line is moved.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.link.conflicts import comes_from
from migrator.link.siblings import Member, Siblings
from migrator.recognise.index import Definition, FileIndex, parsed
from migrator.recognise.syntax import split_lines
from migrator.rewrite.plan import Extent

_HEAD = "from __future__ import annotations\n"


@dataclass(frozen=True)
class Linked:
    """The text of several files. Definitions carry the number of their file (`Definition.member`)."""

    members: tuple[Member, ...]
    extents: tuple[Extent, ...]
    index: FileIndex


def linked(siblings: Siblings, members: Sequence[Member]) -> Linked:
    """Read these files, which `conflict` has nothing against, as one."""
    inside = {member.path for member in members}
    head = _HEAD if any(_has_future(member) for member in members) else ""
    texts, extents, definitions = [head], [], list(parsed(head, 1, 0)) if head else []
    line = 1 + bool(head)
    for number, member in enumerate(members):
        lines = split_lines(member.source.text)
        for definition in member.index.definitions:
            definitions += _taken_over(siblings, member, definition, inside, number, line - 1, lines)
        text = "".join(lines)
        text += "" if text.endswith(("\n", "\r")) or not text else "\n"
        extents.append(Extent(member.source.path, line, len(split_lines(text))))
        texts.append(text)
        line += extents[-1].lines
    return Linked(tuple(members), tuple(extents), FileIndex("".join(texts), tuple(definitions)))


def _has_future(member: Member) -> bool:
    return any(_is_future(definition.tree) for definition in member.index.definitions)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _taken_over(
    siblings: Siblings, member: Member, definition: Definition, inside: set[Path], number: int, down: int,
    lines: list[str],
) -> Iterator[Definition]:  # fmt: skip
    """A statement as it stands in the text of the unit; `lines` are those of its file, and are changed with it."""
    node = definition.tree
    if isinstance(node, ast.ImportFrom):
        kept = [a for a in node.names if not _is_future(node) and not comes_from(siblings, member, node, a.name, inside)]
        absolute = _absolute(member, node)
        if len(kept) < len(node.names) or absolute != node.module:
            text = ast.unparse(ast.ImportFrom(absolute, kept, 0)) + "\n" if kept else ""
            first, last = definition.first_line, definition.last_line
            blank = "\n" * (last - first + 1 - bool(text))
            lines[first - 1 : last] = split_lines(text + blank)
            yield from parsed(text, first + down, number) if text else ()
            return
    yield definition.moved(down, number)


def _absolute(member: Member, node: ast.ImportFrom) -> str | None:
    """The module's dotted name, from the top of the package."""
    if not node.level:
        return node.module
    around = member.package.split(".")
    above = around[: len(around) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])]) or None
