"""What numbers an expression can stand for: literals, module constants, and arguments at the file's own call sites."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from migrator.recognise.index import CallSite, ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, bind, first_parameter, walk_statements

Number = int | float
_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}
_DEPTH = 6


def init_values(index: FileIndex, info: ClassInfo, expression: ast.expr) -> list[Number | None]:
    """The values of an expression of `info.__init__`, one for each way the file itself constructs the class.

    None stands for a way that cannot be told. A class that the file never constructs has no values.
    """
    spelled_out = _spelled_out(info, expression, _DEPTH)
    return [_evaluate(index, spelled_out, scope) for scope in _init_scopes(index, info, _DEPTH)]


def number(index: FileIndex, expression: ast.expr) -> Number | None:
    """The value of an expression of literals and module constants."""
    return _evaluate(index, expression, {})


def _spelled_out(info: ClassInfo, node: ast.expr, depth: int) -> ast.expr:
    """The expression with what `__init__` assigns in place of `self.name`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and depth:
        value = info.attribute(node.attr) if node.value.id == first_parameter(info.methods.get("__init__")) else None
        return _spelled_out(info, value, depth - 1) if value is not None else node
    if isinstance(node, ast.BinOp):
        left, right = (_spelled_out(info, side, depth) for side in (node.left, node.right))
        return ast.BinOp(left, node.op, right)
    return node


_Scope = Mapping[str, Number | None]


def _init_scopes(index: FileIndex, info: ClassInfo, depth: int) -> list[_Scope]:
    """What the parameters and plain locals of `__init__` are, for each construction."""
    init = info.methods.get("__init__")
    if init is None or depth == 0:
        return [{}]
    scopes: list[_Scope] = []
    for site in index.calls.get(info.name, []):
        bound = bind(info.init_parameters, site.call)
        for outer in _caller_scopes(index, site, depth):
            if bound is None:
                scopes.append({})
                continue
            inner = {name: _evaluate(index, value, outer) for name, value in bound.items()}
            scopes.append(_with_locals(index, init, inner))
    return scopes


def _caller_scopes(index: FileIndex, site: CallSite, depth: int) -> list[_Scope]:
    """Scopes in which a call site may run."""
    tree = site.definition.tree
    if isinstance(tree, ast.ClassDef) and site.scope and site.scope[0].name == "__init__":
        info = index.classes.get(tree.name)
        return _init_scopes(index, info, depth - 1) if info is not None and info.node is tree else [{}]
    if site.scope:
        return [_with_locals(index, site.scope[0], {})]
    return [_locals(index, [tree], {})]


def _with_locals(index: FileIndex, function: FunctionNode, scope: _Scope) -> _Scope:
    return _locals(index, function.body, scope)


def _locals(index: FileIndex, body: list[ast.stmt], scope: _Scope) -> _Scope:
    """The scope with names that are assigned once, to something that is known."""
    known = dict(scope)
    counts: dict[str, int] = {}
    for statement in walk_statements(body):
        for name in _assigned(statement):
            counts[name] = counts.get(name, 0) + 1
    for statement in walk_statements(body):
        for name in _assigned(statement):
            single = counts[name] == 1 and name not in scope and isinstance(statement, ast.Assign)
            known[name] = (
                _evaluate(index, statement.value, known) if single and isinstance(statement, ast.Assign) else None
            )
    return known


def _assigned(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


def _evaluate(index: FileIndex, node: ast.expr, scope: _Scope) -> Number | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int | float) and not isinstance(node.value, bool) else None
    if isinstance(node, ast.Name):
        if node.id in scope:
            return scope[node.id]
        constant = index.constants.get(node.id)
        return _evaluate(index, constant, {}) if constant is not None else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _evaluate(index, node.operand, scope)
        return None if value is None else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(index, node.left, scope), _evaluate(index, node.right, scope)
        if left is None or right is None or (isinstance(node.op, ast.Pow) and abs(right) > 64):
            return None
        try:
            return _OPERATORS[type(node.op)](left, right)
        except (ArithmeticError, ValueError):
            return None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "int" and len(node.args) == 1:
        value = _evaluate(index, node.args[0], scope)
        return None if value is None else int(value)
    return None
