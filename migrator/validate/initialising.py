"""The function that a script hands to `model.apply`, so that models start in a validation as they do in the script."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from migrator.recognise.index import FileIndex

if TYPE_CHECKING:
    import types

    from torch import nn


def initialiser(index: FileIndex) -> str:
    """The source of the one function that the file applies to its models; empty if there is none, or more than one."""
    functions = {
        node.name: node for d in index.definitions for node in ast.walk(d.tree) if isinstance(node, ast.FunctionDef)
    }
    applied = {
        node.args[0].id
        for definition in index.definitions
        for node in ast.walk(definition.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "apply"
        and len(node.args) == 1 and isinstance(node.args[0], ast.Name) and not _is_own(node.func.value)
    }  # fmt: skip
    found = [functions[name] for name in applied if name in functions and len(functions[name].args.args) == 1]
    return ast.unparse(found[0]) if len(found) == 1 else ""


def initialise(module: nn.Module, source: str, space: types.ModuleType) -> None:
    """Apply such a function to a model, where the names of the file's module are known; "" does nothing."""
    if source:
        names = dict(vars(space))
        exec(source, names)
        module.apply(names[source.removeprefix("def ").partition("(")[0]])


def _is_own(value: ast.expr) -> bool:
    """`self.apply(...)` runs when the model is built anyway."""
    return isinstance(value, ast.Name) and value.id == "self"
