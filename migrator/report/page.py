"""Lines of at most a given width, with styles that only a terminal gets to see."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import dataclass, field
from typing import TextIO

from migrator.errors import printable

Span = tuple[str, str]  # text, style as rich names it; no style is ""
NARROWEST, WIDEST = 40, 100


@dataclass
class Page:
    """A text that grows by lines and paragraphs."""

    width: int = 80
    lines: list[tuple[Span, ...]] = field(default_factory=list)

    def line(self, text: str = "", style: str = "") -> None:
        """One line as it is, however long."""
        self.lines.append(((text, style),))

    def paragraph(self, lead: str, text: str, style: str = "", lead_style: str = "", indent: int | None = None) -> None:
        """`lead`, then `text`, wrapped; further lines start in column `indent`, without it below the text."""
        hanging = " " * (len(lead) if indent is None else indent)
        rows = textwrap.wrap(
            text,
            self.width,
            initial_indent=lead,
            subsequent_indent=hanging,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [lead.rstrip()]
        self.lines.append(((lead, lead_style), (rows[0][len(lead) :], style)))
        self.lines.extend(((row, style),) for row in rows[1:])

    def plain(self) -> str:
        """The text without any style."""
        return "".join(printable("".join(text for text, _ in line).rstrip()) + "\n" for line in self.lines)

    def print(self, stream: TextIO) -> None:
        """Write to a stream: coloured on a terminal whose user has not asked for NO_COLOR, plain anywhere else."""
        if not colourful(stream):
            stream.write(self.plain())
            stream.flush()
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        for line in self.lines:
            console.print(Text.assemble(*((printable(text), style) for text, style in line)), soft_wrap=True)


def colourful(stream: TextIO) -> bool:
    """Whether a stream shows colours and wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int:
    """The columns to fill: a terminal's, within reason; 80 in a pipe or a file."""
    if not stream.isatty():
        return 80
    return max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))
