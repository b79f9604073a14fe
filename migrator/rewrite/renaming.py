"""The runtime under another module name: `from .modern import attention` for `from runtime import attention`.

Everything else in the tool knows the runtime by its own name; a file that imports it under another is read with that
name and written with the other, and so differs in nothing but the import.
"""

from __future__ import annotations

import ast
import re

from migrator.recognise.syntax import split_lines

RUNTIME = "runtime"
_IMPORT = re.compile(
    r"(?:^|;)[ \t]*(?:from\s+(\.?\w+)\s+import\b|import\s+(\w+)\s+as\s+runtime\b|from\s+\.\s+import\s+(\w+))", re.M
)


def imported_modules(text: str) -> set[str]:
    """Every module, `name` or `.name`, that the text may import the runtime from."""
    return {plain or alias or f".{beside}" for plain, alias, beside in _IMPORT.findall(text)}


def renamed(text: str, old: str, new: str) -> str:
    """The text with imports of the module `old` naming `new` instead."""
    if old == new:
        return text
    lines = split_lines(text)
    spelled = re.compile(rf"from(\s+){re.escape(old)}(?=\s+import\b)")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        line = lines[node.lineno - 1]
        head, statement = line[: node.col_offset], line[node.col_offset :]
        if isinstance(node, ast.ImportFrom) and "." * node.level + (node.module or "") == old:
            lines[node.lineno - 1] = head + spelled.sub(rf"from\g<1>{new}", statement, count=1)
        elif re.match(rf"{re.escape(_whole(old))}(?![\w.]|\s+as\b)", statement):
            lines[node.lineno - 1] = head + statement.replace(_whole(old), _whole(new), 1)
    return "".join(lines)


def runtime_names(text: str) -> set[str]:
    """What a text takes from the module `runtime`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == RUNTIME and not node.level:
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == RUNTIME:
            names.add(node.attr)
    return names


def _whole(module: str) -> str:
    """How the module itself is imported, to be called `runtime`."""
    name = module.removeprefix(".")
    alias = "" if name == RUNTIME else f" as {RUNTIME}"
    return f"from . import {name}{alias}" if module.startswith(".") else f"import {name}{alias}"
