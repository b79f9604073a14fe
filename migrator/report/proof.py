"""The part of the report for people that says what was proved, with its figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.report.page import Page

if TYPE_CHECKING:
    from migrator.prove.result import Check, TensorRow, Verification

_STYLES = {"proved": "green", "failed": "red", "not verified": "red", "skipped": "yellow"}
_CONFINED = {
    "namespaces": "confined by namespaces: no writing outside, no network, no other process",
    "landlock": "confined by Landlock: no writing outside, no TCP, no other process",
    "nothing": "NOT confined: this system has neither namespaces nor Landlock",
}
_LONGEST_NAME = 40


@dataclass(frozen=True)
class _Columns:
    """Widths that all checks of a proof share, so that their figures stand below one another."""

    names: int
    figures: int

    @classmethod
    def of(cls, checks: Sequence[Check]) -> _Columns:
        names = max((len(check.name) for check in checks), default=0)
        figures = max((len(number(check.figure)) for check in checks), default=0)
        return cls(min(names, _LONGEST_NAME), figures)


def show_proof(page: Page, proof: Verification, *, every_tensor: bool = False) -> None:
    """Status, checks by class, tensors, parameter counts, and what was not checked."""
    style = _STYLES.get(proof.status, "")
    page.line("proof", f"bold {style}")
    page.paragraph("  ", _summary(proof), style)
    if proof.confinement:
        page.paragraph("  ", _CONFINED[proof.confinement])
    columns = _Columns.of(proof.checks)
    for stage in dict.fromkeys(check.stage for check in proof.checks):
        if stage:
            page.line(f"  {stage}", "bold")
        here = [check for check in proof.checks if check.stage == stage]
        for symbol in dict.fromkeys(check.symbol for check in here):
            page.line(f"    {symbol}")
            _show_checks(page, [check for check in here if check.symbol == symbol], columns)
    page.line()
    _show_tensors(page, proof.tensors, every_tensor)
    _show_parameters(page, proof.parameters)
    if proof.notes:
        page.line("notes", "bold")
        for note in proof.notes:
            page.paragraph("  - ", note)
        page.line()


def _summary(proof: Verification) -> str:
    if not proof.checks:
        return proof.status
    passed = sum(check.passed for check in proof.checks)
    return f"{proof.status}: {passed} of {len(proof.checks)} checks passed, {proof.seconds:.1f} s"


def _show_checks(page: Page, checks: Sequence[Check], columns: _Columns) -> None:
    for check in checks:
        mark, style = ("ok    ", "green") if check.passed else ("FAILED", "bold red")
        lead = f"      {mark}  "
        name = f"{check.name:<{columns.names}}"
        if check.figure is None:
            page.paragraph(lead, f"{name}  {check.message}".rstrip(), "" if check.passed else "red", style,
                           indent=len(lead) + columns.names + 2)  # fmt: skip
            continue
        limit = "" if check.limit is None else f"  <= {number(check.limit)}"
        page.lines.append(((lead, style), (f"{name}  {number(check.figure):>{columns.figures}}{limit}", "")))
        if not check.passed:
            page.paragraph(" " * (len(lead) + 2), check.message, "red")


def _show_tensors(page: Page, tensors: Sequence[TensorRow], every: bool) -> None:
    if not tensors:
        return
    page.line("tensors of the state dict", "bold")
    reused = sum(row.status == "reused" for row in tensors)
    page.line(f"  {reused} reused: same name, same shape, same values")
    for status in dict.fromkeys(row.status for row in tensors if every or row.status != "reused"):
        rows = Counter(_tensor(row, every) for row in tensors if row.status == status)
        page.line(f"  {rows.total()} {status}:")
        for tensor, times in rows.items():
            page.paragraph("    ", tensor + (f", {times} of them" if times > 1 else ""), indent=8)
    page.line()


def _tensor(row: TensorRow, itself: bool = False) -> str:
    """Name and shapes; blocks of one stack share theirs, unless each is to be named itself."""
    name = row.name if itself else re.sub(r"(?<=\.)\d+(?=\.)", "*", row.name, count=1)
    shapes = " -> ".join(_joined(shape) for shape in (row.before, row.after) if shape)
    return f"{name} {shapes}".rstrip()


def _joined(shape: str) -> str:
    return shape.replace(", ", ",")  # so that a shape is not broken over two lines


def _show_parameters(page: Page, parameters: Sequence[tuple[str, int, int]]) -> None:
    if not parameters:
        return
    page.line("parameters", "bold")
    names = min(max(len(what) for what, _, _ in parameters), _LONGEST_NAME)
    for what, before, after in parameters:
        change = f"  ({100 * (after - before) / before:+.2f} %)" if before and before != after else ""
        page.line(f"  {what:<{names}}  {before:>12,} -> {after:,}{change}")
    page.line()


def number(value: float | None) -> str:
    """A figure in as few columns as say it: `0`, `5.6e-16`, `1.25`."""
    if value is None:
        return ""
    if value == 0 or 0.01 <= abs(value) < 100_000:
        return f"{value:.4g}"
    return f"{value:.1e}".replace(".0e", "e")
