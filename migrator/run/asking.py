"""`--interactive`: a question for each finding, and one before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from migrator.errors import MigrateError
from migrator.report.page import Page, width_of
from migrator.report.proof import show_proof
from migrator.report.result import FileResult

if TYPE_CHECKING:
    from migrator.rewrite.plan import Outcome, Plan

Planner = Callable[[frozenset[tuple[str, str]]], "list[Plan] | MigrateError"]
_ANSWERS = {"y": "yes", "n": "no", "a": "yes to all that follow in this file", "q": "no to all that follow"}


def decided(planned: Planner) -> list[Plan] | MigrateError:
    """The plans without the findings that the user does not want; each answer may change what comes after it."""
    left_out: frozenset[tuple[str, str]] = frozenset()
    wanted: set[tuple[str, str]] = set()
    while True:
        plans = planned(left_out)
        if isinstance(plans, MigrateError):
            return plans
        rows = [(plan, row) for plan in plans for row in plan.outcomes if row.status == "migrated"]
        open_ones = [(plan, row) for plan, row in rows if _key(row) not in wanted]
        if not open_ones:
            return plans
        answer = _ask(*open_ones[0])
        if answer == "a":
            return plans
        if answer == "y":
            wanted.add(_key(open_ones[0][1]))
        else:
            left_out |= {_key(row) for _, row in (open_ones if answer == "q" else open_ones[:1])}


def may_write(files: Iterable[FileResult]) -> bool:
    """Show what was proved, and ask."""
    page = Page(width_of(sys.stdout))
    for file in files:
        page.line(str(file.path), "bold")
        if file.verification is not None:
            show_proof(page, file.verification)
    page.print(sys.stdout)
    return click.confirm("write?", default=False)


def _key(row: Outcome) -> tuple[str, str]:
    return row.codemod, row.symbol


def _ask(plan: Plan, row: Outcome) -> str:
    from migrator.rewrite.registry import all_codemods, name_of

    codemod = next(codemod for codemod in all_codemods() if name_of(codemod) == row.codemod)
    page = Page(width_of(sys.stdout))
    page.line()
    page.paragraph(f"{plan.path}:{row.line}: {row.codemod} ({row.promise}): ", f"{row.symbol}: {row.message}", indent=4)
    page.paragraph("    why: ", codemod.rationale)
    page.print(sys.stdout)
    question = "change it? " + ", ".join(f"{key} {meaning}" for key, meaning in _ANSWERS.items())
    answer: str = click.prompt(question, type=click.Choice(list(_ANSWERS)), show_choices=False)
    return answer
