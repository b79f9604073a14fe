"""The difference of two texts as regions to delete and texts to put there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from migrator.recognise.syntax import split_lines

Position = tuple[int, int]  # line and column, both from 1


def replacements(before: str, after: str) -> Iterator[tuple[Position, Position, str]]:
    """(start, end, new text) of each run of lines that differs; the end is exclusive."""
    old, new = split_lines(before), split_lines(after)
    for tag, start, end, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield _position(old, start), _position(old, end), "".join(new[first:last])


def _position(lines: list[str], index: int) -> Position:
    """Where a line starts; past the last one, where the text ends."""
    if index < len(lines) or not lines or lines[-1].endswith(("\n", "\r")):
        return index + 1, 1
    return len(lines), len(lines[-1]) + 1
