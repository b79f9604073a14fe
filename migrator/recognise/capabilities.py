"""Branches for versions of torch that are too old to matter: what stands in them never runs."""

from __future__ import annotations

import ast

from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode

_PRESENT = frozenset({"scaled_dot_product_attention"})  # in every torch that the runtime works with


def never_runs(index: FileIndex, owner: ClassInfo | None, function: FunctionNode, node: ast.AST) -> bool:
    """Whether a node of the function stands where torch would have to lack `scaled_dot_product_attention`."""
    for outer in ast.walk(function):
        if not isinstance(outer, ast.If) or not _is_present(index, owner, outer.test):
            continue
        if any(inner is node for statement in outer.orelse for inner in ast.walk(statement)):
            return True
    return False


def _is_present(index: FileIndex, owner: ClassInfo | None, test: ast.expr) -> bool:
    """`hasattr(F, "scaled_dot_product_attention")`, or an attribute that `__init__` alone sets, and to that."""
    if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and owner is not None:
        value = owner.attribute(test.attr)
        fixed = value is not None and test.attr not in owner.stores_outside_init and not _is_set(index, test.attr)
        return fixed and value is not None and _is_present(index, None, value)
    if not isinstance(test, ast.Call) or not isinstance(test.func, ast.Name) or test.func.id != "hasattr":
        return False
    module, name = test.args if len(test.args) == 2 else (None, None)
    known = module is not None and index.resolve(module) == "torch.nn.functional"
    return known and isinstance(name, ast.Constant) and name.value in _PRESENT


def _is_set(index: FileIndex, attribute: str) -> bool:
    """Whether the file sets the attribute of anything but `self`: `block.attn.flash = False`."""
    for definition in index.definitions:
        if f".{attribute}" not in definition.text:
            continue
        for node in ast.walk(definition.tree):
            stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == attribute
            if stored and isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self":
                return True
    return False
