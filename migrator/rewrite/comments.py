"""No comment is lost: what spoke of a statement that goes moves to the one that takes its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar, Union, cast

import libcst as cst

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
STATEMENT = (cst.SimpleStatementLine, cst.BaseCompoundStatement)
_Node = TypeVar("_Node", bound=cst.CSTNode)

# An instruction to a tool about the very line that it stands on; elsewhere it would mean something else.
_INSTRUCTION = re.compile(r"#\s*(noqa|nosec|type:|pragma:|pylint:|pyright:|mypy:|ruff:|flake8:|fmt:|isort:|yapf:)")


def of(node: cst.CSTNode) -> list[str]:
    """All comments of a tree, in order, but for instructions to tools."""
    if isinstance(node, cst.Comment):
        return [] if _INSTRUCTION.match(node.value) else [node.value]
    return [comment for child in node.children for comment in of(child)]


def lost(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The comments that nothing says afterwards.

    One that several statements had in common may be said once for all of them, or as a part of a longer one.
    """
    present = set(after)
    return [comment for comment in before if not _said(comment, present)]


def _said(comment: str, present: Iterable[str]) -> bool:
    """Whether one of the comments that are there says this too."""
    words = re.escape(comment.lstrip("# "))
    return any(comment == other or re.search(rf"(?<!\w){words}(?!\w)", other) for other in present)


def conserved(before: Statement, after: cst.CSTNode | cst.FlattenSentinel[cst.CSTNode]) -> cst.CSTNode:
    """`after`, one statement or several, with the comments inside of `before` that it lacks on lines above it."""
    nodes = list(after) if isinstance(after, cst.FlattenSentinel) else [after]
    missing = lost(of(before), [comment for node in nodes for comment in of(node)])
    if not missing:
        return cast(cst.CSTNode, after)
    first = cast(Statement, nodes[0])
    nodes[0] = first.with_changes(leading_lines=[*first.leading_lines, *_lines(missing)])
    return nodes[0] if len(nodes) == 1 else cast(cst.CSTNode, cst.FlattenSentinel(nodes))


def _lines(comments: Iterable[str]) -> list[cst.EmptyLine]:
    return [cst.EmptyLine(comment=cst.Comment(comment)) for comment in comments]


def _split(lines: Sequence[cst.EmptyLine]) -> tuple[list[cst.EmptyLine], list[cst.EmptyLine]]:
    """The blank lines that lines begin with, and the rest."""
    count = next((i for i, line in enumerate(lines) if line.comment is not None), len(lines))
    return list(lines[:count]), list(lines[count:])


def _above(statement: Statement, *notes: cst.EmptyLine) -> Statement:
    """A statement with more lines directly above it and its own comments, below its blank lines."""
    blank, own = _split(statement.leading_lines)
    return statement.with_changes(leading_lines=[*blank, *notes, *own])


class Sweep:
    """Goes through a block, drops statements, and finds a statement for each comment of theirs.

    That is the edited statement next to the dropped ones, else the next edited one. Where there is none, the comments
    stay in their place, above a blank line, so that they say nothing of what follows. Comments that open a block speak
    of the whole and open it still.
    """

    def __init__(self, present: Iterable[str] = ()) -> None:
        self._present = frozenset(present)  # what the edited statements say by themselves
        self._kept: list[Statement] = []
        self._edited = False  # whether the last kept statement is
        self._gap: list[cst.EmptyLine] | None = None  # what stood above a run of dropped statements
        self._notes: list[cst.EmptyLine] = []  # comments that wait for an edited statement
        self._place = 0  # where they stay if none comes

    def drop(self, statement: cst.SimpleStatementLine) -> None:
        lines = [line for line in statement.leading_lines if not line.comment or self._new(line.comment.value)]
        if self._gap is None:
            self._gap = lines if not self._kept else _split(lines)[0][:1]
            lines = [] if not self._kept else lines
        if not self._notes:
            self._place = len(self._kept)
        self._notes += [line for line in lines if line.comment is not None]

    def keep(self, statement: Statement, *, edited: bool) -> None:
        lead, own = _split(statement.leading_lines)
        if self._gap is not None:
            lead = self._gap if self._gap or not self._kept else lead
            if not edited:
                self._give_to_last()
        if edited:
            lead, self._notes = [*lead, *self._notes], []
        self._kept.append(statement.with_changes(leading_lines=[*lead, *own]))
        self._gap, self._edited = None, edited

    def ended(self) -> tuple[list[Statement], list[cst.EmptyLine]]:
        """The statements that are left, and comments to stand below them."""
        if not self._kept:
            lines = [*(self._gap or []), *self._notes]
            return [cst.SimpleStatementLine(body=[cst.Pass()], leading_lines=lines)], []
        self._give_to_last()
        if self._notes and self._place < len(self._kept):
            below = cst.EmptyLine(indent=False)
            self._kept[self._place] = _above(self._kept[self._place], *self._notes, below)
            self._notes = []
        return self._kept, self._notes

    def _new(self, comment: str) -> bool:
        return not _said(comment, self._present)

    def _give_to_last(self) -> None:
        if self._kept and self._edited and self._place == len(self._kept):
            self._kept[-1], self._notes = _above(self._kept[-1], *self._notes), []
