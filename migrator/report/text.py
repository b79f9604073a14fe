"""The report for people."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from migrator.report.page import Page
from migrator.report.proof import show_proof
from migrator.report.result import CHECK, DRY_RUN, WRITE, FileResult, RunResult

if TYPE_CHECKING:
    from migrator.rewrite.plan import Outcome

_PROMISES = {
    "exact": "exact: same function, same weights",
    "warm": "warm: the difference is bounded",
    "new": "new: the function changes, so retrain or fine-tune",
}
_OTHERS = (
    ("modern", "already modern", "cyan"),
    ("kept", "kept, as you said", "cyan"),
    ("refused", "refused", "yellow"),
)


class Detail(IntEnum):
    """How much is said: only what somebody has to act on, the usual, or everything."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


def render(run: RunResult, width: int = 80, detail: Detail = Detail.NORMAL) -> Page:
    """The page of a whole run: what was found, how it was proved, and what was written."""
    page = Page(width)
    for path in run.restored:
        page.paragraph("restored  ", f"{path}: a run that was killed had left it half-done", lead_style="yellow")
    shown = [file for file in run.files if file.outcomes]
    if detail == Detail.QUIET:
        for file in shown:
            _show_what_is_left(page, run, file)
        return page
    for file in shown:
        _show_file(page, run, file, detail)
    silent = [file for file in run.files if not file.outcomes]
    if detail == Detail.VERBOSE:
        for file in silent:
            page.paragraph("", f"{file.path}: nothing to migrate, no part of a transformer in it")
    else:
        _show_rest(page, run, len(silent))
    return page


def _show_what_is_left(page: Page, run: RunResult, file: FileResult) -> None:
    """One line for each refusal, and one for work that was found and not done."""
    for found in file.outcomes:
        if found.status == "refused":
            page.paragraph(f"{file.path}:{found.line}: {found.code}: ", _refusal(found), lead_style="yellow", indent=4)
    if file.changed and not file.written and run.mode != DRY_RUN:
        page.paragraph("", _ending(run, file)[0])


def _show_file(page: Page, run: RunResult, file: FileResult, detail: Detail) -> None:
    page.line(str(file.path), "bold")
    page.line("-" * min(len(str(file.path)), page.width), "dim")
    for promise, meaning in _PROMISES.items():
        group = [found for found in file.outcomes if found.status == "migrated" and found.promise == promise]
        _show_group(page, file, f"{_done(run, file)} {meaning}", group, "green")
    for status, title, style in _OTHERS:
        _show_group(page, file, title, [found for found in file.outcomes if found.status == status], style)
    for warning in file.warnings:
        page.paragraph("warning: ", warning, lead_style="yellow", indent=4)
    if file.warnings:
        page.line()
    if file.verification is not None:
        show_proof(page, file.verification, every_tensor=detail == Detail.VERBOSE)
    _show_ending(page, run, file)
    page.line()
    _show_validation(page, file)


def _show_validation(page: Page, file: FileResult) -> None:
    if file.validation is not None:
        from migrator.report.validation import render as rendered

        page.lines += rendered(file.validation, page.width).lines
        page.line()
    elif file.unmeasured:
        page.paragraph("not measured: ", file.unmeasured, lead_style="yellow")
        page.line()


def _done(run: RunResult, file: FileResult) -> str:
    if run.mode != WRITE:
        return "to migrate,"
    return "migrated," if file.written else "found but not written,"


def _show_group(page: Page, file: FileResult, title: str, group: Sequence[Outcome], style: str) -> None:
    if not group:
        return
    page.line(title, f"bold {style}")
    column = max(len(str(found.line)) for found in group)
    for found in sorted(group, key=lambda found: (found.line, found.phase)):
        if found.status == "refused":
            lead = f"  {file.path}:{found.line}: {found.code}: "
            page.paragraph(lead, _refusal(found), lead_style=style, indent=6)
        else:
            page.paragraph(f"  {found.line:>{column}}  {found.codemod}: ", _described(found), indent=column + 6)
    page.line()


def _described(found: Outcome) -> str:
    symbol = "" if not found.symbol or found.symbol in found.message else f"{found.symbol}: "
    return f"{symbol}{found.message}"


def _refusal(found: Outcome) -> str:
    remedy = f"; {found.remedy}" if found.remedy else ""
    return f"{_described(found)}{remedy} [{found.codemod}]"


def _show_ending(page: Page, run: RunResult, file: FileResult) -> None:
    if run.mode == WRITE and not run.verify and file.changed:
        page.line("NOT VERIFIED: --no-verify skipped the proof; nothing shows that this is right", "bold red")
    text, style = _ending(run, file)
    page.paragraph("", text, f"bold {style}".strip())
    if file.copies and (file.written or run.mode == DRY_RUN):
        page.paragraph("copied beside it: ", ", ".join(f"{path.parent.name}/{path.name}" for path in file.copies))
    if file.candidate is not None:
        page.paragraph("candidate: ", f"{file.candidate} has the text that was not accepted")


def _ending(run: RunResult, file: FileResult) -> tuple[str, str]:
    name = file.path
    if file.written:
        how = "proved and written" if run.verify else "written"
        return f"{how}: {name}", "green"
    if not file.changed:
        return f"unchanged: {name} has nothing to rewrite in phase {run.phase}", ""
    if run.mode == CHECK:
        return f"work left: run `migrate {name} --phase {run.phase}`", "yellow"
    if run.mode == DRY_RUN:
        return f"nothing written: --dry-run; the patch for {name} is on standard output", ""
    if file.declined:
        return f"nothing written, as you said; {name} is as it was", ""
    why = {"failed": "the proof failed", "not verified": "the proof could not be made"}
    status = file.verification.status if file.verification is not None else ""
    return f"nothing written: {why.get(status, 'another file of this run was not proved')}; {name} is as it was", "red"


def _show_rest(page: Page, run: RunResult, silent: int) -> None:
    if silent == 1 and len(run.files) == 1:
        page.paragraph("", f"{run.files[0].path}: nothing to migrate, no part of a transformer in it")
    elif silent:
        page.paragraph("", f"{silent} of {len(run.files)} files: nothing to migrate, no part of a transformer in them")
