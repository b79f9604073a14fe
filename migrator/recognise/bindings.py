"""What a top-level statement imports, binds, calls and reads; found out once, and kept in the definition's memo."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

from migrator.recognise.syntax import FunctionNode, imported_names, stored_names, walk_statements

if TYPE_CHECKING:
    from migrator.recognise.index import Definition


def import_nodes(definition: Definition) -> list[ast.Import | ast.ImportFrom]:
    """Import statements at module level, in `if` and `try` too."""
    if "imports" not in definition.memo:
        nodes: list[ast.Import | ast.ImportFrom] = []
        if not isinstance(definition.tree, FunctionNode | ast.ClassDef):
            nodes = [s for s in walk_statements([definition.tree]) if isinstance(s, ast.Import | ast.ImportFrom)]
        definition.memo["imports"] = nodes
    found: list[ast.Import | ast.ImportFrom] = definition.memo["imports"]
    return found


def bound_at_top(definition: Definition) -> set[str]:
    """Names that a top-level statement binds by anything but an import."""
    if "bound at top" not in definition.memo:
        tree = definition.tree
        names = {definition.name} if definition.name else set()
        if not isinstance(tree, FunctionNode | ast.ClassDef | ast.Import | ast.ImportFrom):
            imported = {name for node in import_nodes(definition) for name, _ in imported_names(node)}
            names = stored_names([tree]) - imported
            names |= {s.name for s in walk_statements([tree]) if isinstance(s, FunctionNode | ast.ClassDef)}
        definition.memo["bound at top"] = names
    bound: set[str] = definition.memo["bound at top"]
    return bound


def globals_of(definition: Definition) -> set[str]:
    """Module-level names that a function of the definition may assign."""
    nodes = definition.nodes if "global " in definition.text else []
    return {name for node in nodes if isinstance(node, ast.Global) for name in node.names}


def calls_of(definition: Definition) -> list[tuple[str, ast.Call, tuple[FunctionNode, ...]]]:
    """(callee, call, scope) for every call by plain name."""
    if "calls" not in definition.memo:
        found: list[tuple[str, ast.Call, tuple[FunctionNode, ...]]] = []
        stack: list[tuple[ast.AST, tuple[FunctionNode, ...]]] = [(definition.tree, ())]
        while stack:
            node, scope = stack.pop()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.append((node.func.id, node, scope))
            inner = (*scope, node) if isinstance(node, FunctionNode) else scope
            stack.extend((child, inner) for child in ast.iter_child_nodes(node))
        definition.memo["calls"] = found
    calls: list[tuple[str, ast.Call, tuple[FunctionNode, ...]]] = definition.memo["calls"]
    return calls


def attribute_reads(definition: Definition) -> dict[str, int]:
    if "attribute_reads" not in definition.memo:
        attributes = (node for node in definition.nodes if isinstance(node, ast.Attribute))
        definition.memo["attribute_reads"] = Counter(n.attr for n in attributes if isinstance(n.ctx, ast.Load))
    reads: dict[str, int] = definition.memo["attribute_reads"]
    return reads
