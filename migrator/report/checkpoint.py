"""What became of a checkpoint, for people: a table of tensors, then totals and what else the file held."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.report.page import Page

if TYPE_CHECKING:
    from migrator.checkpoint.request import Conversion, Row

_STYLES = {"reused": "green", "converted": "cyan", "new": "yellow", "resized": "yellow", "dropped": "red"}
_HOW = {"new": "initial values", "resized": "initial values", "reused": "as it was"}


def render(done: Conversion, old: Path, new: Path, width: int) -> Page:
    """The whole page. Tensors of the blocks of a stack share a line."""
    page = Page(width)
    page.line(f"{old} -> {new}", "bold")
    page.paragraph("", f"layout: {done.built}")
    page.line()
    _show_table(page, done.rows)
    _show_totals(page, done)
    for text in done.notes:
        page.paragraph("  - ", text)
    for text in done.lost:
        page.paragraph("  - ", text, "bold red")
    page.line()
    page.paragraph("", f"written: {new}", "bold green")
    return page


def _show_table(page: Page, rows: tuple[Row, ...]) -> None:
    counts = Counter(_line(row) for row in rows)
    names = max((len(name) for _, name, *_ in counts), default=0)
    shapes = max((len(shape) for _, _, shape, _ in counts), default=0)
    for status in _STYLES:
        for (kind, name, shape, how), times in counts.items():
            if kind == status:
                many = f"{times} x" if times > 1 else ""
                lead = f"{many:>5} {name:<{names}}  {shape:<{shapes}}  "
                page.lines.append(((lead, ""), (f"{status:<9}", _STYLES[status]), (f"  {how}".rstrip(), "dim")))
    page.line()


def _line(row: Row) -> tuple[str, str, str, str]:
    name = " -> ".join(re.sub(r"(?<=\.)\d+(?=\.)", "*", name, count=1) for name in row.name.split(" -> "))
    shapes = list(dict.fromkeys(shape.replace(", ", ",") for shape in (row.before, row.after) if shape))
    return row.status, name, " -> ".join(shapes), row.how or _HOW.get(row.status, "")


def _show_totals(page: Page, done: Conversion) -> None:
    counts = Counter(str(row.status) for row in done.rows)
    page.paragraph("", ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status]), "bold")
    before, after = done.parameters
    page.line(f"{before:,} -> {after:,} parameters")
