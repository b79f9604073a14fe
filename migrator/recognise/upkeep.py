"""What looks after a learned table and does nothing else: its initial values, its length, its share in a count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import FunctionNode, first_parameter, walk_statements
from migrator.recognise.trial.waves import waves
from migrator.recognise.values import Flow

_COUNTING = ("numel", "nelement")
_SILENT = (ast.Attribute, ast.BinOp, ast.Compare, ast.Constant, ast.Name, ast.Slice, ast.Tuple, ast.UnaryOp)
_SIGNS = (ast.cmpop, ast.expr_context, ast.operator, ast.unaryop)


@dataclass(frozen=True, eq=False)
class Upkeep:
    """A statement that goes with the table, or a difference that becomes its left side. `gone` names the table."""

    node: ast.stmt | ast.BinOp
    gone: ast.AST

    @property
    def kept(self) -> ast.expr | None:
        """What stands there without the table."""
        return self.node.left if isinstance(self.node, ast.BinOp) else None


def upkeep(info: ClassInfo, attribute: str) -> list[Upkeep]:
    """All that looks after the table in the class's own methods, and that nothing is left out by removing."""
    found: list[Upkeep] = []
    for method in info.methods.values() if "sum" not in info.index.shadowed else ():
        if attribute.rpartition(".")[2] in info.definition.source(method):
            found += _in_method(info, attribute, method)
    return found


def _in_method(info: ClassInfo, attribute: str, method: FunctionNode) -> Iterator[Upkeep]:
    flow = flow_of(info.index, info.definition, method, info)
    own = f"{first_parameter(method)}.{attribute}"
    is_wave = any(wave.attribute == attribute for wave in waves(info))
    inside = {id(child): outer for outer in walk_statements(method.body) for child in getattr(outer, "body", [])}
    for statement in walk_statements(method.body):
        first = method.name == "__init__"
        if first and (_freezes(statement, own) or (is_wave and _is_filled(statement, own))):
            yield Upkeep(statement, statement)
        elif _initialises(info, statement, own) or _shortens(info, statement, own):
            if _is_one_of_many(method, statement):
                yield Upkeep(statement, statement)
        elif isinstance(statement, ast.AugAssign) and _takes_off(flow, statement, own, attribute):
            outer = inside.get(id(statement))
            alone = isinstance(outer, ast.If) and len(outer.body) == 1 and not outer.orelse and _is_silent(outer.test)
            yield Upkeep(outer if alone and outer is not None else statement, statement)
        for node in ast.walk(statement) if not hasattr(statement, "body") else ():
            if isinstance(node, ast.BinOp) and _is_difference(node, own, attribute, flow.self_name):
                yield Upkeep(node, node.right)


def _is_one_of_many(method: FunctionNode, statement: ast.stmt) -> bool:
    """Whether the method does something else as well: one that is empty would keep a promise no more."""
    idle = (ast.Assert, ast.Expr, ast.Pass, ast.Return)
    others = [other for other in method.body if other is not statement and not isinstance(other, idle)]
    return statement in method.body and bool(others)


def _initialises(info: ClassInfo, statement: ast.stmt, own: str) -> bool:
    """`nn.init.normal_(self.table.weight, std=0.02)`"""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not call.args or ast.unparse(call.args[0]) not in _spellings(own):
        return False
    name = info.index.resolve(call.func) or ""
    return name.startswith("torch.nn.init.") and all(
        _is_silent(node) for node in (*call.args[1:], *(k.value for k in call.keywords))
    )


def _is_filled(statement: ast.stmt, own: str) -> bool:
    """`self.table.weight.data = ...`, which matters where it is known what is given: a sinusoid."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    return target is not None and ast.unparse(target) in _spellings(own)[1:]


def _freezes(statement: ast.stmt, own: str) -> bool:
    """`self.table.weight.requires_grad = False` and `self.table.requires_grad_(False)`."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.value, ast.Constant):
        return ast.unparse(statement.targets[0]) in [f"{name}.requires_grad" for name in _spellings(own)]
    call = statement.value if isinstance(statement, ast.Expr) else None
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Attribute)
        or not all(map(_is_silent, call.args))
    ):
        return False
    return call.func.attr == "requires_grad_" and ast.unparse(call.func.value) in _spellings(own)


def _shortens(info: ClassInfo, statement: ast.stmt, own: str) -> bool:
    """`self.table.weight = nn.Parameter(self.table.weight[:length])`"""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    value = statement.value
    if isinstance(value, ast.Call) and info.index.resolve(value.func) == "torch.nn.Parameter" and value.args:
        value = value.args[0]
    if not isinstance(value, ast.Subscript) or not _is_silent(value.slice):
        return False
    sides = ast.unparse(statement.targets[0]), ast.unparse(value.value)
    return all(side in _spellings(own) for side in sides)


def _spellings(own: str) -> tuple[str, ...]:
    return own, f"{own}.weight", f"{own}.data", f"{own}.weight.data"


def _takes_off(flow: Flow, statement: ast.AugAssign, own: str, attribute: str) -> bool:
    """`count -= self.table.weight.numel()`, for a count of all parameters."""
    if not isinstance(statement.op, ast.Sub) or not isinstance(statement.target, ast.Name):
        return False
    held = flow.before.get(statement, {}).get(statement.target.id)
    counted = held is not None and held.node is not None and _is_count(held.node, attribute, flow.self_name)
    return counted and _is_size(statement.value, own)


def _is_difference(node: ast.BinOp, own: str, attribute: str, self_name: str) -> bool:
    """`sum(...) - self.table.weight.numel()`, where other tables may have been taken off before."""
    left = node.left
    while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Sub):
        left = left.left
    return isinstance(node.op, ast.Sub) and _is_size(node.right, own) and _is_count(left, attribute, self_name)


def _is_size(node: ast.expr, own: str) -> bool:
    if not isinstance(node, ast.Call) or node.args or node.keywords or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in _COUNTING and ast.unparse(node.func.value) in _spellings(own)


def _is_count(node: ast.expr, attribute: str, self_name: str) -> bool:
    """`sum(p.numel() for p in self.parameters())`, of the model or of a part that has the table."""
    comprehension = node.args[0] if isinstance(node, ast.Call) and len(node.args) == 1 else None
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "sum" or node.keywords:
        return False
    if not isinstance(comprehension, ast.GeneratorExp | ast.ListComp) or len(comprehension.generators) != 1:
        return False
    loop, holder = comprehension.generators[0], attribute.rpartition(".")[0]
    counted = [f"{ast.unparse(loop.target)}.{name}()" for name in _COUNTING]
    wholes = [f"{self_name}.parameters()", *([f"{self_name}.{holder}.parameters()"] if holder else [])]
    return not loop.ifs and ast.unparse(comprehension.elt) in counted and ast.unparse(loop.iter) in wholes


def _is_silent(node: ast.AST) -> bool:
    """Whether nothing happens where the expression is computed."""
    return all(isinstance(inner, _SILENT + _SIGNS) for inner in ast.walk(node))
