"""Parts of a module that may be something else by the time it runs than what `__init__` made them."""

from __future__ import annotations

import ast

from migrator.recognise.borrowers import assigned_nodes
from migrator.recognise.composition import family
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter

_ADDS = frozenset({"append", "extend", "insert", "__setitem__"})
_SETS_BY_NAME = frozenset({"setattr", "add_module", "register_module", "set_submodule"})


def changed_later(info: ClassInfo, attribute: str) -> str:
    """Where the file may give an attribute of a class's instances another value, or put more into it; "" if nowhere.

    `model.blocks[2] = nn.Identity()`, `block.attn = ...` outside of `__init__`, and a class that derives from it and
    builds its own.
    """
    index, name = info.index, attribute.rpartition(".")[2]
    kin = {*family(index, info), *(one.definition for one in info.lineage)}
    own = set(assigned_nodes(info, {attribute, name}))
    for definition in index.definitions:
        if name in definition.text:
            strangers = set() if definition in kin else _selves(index, definition)
            for node in ast.walk(definition.tree):
                target = _target(node, name)
                if target is not None and id(target) not in own and ast.unparse(target) not in strangers:
                    return f"line {definition.line(node)}"
    return ""


def _selves(index: FileIndex, definition: Definition) -> set[str]:
    """`self.attribute` of a class that has nothing to do with the one that is asked about."""
    if not isinstance(definition.tree, ast.ClassDef):
        return set()
    methods = [node for node in definition.tree.body if isinstance(node, FunctionNode)]
    selves = {first_parameter(method) for method in methods}
    return {
        ast.unparse(node)
        for node in ast.walk(definition.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in selves
    }


def _target(node: ast.AST, name: str) -> ast.expr | None:
    """`x.name` where a node assigns it, or a part of it, or adds to it."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name:
        return node
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return _named(node.value, name)
    if not isinstance(node, ast.Call):
        return None
    callee = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if callee in _SETS_BY_NAME and any(isinstance(a, ast.Constant) and a.value == name for a in node.args):
        return node.func
    adds = callee in _ADDS and isinstance(node.func, ast.Attribute)
    return _named(node.func.value, name) if adds and isinstance(node.func, ast.Attribute) else None


def _named(node: ast.expr, name: str) -> ast.expr | None:
    return node if isinstance(node, ast.Attribute) and node.attr == name else None
