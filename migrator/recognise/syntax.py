"""Small questions about `ast` nodes that need no index."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def split_lines(text: str) -> list[str]:
    """Lines with their ends, as Python's tokenizer counts them (form feeds and U+2028 do not end a line)."""
    return _LINE.findall(text)


def parameters(function: FunctionNode) -> dict[str, ast.expr | None]:
    """Parameters after `self`, with defaults; `*args` and `**kwargs` are left out."""
    spec = function.args
    names = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(spec.defaults)) + list(spec.defaults)
    table = {arg.arg: default for arg, default in zip(names, defaults, strict=True)}
    table.update({arg.arg: default for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)})
    table.pop(first_parameter(function), None)
    return table


def first_parameter(function: FunctionNode | None) -> str:
    """Name of `self`."""
    if function is None:
        return "self"
    names = [*function.args.posonlyargs, *function.args.args]
    return names[0].arg if names else "self"


_ANSWERS = (ast.Compare, ast.UnaryOp)
_SAYING = (*_ANSWERS, ast.Attribute, ast.Call, ast.Constant, ast.Name, ast.cmpop, ast.unaryop, ast.expr_context)


def answer(function: ast.stmt) -> tuple[list[str], ast.expr] | None:
    """Parameters and result of a function that only compares or negates: `def exists(x): return x is not None`."""
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return None
    spec, (*comment, last) = function.args, function.body
    plain = not (spec.vararg or spec.kwarg or spec.kwonlyargs or spec.posonlyargs or spec.defaults)
    if not plain or not isinstance(last, ast.Return) or not isinstance(last.value, _ANSWERS):
        return None
    calls = [inner for inner in ast.walk(last.value) if isinstance(inner, ast.Call)]
    if any(not (isinstance(inner.func, ast.Attribute) and inner.func.attr == "finfo") for inner in calls):
        return None
    if not all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in comment):
        return None
    if not all(isinstance(inner, _SAYING) for inner in ast.walk(last.value)):
        return None
    return [arg.arg for arg in spec.args], last.value


def bind(info_parameters: Mapping[str, ast.expr | None], call: ast.Call) -> dict[str, ast.expr] | None:
    """Arguments of `call` by parameter name, defaults filled in; None where `*` or `**` hides them."""
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        return None
    names = list(info_parameters)
    if len(call.args) > len(names):
        return None
    bound = {name: default for name, default in info_parameters.items() if default is not None}
    bound.update(zip(names, call.args, strict=False))
    bound.update({k.arg: k.value for k in call.keywords if k.arg})
    return bound


def walk_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements in order, those inside `if`, `for`, `with` and `try` too, but not inside nested definitions."""
    for statement in body:
        yield statement
        yield from walk_statements(inner_statements(statement))


def once_assigned(function: FunctionNode) -> dict[str, ast.expr]:
    """What a function assigns once, in a plain statement, by the text of the target."""
    found: dict[str, list[ast.expr]] = {}
    for statement in walk_statements(function.body):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            found.setdefault(ast.unparse(statement.targets[0]), []).append(statement.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def inner_statements(statement: ast.stmt) -> list[ast.stmt]:
    """The statements directly inside of one, in order; of a nested definition none."""
    return [inner for block in blocks_of(statement) for inner in block]


def blocks_of(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks directly inside of a statement, in order; of a nested definition none."""
    if isinstance(statement, FunctionNode | ast.ClassDef):
        return []
    blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
    return [*blocks, *(handler.body for handler in getattr(statement, "handlers", []))]


def self_targets(statement: ast.stmt, self_name: str) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) for each `self.name = value` that the statement makes; of tuples the elements."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return
    for target in targets:
        for element, part in _pairs(target, value):
            if (
                isinstance(element, ast.Attribute)
                and isinstance(element.value, ast.Name)
                and element.value.id == self_name
            ):
                yield element.attr, part


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets with what they get: of `a, b = x, y` each with its own; of `a, b = f()` each with the whole."""
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, value
        return
    plain = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
    starred = any(isinstance(e, ast.Starred) for e in [*target.elts, *getattr(value, "elts", [])])
    for position, element in enumerate(target.elts):
        one = value.elts[position] if isinstance(value, ast.Tuple | ast.List) and plain and not starred else value
        yield from _pairs(element, one)


def imported_names(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) for everything that an import binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
    else:
        prefix = "." * node.level + (node.module or "")
        for alias in node.names:
            yield alias.asname or alias.name, f"{prefix}.{alias.name}"


def stored_names(body: list[ast.stmt]) -> set[str]:
    """Every name that these statements may bind."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {name for node in nodes for name in _bound_otherwise(node)}


def _bound_otherwise(node: ast.AST) -> list[str]:
    """Names that a node binds without storing to a Name."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [name for name, _ in imported_names(node)]
    return []


def as_load(target: ast.expr) -> ast.expr:
    """A target as the expression that reads it."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Attribute):
        return ast.Attribute(target.value, target.attr, ast.Load())
    if isinstance(target, ast.Subscript):
        return ast.Subscript(target.value, target.slice, ast.Load())
    return target
