"""A validation for people at a terminal: what each section says, then its figures, the two sides beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from migrator.report.figures import duration, number, size, spread
from migrator.report.page import Page
from migrator.validate.result import Unmeasured

if TYPE_CHECKING:
    from migrator.validate.result import Attention, Gradients, Memory, Quality, Scaling, Speed, Validation

_STYLES = {"better": "green", "same": "", "worse": "bold red", "note": "dim"}
Row = Sequence[str]


def render(validation: Validation, width: int) -> Page:
    """The whole page."""
    page = Page(width)
    _show_subject(page, validation)
    tables = {
        "gradients": _gradients, "attention": _attention, "memory": _memory, "speed": _speed, "quality": _quality,
        "scaling": _scaling,
    }  # fmt: skip
    for name, section in validation.sections():
        page.line()
        page.line(name, "bold")
        if isinstance(section, Unmeasured):
            page.paragraph("  ", f"not measured: {section.reason}", "dim")
            continue
        for verdict in section.verdicts:
            page.paragraph(f"  {verdict.level:<7}", verdict.text, lead_style=_STYLES[verdict.level])
        for row in _aligned(tables[name](section)):  # type: ignore[operator]
            page.line(row, "dim")
        for note in (getattr(section, "task", ""), section.note):
            if note:
                page.paragraph("  ", note, "dim")
    _show_promises(page, validation)
    _show_ending(page, validation)
    return page


def _show_subject(page: Page, validation: Validation) -> None:
    subject, environment = validation.subject, validation.environment
    page.line(f"{validation.legacy} -> {validation.migrated}", "bold")
    smaller = "" if subject.full_size else ", smaller than its file builds it"
    before, after = subject.parameters["legacy"], subject.parameters["migrated"]
    page.paragraph("", f"{subject.symbol}, built by {subject.built}{smaller}; {before:,} -> {after:,} parameters")
    threads = "1 thread" if environment.threads == 1 else f"{environment.threads} threads"
    words = f"{environment.device}, {threads}, {environment.processor}; torch {environment.torch}"
    page.paragraph("", words, "dim")


def _show_promises(page: Page, validation: Validation) -> None:
    if not validation.promised:
        return
    page.line()
    page.line("what the guide promises", "bold")
    for row in validation.promised:
        found = row.measured or "not measurable here"
        page.paragraph(f"  {row.claim}: ", f"claimed {row.claimed}, measured: {found} ({row.why})", indent=6)


def _show_ending(page: Page, validation: Validation) -> None:
    page.line()
    for note in validation.notes:
        page.paragraph("  - ", note)
    worse = len(validation.worse)
    words = f"{worse} of {len(validation.verdicts)} findings are worse" if worse else "nothing got worse"
    page.paragraph("", f"measured in {validation.seconds:.0f} s: {words}", "bold red" if worse else "bold green")


# --- figures ------------------------------------------------------------------------------------------------------


def _aligned(rows: Iterable[Row]) -> Iterator[str]:
    """Columns as wide as they have to be: the first to the left, the others to the right."""
    found = list(rows)
    if len(found) < 2:  # nothing but a head
        return
    widths = [max(len(cell) for cell in column) for column in zip(*found, strict=True)]
    for first, *rest in found:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield f"  {first:<{widths[0]}}  {'  '.join(cells)}"


def _pairs(rows: Iterable[Any], *keys: str) -> Iterator[tuple[Any, Any]]:
    """The two sides of everything that is the same in `keys`."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, key) for key in keys), {})[row.side] = row
    yield from ((both["legacy"], both["migrated"]) for both in found.values() if len(both) == 2)


def _ratio(old: float, new: float) -> str:
    return f"{old / new:.2f}x" if new else "-"


def _gradients(section: Gradients) -> Iterator[Row]:
    yield "gradient of first block / last", "legacy", "migrated", "seeds"
    for old, new in _pairs(section.rows, "depth", "steps"):
        yield f"{old.depth} blocks, after {old.steps} steps", number(old.ratio), number(new.ratio), str(new.seeds)


def _attention(section: Attention) -> Iterator[Row]:
    yield f"mean over heads, {section.length} tokens", "legacy", "migrated"
    for name, words in (("entropy", "entropy, share of the largest"), ("distance", "distance in tokens"),
                        ("sink", "share of the first token")):  # fmt: skip
        old, new = (
            [getattr(head, name) for head in section.heads if head.side == side] for side in ("legacy", "migrated")
        )
        yield words, number(sum(old) / len(old)), number(sum(new) / len(new))


def _memory(section: Memory) -> Iterator[Row]:
    yield "peak", "legacy", "migrated", "less"
    for old, new in _pairs(section.rows, "activity", "length"):
        words = f"{old.activity}, {old.length} tokens"
        yield words, size(old.bytes), size(new.bytes), _ratio(old.bytes, new.bytes)
    for old, new in _pairs(section.growth, "activity"):
        yield f"{old.activity}, growth", f"length^{old.exponent:.2f}", f"length^{new.exponent:.2f}", ""


def _speed(section: Speed) -> Iterator[Row]:
    yield "median time", "legacy", "migrated", "faster", "n"
    for variant in ("", "cached", "uncached"):
        rows = [row for row in section.rows if row.side == "legacy" or row.variant == variant]
        for old, new in _pairs(rows, "activity", "length"):
            words = f"{old.activity}, {old.length} tokens{f', {variant}' if variant else ''}"
            times = duration(old.seconds.median), duration(new.seconds.median)
            yield words, *times, _ratio(old.seconds.median, new.seconds.median), str(new.seconds.n)


def _quality(section: Quality) -> Iterator[Row]:
    yield "loss, median over seeds", "legacy", "migrated"
    yield "end of training", spread(section.final["legacy"]), spread(section.final["migrated"])
    for old, new in _pairs(section.lengths, "factor"):
        sides = (spread(row.loss) if row.loss else row.reason for row in (old, new))
        yield f"{old.factor} times the length, new data", *sides
    for old, new in _pairs(section.divergence, "learning_rate"):
        counts = (f"{row.diverged} of {row.seeds}" for row in (old, new))
        yield f"diverged at learning rate {old.learning_rate:g}", *counts


def _scaling(section: Scaling) -> Iterator[Row]:
    yield f"{section.processes} processes, {section.backend}", "options", "largest difference", "equal"
    for row in section.rows:
        yield row.mode, row.options, number(row.difference), "yes" if row.equal else "no"
