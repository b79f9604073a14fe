"""Messages that speak of lines of a unit's text, for a reader of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.rewrite.plan import Extent

if TYPE_CHECKING:
    from migrator.prove.result import Verification

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


def verification_in_files(verification: Verification, extents: Sequence[Extent]) -> Verification:
    """The same verdict in words of the files."""
    checks = tuple(replace(check, message=in_files(check.message, extents)) for check in verification.checks)
    return replace(verification, checks=checks, notes=tuple(in_files(note, extents) for note in verification.notes))
