"""One more argument in a call, one more parameter in a signature, laid out as the others are."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TypeVar

import libcst as cst

from migrator.codemod import Argument, Parameter, Withdraw
from migrator.recognise.spelling import LINE_LIMIT
from migrator.recognise.syntax import split_lines

_Item = TypeVar("_Item", cst.Arg, cst.Param)
_SPACE = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
_NEW_LINE = cst.ParenthesizedWhitespace(indent=True, last_line=cst.SimpleWhitespace("    "))
_LAST_LINE = cst.ParenthesizedWhitespace(indent=True)


def with_argument(node: cst.CSTNode, edit: Argument) -> cst.Call:
    """The call with one more argument; one that no longer fits its line has its arguments on a line of their own."""
    assert isinstance(node, cst.Call)
    new = cst.ensure_type(cst.parse_expression(f"_({edit.code})"), cst.Call).args[0]
    args = _extended(node.args, new, "whitespace_after_arg", node.whitespace_before_args)
    longer = node.with_changes(args=args)
    if _is_long(edit, len(edit.code) + 2):
        longer = longer.with_changes(whitespace_before_args=_NEW_LINE, args=_closed(args, "whitespace_after_arg"))
    lines = cst.Module(body=[]).code_for_node(longer).split("\n")
    if len(lines) == 3 and edit.node.col_offset + len(lines[1]) > LINE_LIMIT and "#" not in lines[1]:
        return longer.with_changes(args=_exploded(args))
    return longer


def without_argument(node: cst.CSTNode, edit: Withdraw) -> cst.Call:
    """The call without one of its keywords; whatever ended the list of arguments still ends it."""
    assert isinstance(node, cst.Call)
    kept = [arg for arg in node.args if arg.keyword is None or arg.keyword.value != edit.name]
    if kept and node.args[-1] not in kept:
        last = node.args[-1]
        kept[-1] = kept[-1].with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg)
    return node.with_changes(args=kept)


def with_parameter(node: cst.CSTNode, edit: Parameter) -> cst.FunctionDef:
    """The function with one more parameter; a head that no longer fits its line is broken inside its parentheses."""
    assert isinstance(node, cst.FunctionDef)
    new = cst.ensure_type(cst.parse_statement(f"def _({edit.code}): ..."), cst.FunctionDef).params.params[0]
    name = "kwonly_params" if node.params.kwonly_params else "params"
    old: Sequence[cst.Param] = getattr(node.params, name)
    items = _extended(old, new, "whitespace_after_param", node.whitespace_before_params)
    longer = node.with_changes(params=node.params.with_changes(**{name: items}))
    if len(_head(longer)) + edit.node.col_offset <= LINE_LIMIT or "\n" in _head(node):
        return longer
    broken = longer.params.with_changes(**{name: _closed(items, "whitespace_after_param")})
    return longer.with_changes(whitespace_before_params=_NEW_LINE, params=broken)


def _extended(
    items: Sequence[_Item], new: _Item, after: str, opening: cst.BaseParenthesizableWhitespace
) -> list[_Item]:
    """`new` at the end: it takes over what stood between the last item and the closing parenthesis."""
    if not items:
        return [new]
    *others, last = items
    end: dict[str, object] = {"comma": last.comma, after: getattr(last, after)}
    between = others[-1].comma if others else _broken(opening)
    if isinstance(last.comma, cst.Comma) and _comment(last.comma) is not None:
        # the comment behind the last item stays behind it
        between = last.comma.with_changes(whitespace_after=_indented(last.comma.whitespace_after))
        end["comma"] = last.comma.with_changes(whitespace_after=_LAST_LINE)
    elif not isinstance(between, cst.Comma) or _comment(between) is not None:
        between = _broken(opening)
    last = last.with_changes(comma=between, **{after: cst.SimpleWhitespace("")})
    return [*others, last, new.with_changes(**end)]


def _broken(opening: cst.BaseParenthesizableWhitespace) -> cst.Comma:
    """A comma that starts a new line where the opening parenthesis does."""
    if isinstance(opening, cst.ParenthesizedWhitespace):
        return cst.Comma(whitespace_after=opening.with_changes(first_line=cst.TrailingWhitespace()))
    return _SPACE


def _comment(comma: cst.Comma) -> cst.Comment | None:
    space = comma.whitespace_after
    return space.first_line.comment if isinstance(space, cst.ParenthesizedWhitespace) else None


def _indented(space: cst.BaseParenthesizableWhitespace) -> cst.BaseParenthesizableWhitespace:
    on_lines = isinstance(space, cst.ParenthesizedWhitespace)
    return space.with_changes(last_line=_NEW_LINE.last_line) if on_lines else space


def _closed(items: Sequence[_Item], after: str) -> list[_Item]:
    """The items with the closing parenthesis on a line of its own."""
    *others, last = items
    return [*others, last.with_changes(**{after: _LAST_LINE})]


def _exploded(args: Sequence[cst.Arg]) -> list[cst.Arg]:
    """Each argument on a line of its own, with a comma behind the last one too."""
    line = cst.Comma(whitespace_after=_NEW_LINE)
    last = cst.Comma(whitespace_after=_LAST_LINE)
    *others, end = (arg.with_changes(whitespace_after_arg=cst.SimpleWhitespace("")) for arg in args)
    return [*(arg.with_changes(comma=line) for arg in others), end.with_changes(comma=last)]


def _is_long(edit: Argument, added: int) -> bool:
    """Whether a call that stands on one line would make that line too long."""
    node: ast.Call = edit.node
    if node.lineno != node.end_lineno:
        return False
    line = split_lines(edit.definition.text)[edit.definition.line_in_text(node) - 1]
    return len(line.rstrip()) + added > LINE_LIMIT


def _head(node: cst.FunctionDef) -> str:
    """The text of a function from `def` to the colon."""
    bare = node.with_changes(
        body=cst.SimpleStatementSuite(body=[cst.Expr(cst.Ellipsis())]), decorators=[], leading_lines=[]
    )
    return cst.Module(body=[bare]).code.rstrip().removesuffix("...").rstrip()
