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
            holder = _holder(index, definition, node.value)
            if id(node) in own or (holder is not None and holder.definition not in kin) or _is_imported(index, node):
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


def _holder(index: FileIndex, definition: Definition, node: ast.expr) -> ClassInfo | None:
    """The class of `self`, of `self.part`, of `self.part.part`, as far as the file says it."""
    if isinstance(node, ast.Name) and node.id == "self":
        return index.classes.get(definition.name)
    outer = _holder(index, definition, node.value) if isinstance(node, ast.Attribute) else None
    if outer is None or not isinstance(node, ast.Attribute) or node.attr in outer.stores_outside_init:
        return None
    made = outer.attribute(node.attr)
    return index.modules.get(index.resolve(made.func) or "") if isinstance(made, ast.Call) else None


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


def initialises(index: FileIndex, call: ast.AST | None, node: ast.AST) -> bool:
    """Whether a call of a function of the file only sets initial values of the module `node`: `init(self.fc, 0.02)`."""
    helper = index.functions.get(index.resolve(call.func) or "") if isinstance(call, ast.Call) else None
    if helper is None or not isinstance(call, ast.Call) or not isinstance(helper.tree, ast.FunctionDef):
        return False
    names = [arg.arg for arg in (*helper.tree.args.posonlyargs, *helper.tree.args.args)]
    taken = [name for name, given in zip(names, call.args, strict=False) if given is node]
    uses = [one for one in helper.nodes if isinstance(one, ast.Name) and one.id in taken]
    gives = any(isinstance(one, ast.Return) and one.value is not None for one in helper.nodes)
    return bool(uses) and not gives and all(_is_harmless(index, helper, one) for one in uses)


def _is_harmless(index: FileIndex, definition: Definition, node: ast.expr) -> bool:
    """Whether only sizes are read or initial values set: `x.fc.in_features`, `nn.init.zeros_(x.fc.bias)`."""
    parents = _parents(definition)
    if initialises(index, parents.get(node), node):
        return True
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
    if isinstance(parent, ast.Compare):
        return len(chain) == 1 and isinstance(parent.comparators[0], ast.Constant)  # `fc.bias is not None`
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
