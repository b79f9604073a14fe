"""Where a file's imports stand, and how one more gets in."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from migrator.codemod import Import
from migrator.recognise.index import Definition, FileIndex


def with_imports(index: FileIndex, wanted: Sequence[Import]) -> dict[int, str]:
    """New texts, by position of the definition, that add what the file does not import yet."""
    missing = sorted({item for item in wanted if not _present(index, item)}, key=lambda item: (item.module, item.name))
    texts: dict[int, str] = {}
    for module in dict.fromkeys(item.module for item in missing):
        names = [item.name for item in missing if item.module == module and item.name]
        plain = any(item.module == module and not item.name for item in missing)
        _add(index, module, names, plain, texts)
    return texts


def without_unused(before: FileIndex, after: FileIndex) -> dict[int, str]:
    """New texts, by position of the definition, without names of the runtime that nothing uses any more."""
    texts: dict[int, str] = {}
    for position, definition in enumerate(after.definitions):
        node = definition.tree
        if not _imports_from(definition, "runtime") or not isinstance(node, ast.ImportFrom):
            continue
        kept = [alias for alias in node.names if not (_uses(before, alias) and not _uses(after, alias))]
        if len(kept) < len(node.names):
            names = [alias.name if alias.asname is None else f"{alias.name} as {alias.asname}" for alias in kept]
            texts[position] = _from_line("runtime", names, _newline(definition)) if names else ""
    return texts


def _uses(index: FileIndex, alias: ast.alias) -> bool:
    """Whether anything but an import speaks the name."""
    name = alias.asname or alias.name
    others = (d for d in index.definitions if not isinstance(d.tree, ast.Import | ast.ImportFrom))
    return any(name in definition.text for definition in others)


def _present(index: FileIndex, item: Import) -> bool:
    if not item.name:
        return index.imports.get(item.module) == item.module
    name, _, alias = item.name.partition(" as ")
    return index.imports.get(alias or name) == f"{item.module}.{name}"


def _add(index: FileIndex, module: str, names: list[str], plain: bool, texts: dict[int, str]) -> None:
    existing = next((p for p, d in enumerate(index.definitions) if _imports_from(d, module)), None)
    if names and existing is not None:
        node = index.definitions[existing].tree
        assert isinstance(node, ast.ImportFrom)
        old = [alias.name if alias.asname is None else f"{alias.name} as {alias.asname}" for alias in node.names]
        texts[existing] = _from_line(module, [*old, *names], _newline(index.definitions[existing]))
        names = []
    lines = [_from_line(module, names, "\n")] if names else []
    if plain:
        lines.append(f"import {module}\n")
    if not lines:
        return
    position = _last_of_first_run(index)
    anchor = index.definitions[position]
    text = texts.get(position, anchor.text)
    newline = _newline(anchor)
    added = "".join(lines).replace("\n", newline)
    if isinstance(anchor.tree, ast.Import | ast.ImportFrom) or _is_docstring(anchor):
        gap = newline if _is_docstring(anchor) else ""
        texts[position] = (text if text.endswith(("\n", "\r")) else text + newline) + gap + added
    else:
        texts[position] = added + newline * 2 + text


def _imports_from(definition: Definition, module: str) -> bool:
    node = definition.tree
    plain = isinstance(node, ast.ImportFrom) and node.module == module and not node.level and node.names[0].name != "*"
    return plain and "#" not in definition.text and ";" not in definition.text


def _from_line(module: str, names: list[str], newline: str) -> str:
    """Constants, classes, functions: each in order, as import sorters put them."""
    unique = sorted(set(names), key=lambda name: (not name[:1].isupper(), name.lower()))
    line = f"from {module} import {', '.join(unique)}"
    if len(line) <= 100:
        return line + newline
    body = "".join(f"    {name},{newline}" for name in unique)
    return f"from {module} import ({newline}{body}){newline}"


def _last_of_first_run(index: FileIndex) -> int:
    """Position of the last import before the first definition; without one, of the first statement."""
    found = 0
    for position, definition in enumerate(index.definitions):
        if isinstance(definition.tree, ast.Import | ast.ImportFrom):
            found = position
        elif not isinstance(definition.tree, ast.Assign | ast.Expr):
            break
    return found


def _is_docstring(definition: Definition) -> bool:
    node = definition.tree
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _newline(definition: Definition) -> str:
    for end in ("\r\n", "\n", "\r"):
        if end in definition.text:
            return end
    return "\n"
