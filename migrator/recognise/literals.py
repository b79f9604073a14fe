"""What a flag of one particular instance is, told from the calls that build it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final

from migrator.recognise.composition import Component
from migrator.recognise.index import ClassInfo
from migrator.recognise.surgery import changed_later
from migrator.recognise.syntax import FunctionNode, bind, first_parameter, parameters, stored_names, walk_statements


class _Unknown:
    pass


UNKNOWN: Final = _Unknown()
_DEPTH = 8


def literal(info: ClassInfo, node: ast.expr, holders: Sequence[Component], depth: int = _DEPTH) -> object:
    """The constant that `node`, an expression of `info`, is in the instance that the innermost holder builds.

    `holders` are the components around the instance, outermost first; the last one holds it. UNKNOWN where the source
    does not say it.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if depth == 0:
        return UNKNOWN
    init = info.methods.get("__init__")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id != first_parameter(init) or node.attr in info.stores_outside_init:
            return UNKNOWN
        if changed_later(info, node.attr):
            return UNKNOWN
        value = info.attribute(node.attr)
        return literal(info, value, holders, depth - 1) if value is not None else UNKNOWN
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = literal(info, node.operand, holders, depth - 1)
        return inner if inner is UNKNOWN else not inner
    if isinstance(node, ast.Name) and init is not None:
        return _named(info, init, node.id, holders, depth)
    return UNKNOWN


def _named(info: ClassInfo, init: FunctionNode, name: str, holders: Sequence[Component], depth: int) -> object:
    """A parameter of `__init__`, from the call that builds the instance; a local; or a constant of the module."""
    stored = _stores(init, name)
    if name in parameters(init):
        if stored or not holders:
            return UNKNOWN
        bound = bind(info.init_parameters, holders[-1].call)
        if bound is None or name not in bound:
            return UNKNOWN
        default = info.init_parameters[name]
        if bound[name] is default:
            return literal(info, default, (), depth - 1) if isinstance(default, ast.Constant) else UNKNOWN
        return literal(holders[-1].owner, bound[name], holders[:-1], depth - 1)
    if len(stored) == 1 and isinstance(stored[0], ast.Assign):
        return literal(info, stored[0].value, holders, depth - 1)
    constant = info.index.constants.get(name) if not stored else None
    return literal(info, constant, (), depth - 1) if constant is not None else UNKNOWN


def _stores(init: FunctionNode, name: str) -> list[ast.stmt]:
    """The simple statements that assign a name; a compound one counts for those inside of it."""
    return [
        statement
        for statement in walk_statements(init.body)
        if name in stored_names([statement]) and not hasattr(statement, "body")
    ]
