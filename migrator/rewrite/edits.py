"""Applies edits to the text of one definition with LibCST; whatever is not edited keeps its bytes."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Union, cast

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from migrator.codemod import Argument, Edit, Guard, Insert, Parameter, Remove, Replace, Withdraw
from migrator.recognise.index import Definition
from migrator.recognise.syntax import FunctionNode, split_lines
from migrator.rewrite import comments
from migrator.rewrite.arguments import with_argument, with_parameter, without_argument
from migrator.rewrite.comments import STATEMENT, Statement

DefinitionEdit = Union[Edit, Replace, Remove, Insert, Guard, Argument, Withdraw, Parameter]
_Span = tuple[int, int, int, int]


class CannotEdit(Exception):
    """The place cannot be edited safely; the message says what is in the way."""


def apply(definition: Definition, edits: Sequence[DefinitionEdit]) -> str:
    """The definition's text after all edits. Raises CannotEdit, with nothing changed, where one cannot be made.

    Only the methods that are edited are parsed and printed again.
    """
    lines = split_lines(definition.text)
    by_method: dict[tuple[int, int], list[DefinitionEdit]] = {}
    for edit in edits:
        by_method.setdefault(_method_lines(definition, edit.node) or (1, len(lines)), []).append(edit)
    if len(by_method) > 1 and (1, len(lines)) in by_method:
        by_method = {(1, len(lines)): list(edits)}
    for (first, last), here in sorted(by_method.items(), reverse=True):
        lines[first - 1 : last] = [_apply_lines(definition, "".join(lines[first - 1 : last]), first, here)]
    return "".join(lines)


def _apply_lines(definition: Definition, text: str, first: int, edits: Sequence[DefinitionEdit]) -> str:
    """Edit whole lines of a definition; a method is parsed as the body of a class that is cut off again."""
    wrapped = text[:1] in (" ", "\t")
    head = "class _:" + _newline(text) if wrapped else ""
    module = cst.parse_module(head + text)
    if module.code != head + text:
        raise CannotEdit("LibCST would print this definition differently")
    located = _Locator(module, definition, head + text, first - (1 if wrapped else 0))
    plan: dict[cst.CSTNode, list[DefinitionEdit]] = {}
    for edit in edits:
        plan.setdefault(located.find(edit.node), []).append(edit)
    guards = [edit for edit in edits if isinstance(edit, Guard)]
    ends = {located.find(e.node): (located.find(e.last), *map(located.find, e.first)) for e in guards}
    try:
        after = module.visit(_Applier(plan, ends, located.holders(plan), module.config_for_parsing))
    except cst.ParserSyntaxError as error:
        raise CannotEdit("the code that would stand here is no Python on its own") from error
    if "#" in text and comments.lost(comments.of_text(head + text), comments.of_text(after.code)):
        raise CannotEdit("a comment would be lost")
    return after.code[len(head) :]


def _method_lines(definition: Definition, node: ast.AST) -> tuple[int, int] | None:
    """First and last line, in the definition's text, of the method around a node; None outside of methods."""
    if isinstance(definition.tree, ast.ClassDef):
        for method in definition.tree.body:
            inside = method.lineno <= getattr(node, "lineno", 0) <= (method.end_lineno or 0)
            if isinstance(method, FunctionNode) and inside:
                top = min([method.lineno, *(d.lineno for d in method.decorator_list)])
                offset = definition.line_in_text(method) - method.lineno
                return top + offset, (method.end_lineno or method.lineno) + offset
    return None


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def overlapping(edits: Iterable[DefinitionEdit], others: Iterable[DefinitionEdit]) -> bool:
    """Whether two sites change the same method: then one comes after the other, and sees what that has left."""
    return bool({_place(edit) for edit in edits} & {_place(edit) for edit in others})


def _place(edit: DefinitionEdit) -> tuple[int, object]:
    """The method that is edited, or the whole definition."""
    return id(edit.definition.tree), _method_lines(edit.definition, edit.node)


