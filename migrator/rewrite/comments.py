"""No comment is lost: what spoke of a statement that goes moves to the one that takes its place.

A comment above a statement says what is done there, and mostly holds for what does the same now. One behind it or
inside of it speaks of that line or its value: above another statement it would mislead, so it stands under a label.
"""

from __future__ import annotations

import io
import tokenize
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Union, cast

import libcst as cst

from migrator.recognise.spelling import INSTRUCTION

Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
STATEMENT = (cst.SimpleStatementLine, cst.BaseCompoundStatement)
LABEL = "# of lines that are gone:"


def of(node: cst.CSTNode) -> list[str]:
    """All comments of a tree, in order, but for instructions to tools."""
    if isinstance(node, cst.Comment):
        return [] if INSTRUCTION.match(node.value) else [node.value]
    return [comment for child in node.children for comment in of(child)]


def of_text(code: str) -> list[str]:
    """The same of a whole text, for which there is a quicker way."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    found = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return [comment for comment in found if not INSTRUCTION.match(comment)]


def lost(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The comments that are said less often afterwards, as often as they are missing."""
    said = Counter(after)
    missing = []
    for comment in before:
        said[comment] -= 1
        if said[comment] < 0 and comment != LABEL:
            missing.append(comment)
    return missing


def conserved(before: Statement, after: cst.CSTNode | cst.FlattenSentinel[cst.CSTNode]) -> cst.CSTNode:
    """`after`, one statement or several, with the comments inside of `before` that it lacks on labelled lines above."""
    nodes = list(after) if isinstance(after, cst.FlattenSentinel) else [after]
    said = of(before)
    missing = lost(said, [comment for node in nodes for comment in of(node)]) if said else []
    if not missing:
        return cast(cst.CSTNode, after)
    first = cast(Statement, nodes[0])
    gone = [cst.EmptyLine(comment=cst.Comment(comment)) for comment in missing]
    nodes[0] = _led(first, Lines.above(first).plus([], gone))
    return nodes[0] if len(nodes) == 1 else cast(cst.CSTNode, cst.FlattenSentinel(nodes))


@dataclass(frozen=True)
class Lines:
    """The lines above a statement: blank ones, comments on it, and, under a label, comments on what is gone."""

    blank: Sequence[cst.EmptyLine] = ()
    own: Sequence[cst.EmptyLine] = ()
    gone: Sequence[cst.EmptyLine] = ()

    @classmethod
    def above(cls, statement: Statement) -> Lines:
        blank, rest = split(statement.leading_lines)
        labels = [i for i, line in enumerate(rest[:-1]) if line.comment is not None and line.comment.value == LABEL]
        label = labels[0] if labels else len(rest)
        return cls(blank, rest[:label], rest[label + 1 :])

    def plus(self, own: Sequence[cst.EmptyLine], gone: Sequence[cst.EmptyLine]) -> Lines:
        """With more comments, before the others of their kind."""
        return Lines(self.blank, [*own, *self.own], [*gone, *self.gone])

    def all(self) -> list[cst.EmptyLine]:
        label = [cst.EmptyLine(comment=cst.Comment(LABEL))] if self.gone else []
        return [*self.blank, *self.own, *label, *self.gone]


def _led(statement: Statement, lines: Lines) -> Statement:
    return statement.with_changes(leading_lines=lines.all())


def split(lines: Sequence[cst.EmptyLine]) -> tuple[list[cst.EmptyLine], list[cst.EmptyLine]]:
    """The blank lines that lines begin with, and the rest."""
    count = next((i for i, line in enumerate(lines) if line.comment is not None), len(lines))
    return list(lines[:count]), list(lines[count:])


class Sweep:
    """Goes through a block, drops statements, and finds a statement for each comment of theirs.

    That is the edited statement next to the dropped ones, else the next edited one. Where there is none, the comments
    stay in their place, above a blank line, so that they say nothing of what follows. Comments that open a block speak
    of the whole and open it still.
    """

    def __init__(self, carried: Iterable[str] = ()) -> None:
        self._carried = Counter(carried)  # what the edited statements have taken over by themselves
        self._kept: list[Statement] = []
        self._edited = False  # whether the last kept statement is
        self._gap: Sequence[cst.EmptyLine] | None = None  # what stood above a run of dropped statements
        self._notes = Lines()  # comments that wait for an edited statement
        self._place = 0  # where they stay if none comes

    def drop(self, statement: cst.SimpleStatementLine) -> None:
        lines = Lines.above(statement)
        own, gone = ([line for line in part if not self._is_carried(line)] for part in (lines.own, lines.gone))
        if self._gap is None:
            self._gap = lines.blank[:1] if self._kept else [*lines.blank, *own]
            own = own if self._kept else []
        if not self._notes.all():
            self._place = len(self._kept)
        own = [line for line in own if line.comment is not None]
        self._notes = Lines((), [*self._notes.own, *own], [*self._notes.gone, *gone])

    def keep(self, statement: Statement, *, edited: bool) -> None:
        lines = Lines.above(statement)
        if self._gap is not None:
            if self._gap or not self._kept:
                lines = replace(lines, blank=self._gap)
            if not edited:
                self._give_to_last()
        if edited:
            lines, self._notes = lines.plus(self._notes.own, self._notes.gone), Lines()
        self._kept.append(_led(statement, lines))
        self._gap, self._edited = None, edited

    def ended(self) -> tuple[list[Statement], list[cst.EmptyLine]]:
        """The statements that are left, and comments to stand below them."""
        if not self._kept:
            lines = replace(self._notes, blank=self._gap or ())
            return [_led(cst.SimpleStatementLine(body=[cst.Pass()]), lines)], []
        self._give_to_last()
        notes = self._notes.all()
        if notes and self._place < len(self._kept):
            below = [*notes, cst.EmptyLine(indent=False)]
            after = self._kept[self._place]
            blank, rest = split(after.leading_lines)
            self._kept[self._place] = after.with_changes(leading_lines=[*blank, *below, *rest])
            notes = []
        return self._kept, notes

    def _is_carried(self, line: cst.EmptyLine) -> bool:
        """Whether an edited statement says this comment already, once for each time that it is dropped."""
        if line.comment is None or not self._carried[line.comment.value]:
            return False
        self._carried[line.comment.value] -= 1
        return True

    def _give_to_last(self) -> None:
        if self._kept and self._edited and self._place == len(self._kept):
            lines = Lines.above(self._kept[-1]).plus(self._notes.own, self._notes.gone)
            self._kept[-1], self._notes = _led(self._kept[-1], lines), Lines()
