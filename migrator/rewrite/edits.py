"""Applies edits to the text of one definition with LibCST; whatever is not edited keeps its bytes."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Union, cast

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from migrator.codemod import Edit, Insert, Remove, Replace
from migrator.recognise.index import Definition, split_lines

DefinitionEdit = Union[Edit, Replace, Remove, Insert]
_Statement = Union[cst.SimpleStatementLine, cst.BaseCompoundStatement]
_Span = tuple[int, int, int, int]


class CannotEdit(Exception):
    """The place cannot be edited safely; the message says what is in the way."""


def apply(definition: Definition, edits: Sequence[DefinitionEdit]) -> str:
    """The definition's text after all edits. Raises CannotEdit, with nothing changed, where one cannot be made."""
    module = cst.parse_module(definition.text)
    if module.code != definition.text:
        raise CannotEdit("LibCST would print this definition differently")
    located = _Locator(module, definition)
    plan: dict[cst.CSTNode, list[DefinitionEdit]] = {}
    for edit in edits:
        plan.setdefault(located.find(edit.node), []).append(edit)
    return module.visit(_Applier(plan, module.config_for_parsing)).code


def overlapping(edits: Iterable[DefinitionEdit], others: Iterable[DefinitionEdit]) -> bool:
    """Whether two sites want to change the same node, or one a part of what the other replaces."""
    taken = {id(inner) for edit in edits if not isinstance(edit, Insert) for inner in ast.walk(edit.node)}
    return any(
        id(inner) in taken for edit in others if not isinstance(edit, Insert) for inner in ast.walk(edit.node)
    ) or any(id(edit.node) in taken for edit in others)


class _Locator:
    """Finds the LibCST node for a node of the `ast` tree by its place in the source."""

    def __init__(self, module: cst.Module, definition: Definition) -> None:
        self.definition = definition
        self.lines = [line.encode() for line in split_lines(definition.text)]
        wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
        positions = wrapper.resolve(PositionProvider)
        self.expressions: dict[_Span, cst.CSTNode] = {}
        self.starts: dict[tuple[int, int], cst.CSTNode] = {}
        self.shared: set[cst.CSTNode] = set()
        for node, place in positions.items():
            if isinstance(node, cst.SimpleStatementLine):
                self.starts[place.start.line, place.start.column] = node
                if len(node.body) > 1:
                    self.shared.add(node)
            elif isinstance(node, cst.BaseCompoundStatement):
                self.starts[place.start.line, place.start.column] = node
            elif isinstance(node, cst.BaseExpression):
                self.expressions[place.start.line, place.start.column, place.end.line, place.end.column] = node

    def find(self, node: ast.AST) -> cst.CSTNode:
        found: cst.CSTNode | None
        if isinstance(node, ast.stmt):
            found = self.starts.get(self.position(node.lineno, node.col_offset))
            if found in self.shared:
                raise CannotEdit("several statements stand on one line")
        else:
            assert isinstance(node, ast.expr) and node.end_lineno and node.end_col_offset is not None
            span = (*self.position(node.lineno, node.col_offset), *self.position(node.end_lineno, node.end_col_offset))
            found = self.expressions.get(span)
        if found is None:
            raise CannotEdit("the place was not found again in the concrete syntax (one-line suite?)")
        return found

    def position(self, line: int, column: int) -> tuple[int, int]:
        """Line in the definition's text and column in characters, of a place in the `ast` tree."""
        number = line + self.definition.shift - self.definition.first_line + 1
        return number, len(self.lines[number - 1][:column].decode())


