"""The diff of a migration in pieces, each with the reasons for it."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrator.codemod import Codemod
from migrator.rewrite.plan import Outcome
from migrator.rewrite.registry import all_codemods, name_of

_AROUND = 3


@dataclass(frozen=True)
class Reason:
    """Why something was rewritten: the codemod, its promise, what it said of the place, its rationale and paper."""

    codemod: str
    promise: str
    message: str
    rationale: str
    reference: str


@dataclass(frozen=True)
class Hunk:
    """One piece of a unified diff: (sign, line) pairs, with what is known of why."""

    title: str
    lines: tuple[tuple[str, str], ...]
    reasons: tuple[Reason, ...]


def hunks(before: str, after: str, outcomes: Sequence[Outcome] = ()) -> tuple[Hunk, ...]:
    """All pieces, in order. The first piece of a class has the reasons of the rewrites that say something of it."""
    old, new = before.splitlines(), after.splitlines()
    classes = _classes(before)
    rewrites = [outcome for outcome in outcomes if outcome.status == "migrated"]
    about = {name_of(codemod): codemod for codemod in all_codemods()}
    found: list[Hunk] = []
    said: set[str] = set()
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(_AROUND):
        first, last = group[0][1] + 1, group[-1][2]
        name = next((name for name, start, end in classes if start <= _changed(group) <= end), "")
        outcomes_here = [one for one in rewrites if one.codemod in about and name not in said and _is_about(one, name)]
        reasons = [_reason(outcome, about[outcome.codemod]) for outcome in outcomes_here]
        title = f"lines {first} to {last}" + (f", {name}" if name else "") + (", reasons above" if name in said else "")
        said |= {name} - {""}
        found.append(Hunk(title, tuple(_lines(group, old, new)), tuple(dict.fromkeys(reasons))))
    return tuple(found)


def _reason(outcome: Outcome, codemod: type[Codemod]) -> Reason:
    return Reason(outcome.codemod, str(outcome.promise), outcome.message, codemod.rationale, codemod.reference)


def _classes(text: str) -> list[tuple[str, int, int]]:
    """Definitions at the top level with their first and last line."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [(d.name, d.lineno, d.end_lineno or d.lineno) for d in ast.parse(text).body if isinstance(d, kinds)]


def _changed(group: Sequence[tuple[str, int, int, int, int]]) -> int:
    """The first line of the old text that a piece changes, from 1."""
    return next(start for tag, start, _, _, _ in group if tag != "equal") + 1


def _is_about(outcome: Outcome, name: str) -> bool:
    return bool(name) and re.search(rf"\b{re.escape(name)}\b", f"{outcome.symbol} {outcome.message}") is not None


def _lines(
    group: Sequence[tuple[str, int, int, int, int]], old: list[str], new: list[str]
) -> Iterator[tuple[str, str]]:
    for tag, a, b, c, d in group:
        if tag == "equal":
            yield from ((" ", line) for line in old[a:b])
        else:
            yield from (("-", line) for line in old[a:b])
            yield from (("+", line) for line in new[c:d])
