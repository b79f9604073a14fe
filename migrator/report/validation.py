"""A validation for people at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.report.page import Page

if TYPE_CHECKING:
    from migrator.validate.result import Validation

_STYLES = {"better": "green", "same": "", "worse": "bold red", "note": "dim"}


def render(validation: Validation, width: int) -> Page:
    """What each section says, then the guide's promises beside what was measured of them."""
    page = Page(width)
    subject = validation.subject
    page.line(f"{validation.legacy} -> {validation.migrated}", "bold")
    page.paragraph("", f"{subject.symbol}, built by {subject.built}; {subject.blocks} blocks")
    for name, section in validation.sections():
        page.line()
        page.line(name, "bold")
        for verdict in getattr(section, "verdicts", ()):
            page.paragraph(f"  {verdict.level:<7}", verdict.text, lead_style=_STYLES[verdict.level])
        reason = getattr(section, "reason", "") or getattr(section, "note", "")
        if reason:
            page.paragraph("  ", reason, "dim")
    page.line()
    page.line(f"{validation.seconds:.0f} s", "dim")
    return page
