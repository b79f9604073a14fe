"""Who else in the file uses the parts of a class, so that they cannot be rebuilt behind its back."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.composition import family
from migrator.recognise.index import ClassInfo, Definition, FileIndex

# Asking a module for these is no use of its weights as they are.
_HARMLESS = frozenset(
    {"in_features", "out_features", "parameters", "named_parameters", "modules", "apply", "requires_grad_", "train"}
)
_OF_A_WEIGHT = frozenset({"device", "dtype", "requires_grad", "data"})


def borrower(index: FileIndex, info: ClassInfo, attributes: set[str], own: set[int]) -> str:
    """Where the attributes are used by anything but the nodes in `own` and their assignment in `__init__`, or "".

    Reading a width and setting initial values does not count.
    """
    kin = family(index, info)
    for definition in index.definitions:
        if not any(attribute in definition.text for attribute in attributes):
            continue
        for node in _reads(definition, attributes):
            by_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if id(node) in own or (by_self and definition not in kin) or _is_imported(index, node):
                continue
            if not _is_harmless(index, definition, node):
                return f"line {definition.line(node)}"
        for text in ast.walk(definition.tree):
            if isinstance(text, ast.Constant) and isinstance(text.value, str) and _addresses(text.value, attributes):
                return f"line {definition.line(text)}"
    return ""


def assigned_nodes(info: ClassInfo, attributes: set[str]) -> Iterator[int]:
    """Ids of the targets `self.name` by which `__init__` makes these attributes."""
    for name in attributes:
        for assignment in info.attributes.get(name, []):
            for node in ast.walk(assignment.statement):
                if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store):
                    yield id(node)


def hooked(index: FileIndex) -> str:
    """Where the file hangs a hook on a module, or ""."""
    for definition in index.definitions:
        if "register_" in definition.text and "hook" in definition.text:
            for node in ast.walk(definition.tree):
                if isinstance(node, ast.Attribute) and node.attr.startswith("register_") and node.attr.endswith("hook"):
                    return f"line {definition.line(node)}"
    return ""


def _is_imported(index: FileIndex, node: ast.Attribute) -> bool:
    """Whether it is a name of a module, such as `nn.LayerNorm`."""
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in index.imports and root.id not in index.shadowed


def _reads(definition: Definition, attributes: set[str]) -> Iterator[ast.Attribute]:
    for node in ast.walk(definition.tree):
        if isinstance(node, ast.Attribute) and node.attr in attributes:
            yield node


def _addresses(text: str, attributes: set[str]) -> bool:
    """Whether a string is a path below an attribute, such as "blocks.0.mlp.0.weight"."""
    parts = text.split(".")
    return " " not in text and any(part in attributes for part in parts[:-1])


def _is_harmless(index: FileIndex, definition: Definition, node: ast.Attribute) -> bool:
    """Whether only sizes are read or initial values set: `x.fc.in_features`, `nn.init.zeros_(x.fc.bias)`."""
    parents = _parents(definition)
    chain: list[str] = []
    outer: ast.AST = node
    while isinstance(parents.get(outer), ast.Attribute):
        outer = parents[outer]
        assert isinstance(outer, ast.Attribute)
        chain.append(outer.attr)
    if not chain or not isinstance(getattr(outer, "ctx", None), ast.Load):
        return False
    if chain[0] in _HARMLESS:
        return True
    if chain[0] not in ("weight", "bias"):
        return False
    parent = parents.get(outer)
    if isinstance(parent, ast.Call):
        callee = index.resolve(parent.func) or ""
        return callee.startswith("torch.nn.init.") or (parent.func is outer and chain[-1].endswith("_"))
    return len(chain) > 1 and chain[-1] in _OF_A_WEIGHT - {"data"}


def _parents(definition: Definition) -> dict[ast.AST, ast.AST]:
    if "parents" not in definition.memo:
        definition.memo["parents"] = {
            child: parent for parent in ast.walk(definition.tree) for child in ast.iter_child_nodes(parent)
        }
    parents: dict[ast.AST, ast.AST] = definition.memo["parents"]
    return parents
