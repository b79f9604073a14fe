"""How generated code is spelled in a given file: names that do not collide, calls that fit the line."""

from __future__ import annotations

import ast

from migrator.codemod import Import
from migrator.recognise.index import Definition, FileIndex

LINE_LIMIT = 100


def runtime_name(index: FileIndex, name: str) -> tuple[str, Import]:
    """What to call a runtime object in this file, and the import that this needs.

    `attention`, or `runtime.attention` where the file uses that word for something of its own.
    """
    for local, dotted in index.imports.items():
        if dotted == f"runtime.{name}":
            return local, Import("runtime", name)
    if name in bound_names(index):
        return f"runtime.{name}", Import("runtime")
    return name, Import("runtime", name)


def bound_names(index: FileIndex) -> set[str]:
    """Every name that anything in the file binds, at any level."""
    names: set[str] = set()
    for definition in index.definitions:
        names |= _bound(definition)
    return names


def free_name(index: FileIndex, definition: Definition, *wishes: str) -> str:
    """The first of the wishes that is neither bound inside the definition nor at module level."""
    module = {*index.imports, *index.classes, *index.functions, *index.constants}
    taken = _bound(definition) | module
    return next((name for name in wishes if name not in taken), f"{wishes[-1]}_")


def call(function: str, arguments: list[str], *, prefix: str = "", suffix: str = "", indent: int = 8) -> str:
    """`prefix function(arguments) suffix` in as few lines as fit: one, the arguments on their own line, or one each."""
    joined = ", ".join(arguments)
    line = f"{prefix}{function}({joined}){suffix}"
    if indent + len(line) <= LINE_LIMIT:
        return line
    if indent + 4 + len(joined) <= LINE_LIMIT:
        return f"{prefix}{function}(\n    {joined}\n){suffix}"
    body = "".join(f"    {argument},\n" for argument in arguments)
    return f"{prefix}{function}(\n{body}){suffix}"


def parenthesised(node: ast.expr, text: str) -> str:
    """`text` of `node`, in parentheses unless it binds as tightly as a name."""
    tight = ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant
    return text if isinstance(node, tight) else f"({text})"


def _bound(definition: Definition) -> set[str]:
    if "bound" not in definition.memo:
        names: set[str] = set()
        for node in ast.walk(definition.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.alias):
                names.add((node.asname or node.name).split(".")[0])
        definition.memo["bound"] = names
    bound: set[str] = definition.memo["bound"]
    return bound