class _Locator:
    """Finds the LibCST node for a node of the `ast` tree by its place in the source."""

    def __init__(self, module: cst.Module, definition: Definition, text: str, first: int) -> None:
        self.definition, self.first = definition, first
        self.lines = [line.encode() for line in split_lines(text)]
        wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
        self.ranges = positions = wrapper.resolve(PositionProvider)
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

    def holders(self, nodes: Collection[cst.CSTNode]) -> set[cst.CSTNode]:
        """Every node that may hold one of `nodes`, by its lines; the rest of the tree need not be visited."""
        spans = [(self.ranges[node].start.line, self.ranges[node].end.line) for node in nodes]
        return {
            node
            for node, place in self.ranges.items()
            if any(place.start.line <= first and last <= place.end.line for first, last in spans)
        }

    def position(self, line: int, column: int) -> tuple[int, int]:
        """Line in the parsed text and column in characters, of a place in the `ast` tree."""
        number = line + self.definition.shift - self.definition.first_line - self.first + 2
        return number, len(self.lines[number - 1][:column].decode())


class _Applier(cst.CSTTransformer):
    def __init__(
        self,
        plan: dict[cst.CSTNode, list[DefinitionEdit]],
        ends: dict[cst.CSTNode, tuple[cst.CSTNode, ...]],
        holders: set[cst.CSTNode],
        config: cst.PartialParserConfig,
    ) -> None:
        super().__init__()
        self.plan, self.holders = plan, holders
        self.ends = ends  # the first of several statements that are guarded: the last one, and those that come before
        self.config = config
        self.removed: dict[cst.CSTNode, cst.CSTNode] = {}  # what stands for it until its block is swept: statement

    def on_visit(self, node: cst.CSTNode) -> bool:
        return node in self.holders or isinstance(node, cst.IndentedBlock | cst.Module)

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]
        updated = updated_node
        if isinstance(original_node, cst.IndentedBlock) and isinstance(updated, cst.IndentedBlock):
            updated = self.sweep(self.guarded(updated, original_node), original_node)
        edits = self.plan.get(original_node)
        if edits:
            updated = self.edited(original_node, updated, edits)
        if isinstance(original_node, STATEMENT) and self.is_edited(original_node):
            return comments.conserved(original_node, updated)
        return updated

    def is_edited(self, statement: Statement) -> bool:
        """Whether something of a statement itself is edited, and not only in the statements inside of it."""
        if statement in self.plan:
            return True
        inside = (cst.BaseSuite, cst.BaseCompoundStatement, cst.Else, cst.Finally, cst.ExceptHandler)
        own = (child for child in statement.children if not isinstance(child, inside))
        return statement in self.holders and any(child in self.holders or child in self.plan for child in own)

    def edited(self, original: cst.CSTNode, node: cst.CSTNode, edits: list[DefinitionEdit]) -> cst.CSTNode:
        before: list[cst.CSTNode] = []
        after: list[cst.CSTNode] = []
        here: list[cst.CSTNode] = [node]
        for edit in edits:
            if isinstance(edit, Insert) and edit.side != "end":
                (before if edit.side == "before" else after).extend(self.statements(edit.code))
            elif isinstance(edit, Insert):
                here = [self.with_more(here[0], edit.code)]
            elif isinstance(edit, Remove):
                here = [self.tombstone(original)]
            elif isinstance(edit, Replace):
                here = self.replacement(here[0], edit.code)
            elif isinstance(edit, Guard):
                continue  # it is about several statements, and made in their block
            elif isinstance(edit, Argument):
                here = [with_argument(here[0], edit)]
            elif isinstance(edit, Withdraw):
                here = [without_argument(here[0], edit)]
            elif isinstance(edit, Parameter):
                here = [with_parameter(here[0], edit)]
            else:
                here = [edit.change(here[0])]
        if before:
            before[0], here[0] = _led_by(before[0], here[0])
        return _flat(before, here, after)

    def guarded(self, block: cst.IndentedBlock, before: cst.IndentedBlock) -> cst.IndentedBlock:
        """Put statements of a block under the `else` of a condition."""
        for first, edits in self.plan.items():
            guard = next((edit for edit in edits if isinstance(edit, Guard)), None)
            if guard is None or first not in before.body:
                continue
            end, *hoisted = (before.body.index(one) for one in self.ends[first])
            start = before.body.index(first)
            blank, notes = comments.split(cast(Statement, block.body[start]).leading_lines)
            inner = [block.body[start].with_changes(leading_lines=notes), *block.body[start + 1 : end + 1]]
            inner = [statement for place, statement in enumerate(inner, start) if place not in hoisted]
            code = f"if {guard.test}:\n" + "".join(f"    {line}\n" for line in guard.code.split("\n"))
            condition = cst.parse_module(self.indented("\n" + code)[1:], config=self.config).body[0]
            other = cst.Else(body=cst.IndentedBlock(body=cast(list[Statement], inner)))
            new = [*(block.body[place] for place in hoisted), condition.with_changes(orelse=other)]
            new[0] = new[0].with_changes(
                leading_lines=[*blank, *comments.split(cast(Statement, new[0]).leading_lines)[1]]
            )
            block = block.with_changes(body=[*block.body[:start], *new, *block.body[end + 1 :]])
        return block

    def statements(self, code: str) -> list[Statement]:
        """The statements of some code; if it starts with an empty line, so do they."""
        body = list(cst.parse_module(self.indented(code) + "\n", config=self.config).body)
        if code.startswith("\n"):
            body[0] = body[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        return body

    def indented(self, code: str) -> str:
        """Code whose arguments are indented as everything else in the file."""
        return re.sub(r"(?<=\n)    ", str(self.config.default_indent), code)

    def replacement(self, node: cst.CSTNode, code: str) -> list[cst.CSTNode]:
        if isinstance(node, cst.BaseExpression):
            new = cst.parse_expression(self.indented(code), config=self.config)
            tight = isinstance(new, cst.Name | cst.Attribute | cst.Call | cst.Subscript) and "\n" not in code
            return [new if tight or new.lpar else new.with_changes(lpar=node.lpar, rpar=node.rpar)]
        statements = self.statements(code)
        assert isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)
        statements[0] = statements[0].with_changes(leading_lines=node.leading_lines)
        simple = isinstance(statements[-1], cst.SimpleStatementLine)
        if isinstance(node, cst.SimpleStatementLine) and simple and node.trailing_whitespace.comment is not None:
            statements[-1] = statements[-1].with_changes(trailing_whitespace=node.trailing_whitespace)
        return list(statements)

    def tombstone(self, node: cst.CSTNode) -> cst.CSTNode:
        """Stands for a removed statement until its block is swept; keeps what stood above it, and all comments."""
        assert isinstance(node, STATEMENT)
        stone = comments.conserved(node, cst.SimpleStatementLine([cst.Pass()], leading_lines=node.leading_lines))
        self.removed[stone] = node
        return stone

    def with_more(self, node: cst.CSTNode, code: str) -> cst.CSTNode:
        """A function with statements appended to its body."""
        assert isinstance(node, cst.FunctionDef)
        if not isinstance(node.body, cst.IndentedBlock):
            raise CannotEdit("the function stands on one line")
        if _leaves_early(node.body):
            raise CannotEdit(f"`{node.name.value}` may return before its end")
        body = node.body.with_changes(body=[*node.body.body, *self.statements(code)])
        return node.with_changes(body=body)

    def sweep(self, block: cst.IndentedBlock, before: cst.IndentedBlock) -> cst.IndentedBlock:
        """Drop tombstones; the next statement takes over the blank line of the first.

        Comments of a removed statement go to the one that is edited in its place; `comments.Sweep` says which.
        """
        if not self.removed.keys() & set(block.body):
            return block
        left = {*block.body, *self.removed.values()}
        was = [comment for statement in before.body if statement not in left for comment in comments.of(statement)]
        now = [
            comment
            for statement in block.body
            if statement not in before.body and statement not in self.removed
            for comment in comments.of(statement)
        ]
        sweep = comments.Sweep(carried=comments.lost(now, was))
        for statement in block.body:
            if statement in self.removed:
                sweep.drop(cast(cst.SimpleStatementLine, statement))
            else:
                sweep.keep(cast(Statement, statement), edited=statement not in before.body)
        body, footer = sweep.ended()
        return block.with_changes(body=body, footer=[*footer, *block.footer])


def _leaves_early(node: cst.CSTNode) -> bool:
    """Whether a function's own body has a `return`."""
    if isinstance(node, cst.Return):
        return True
    if isinstance(node, cst.FunctionDef | cst.ClassDef | cst.Lambda):
        return False
    return any(_leaves_early(child) for child in node.children)


def _led_by(first: cst.CSTNode, then: cst.CSTNode) -> tuple[cst.CSTNode, cst.CSTNode]:
    """A statement put before another takes over the blank lines and comments above it."""
    assert isinstance(then, cst.SimpleStatementLine | cst.BaseCompoundStatement)
    return first.with_changes(leading_lines=then.leading_lines), then.with_changes(leading_lines=[])


def _flat(before: list[cst.CSTNode], here: list[cst.CSTNode], after: list[cst.CSTNode]) -> cst.CSTNode:
    nodes = [*before, *here, *after]
    if len(nodes) == 1:
        return nodes[0]
    return cast(cst.CSTNode, cst.FlattenSentinel(nodes))