class _Applier(cst.CSTTransformer):
    def __init__(self, plan: dict[cst.CSTNode, list[DefinitionEdit]], config: cst.PartialParserConfig) -> None:
        super().__init__()
        self.plan = plan
        self.config = config
        self.removed: set[cst.CSTNode] = set()

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
        updated = updated_node
        if isinstance(updated, cst.IndentedBlock):
            updated = self.sweep(updated)
        edits = self.plan.get(original_node)
        return self.edited(updated, edits) if edits else updated

    def edited(self, node: cst.CSTNode, edits: list[DefinitionEdit]) -> cst.CSTNode:
        before: list[cst.CSTNode] = []
        after: list[cst.CSTNode] = []
        here: list[cst.CSTNode] = [node]
        for edit in edits:
            if isinstance(edit, Insert) and edit.side != "end":
                (before if edit.side == "before" else after).extend(self.statements(edit.code))
            elif isinstance(edit, Insert):
                here = [self.with_more(here[0], edit.code)]
            elif isinstance(edit, Remove):
                here = [self.tombstone(here[0])]
            elif isinstance(edit, Replace):
                here = self.replacement(here[0], edit.code)
            else:
                here = [edit.change(here[0])]
        if before:
            before[0], here[0] = _led_by(before[0], here[0])
        return _flat(before, here, after)

    def statements(self, code: str) -> list[_Statement]:
        module = cst.parse_module(code + "\n", config=self.config)
        return [cast(_Statement, statement) for statement in module.body]

    def replacement(self, node: cst.CSTNode, code: str) -> list[cst.CSTNode]:
        if isinstance(node, cst.BaseExpression):
            new = cst.parse_expression(code, config=self.config)
            return [new.with_changes(lpar=node.lpar, rpar=node.rpar) if node.lpar and not new.lpar else new]
        statements = self.statements(code)
        assert isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)
        statements[0] = statements[0].with_changes(leading_lines=node.leading_lines)
        if isinstance(node, cst.SimpleStatementLine) and isinstance(statements[-1], cst.SimpleStatementLine):
            if node.trailing_whitespace.comment is not None:
                statements[-1] = statements[-1].with_changes(trailing_whitespace=node.trailing_whitespace)
        return list(statements)

    def tombstone(self, node: cst.CSTNode) -> cst.CSTNode:
        """Stands for a removed statement until its block is swept; keeps only whether a blank line stood above."""
        assert isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)
        blank = [line for line in node.leading_lines[:1] if line.comment is None]
        stone = cst.SimpleStatementLine(body=[], leading_lines=blank)
        self.removed.add(stone)
        return stone

    def with_more(self, node: cst.CSTNode, code: str) -> cst.CSTNode:
        """A function with statements appended to its body."""
        assert isinstance(node, cst.FunctionDef)
        if not isinstance(node.body, cst.IndentedBlock):
            raise CannotEdit("the function stands on one line")
        body = node.body.with_changes(body=[*node.body.body, *self.statements(code)])
        return node.with_changes(body=body)

    def sweep(self, block: cst.IndentedBlock) -> cst.IndentedBlock:
        """Drop tombstones; the next statement takes over the blank line of the first."""
        if not self.removed.intersection(block.body):
            return block
        kept: list[_Statement] = []
        run: cst.SimpleStatementLine | None = None
        for statement in block.body:
            if statement in self.removed:
                run = run or cast(cst.SimpleStatementLine, statement)
                continue
            if run is not None:
                statement = _after_gap(cast(_Statement, statement), run, first=not kept)
                run = None
            kept.append(cast(_Statement, statement))
        if not kept:
            kept = [cst.SimpleStatementLine(body=[cst.Pass()])]
        return block.with_changes(body=kept)


def _after_gap(statement: _Statement, run: cst.SimpleStatementLine, first: bool) -> _Statement:
    own = list(statement.leading_lines)
    while own and own[0].comment is None:
        own.pop(0)
    blank = [] if first else list(run.leading_lines)
    return statement.with_changes(leading_lines=[*blank, *own])


def _led_by(first: cst.CSTNode, then: cst.CSTNode) -> tuple[cst.CSTNode, cst.CSTNode]:
    """A statement put before another takes over the blank lines and comments above it."""
    assert isinstance(then, cst.SimpleStatementLine | cst.BaseCompoundStatement)
    return first.with_changes(leading_lines=then.leading_lines), then.with_changes(leading_lines=[])


def _flat(before: list[cst.CSTNode], here: list[cst.CSTNode], after: list[cst.CSTNode]) -> cst.CSTNode:
    nodes = [*before, *here, *after]
    if len(nodes) == 1:
        return nodes[0]
    return cast(cst.CSTNode, cst.FlattenSentinel(nodes))
