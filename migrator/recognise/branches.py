"""Branches that ask whether torch is new enough for fused attention, which it is wherever the runtime is."""

from __future__ import annotations

import ast

from migrator.recognise.anatomy import Attention, Obstacle
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import blocks_of, inner_statements, walk_statements
from migrator.recognise.values import Flow

_MODULE, _FUNCTION = "torch.nn.functional", "scaled_dot_product_attention"


def settled_branch(index: FileIndex, found: Attention) -> ast.If | None:
    """The `if hasattr(F, "scaled_dot_product_attention")` that an attention stands in, on either side."""
    branches = (s for s in walk_statements(found.flow.function.body) if isinstance(s, ast.If) and s.orelse)
    around = (s for s in branches if found.output.statement in list(walk_statements(inner_statements(s))))
    return next((branch for branch in around if _is_settled(index, found.flow, branch.test)), None)


def beside_fused(index: FileIndex, found: Attention | Obstacle, fused: list[Attention]) -> ast.If | None:
    """The branch that computes fused attention where this spelled-out one is not wanted: by choice, not by version.

    Beside a call of the runtime, only what the weights are needed for is spelled out by choice.
    """
    statement = _statement_of(found)
    fused = [one for one in fused if one.kind == "sdpa" or isinstance(found, Obstacle)]
    for branch in (s for s in walk_statements(found.flow.function.body) if isinstance(s, ast.If)):
        if _is_settled(index, found.flow, branch.test):
            continue
        for one, other in ((branch.body, branch.orelse), (branch.orelse, branch.body)):
            beside = [*other, *(_after(found.flow, branch) if one and isinstance(one[-1], ast.Return) else [])]
            there = any(attention.output.statement in list(walk_statements(one)) for attention in fused)
            if there and statement in list(walk_statements(beside)):
                return branch
    return None


def _statement_of(found: Attention | Obstacle) -> ast.stmt | None:
    """The statement in which it stands, the innermost one."""
    around = [
        s for s in walk_statements(found.flow.function.body)
        if not inner_statements(s) and any(node is found.node for node in ast.walk(s))
    ]  # fmt: skip
    return around[0] if around else None


def _after(flow: Flow, branch: ast.If) -> list[ast.stmt]:
    """What follows a branch in its own block."""
    blocks = [flow.function.body, *(inner for s in walk_statements(flow.function.body) for inner in blocks_of(s))]
    block = next((block for block in blocks if branch in block), [])
    return block[block.index(branch) + 1 :] if block else []


def is_only_statement(branch: ast.If, found: Attention) -> bool:
    """Whether the side that runs does nothing but this attention."""
    return len(branch.body) == 1 and branch.body[0] is found.output.statement


def _is_settled(index: FileIndex, flow: Flow, test: ast.expr) -> bool:
    """The question itself, or an attribute that `__init__` alone sets to its answer."""
    name = ast.unparse(test)
    root, _, attribute = name.partition(".")
    if flow.owner is not None and root == flow.self_name and attribute.isidentifier():
        kept = None if attribute in flow.owner.stores_outside_init else flow.owner.attribute(attribute)
        return kept is not None and not _is_set_outside(index, flow.owner, attribute) and _asks(index, kept)
    return _asks(index, test)


def _asks(index: FileIndex, node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and index.resolve(node.func) == "hasattr"
        and len(node.args) == 2
        and index.resolve(node.args[0]) == _MODULE
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value == _FUNCTION
    )


def _is_set_outside(index: FileIndex, owner: ClassInfo, attribute: str) -> bool:
    """Whether anything but the owner's own `__init__` assigns the attribute, as in `block.attn.flash = False`."""
    init = owner.methods["__init__"]
    own = {id(node) for node in ast.walk(init)}
    return any(
        isinstance(node, ast.Attribute) and node.attr == attribute and not isinstance(node.ctx, ast.Load)
        for definition in index.definitions
        if attribute in definition.text
        for node in ast.walk(definition.tree)
        if id(node) not in own
    )
