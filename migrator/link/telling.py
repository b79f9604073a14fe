"""Messages that speak of lines of a unit's text, for a reader of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from migrator.rewrite.plan import Extent

_LINE = re.compile(r"\bline (\d+)\b")


def in_files(text: str, extents: Sequence[Extent], here: Path | None = None) -> str:
    """The message with the lines of the files; `here` is the file that its reader looks at."""

    def place(found: re.Match[str]) -> str:
        line = int(found[1])
        extent = next((extent for extent in extents if line in extent), None)
        if extent is None:
            return found[0]
        return f"line {extent.line(line)}" + ("" if extent.path == here else f" of {extent.path.name}")

    return _LINE.sub(place, text)
