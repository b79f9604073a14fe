"""Lambdas, read as methods: `self.mlpf = lambda x: m.down(m.act(m.up(x)))`."""

from __future__ import annotations

import ast
import copy

from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import FunctionNode, first_parameter, once_assigned, parameters
from migrator.recognise.values import Flow


def as_method(node: ast.Lambda, self_name: str) -> FunctionNode:
    """A lambda as a method of one statement; the same node for the same lambda."""
    known: FunctionNode | None = getattr(node, "_as_method", None)
    if known is None:
        spec = node.args
        args = ast.arguments(spec.posonlyargs, [ast.arg(self_name), *spec.args], spec.vararg, spec.kwonlyargs,
                             spec.kw_defaults, spec.kwarg, spec.defaults)  # fmt: skip
        result = ast.copy_location(ast.Return(node.body), node.body)
        known = ast.copy_location(ast.FunctionDef("<lambda>", args, [result], []), node)
        node._as_method = known  # type: ignore[attr-defined]
    return known


def kept_lambda(info: ClassInfo, attribute: str) -> ast.Lambda | None:
    """The lambda that an attribute holds."""
    value = info.attribute(attribute)
    return value if isinstance(value, ast.Lambda) else None


def lambda_flow(info: ClassInfo, attribute: str) -> Flow | None:
    """The dataflow of a lambda in an attribute; names that `__init__` gives to `self.a` once are read as `self.a`.

    Its nodes are copies, at the places of the true ones.
    """
    key = ("lambda", info.node, attribute)
    if key not in info.index.memo:
        made = kept_lambda(info, attribute)
        info.index.memo[key] = _read(info, made) if made is not None else None
    flow: Flow | None = info.index.memo[key]
    return flow


def aliases(info: ClassInfo) -> dict[str, ast.expr]:
    """Local names of `__init__` for attributes: `m = self.mlp`."""
    init = info.methods["__init__"]
    own = first_parameter(init)
    return {
        name: value
        for name, value in once_assigned(init).items()
        if name not in parameters(init) and isinstance(value, ast.Attribute) and ast.unparse(value.value) == own
    }


def _read(info: ClassInfo, made: ast.Lambda) -> Flow:
    own = {arg.arg for arg in made.args.args}
    known = {name: value for name, value in aliases(info).items() if name not in own}
    changed = _Spelled(known).visit(copy.deepcopy(made))
    method = as_method(changed, first_parameter(info.methods["__init__"]))
    return flow_of(info.index, info.definition, method, info)


class _Spelled(ast.NodeTransformer):
    """Puts what names stand for in their place."""

    def __init__(self, known: dict[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(copy.deepcopy(self.known[node.id]), node) if node.id in self.known else node
