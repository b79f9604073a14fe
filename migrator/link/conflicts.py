"""Whether files can be read as one text: a name has to mean the same in all of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from migrator.link.siblings import Member, Siblings
from migrator.recognise.bindings import import_nodes
from migrator.recognise.index import Definition
from migrator.recognise.syntax import FunctionNode

_OF_THE_FILE = frozenset({"__all__", "__author__", "__copyright__", "__doc__", "__license__", "__version__"})
_PART = "a part"


def conflict(siblings: Siblings, members: Sequence[Member]) -> str:
    """What keeps these files from being read as one, or nothing."""
    inside = {member.path for member in members}
    owners: dict[str, list[Member]] = {}
    for member in members:
        for name in member.bound.keys() - _OF_THE_FILE:
            owners.setdefault(name, []).append(member)
    for name in sorted(name for name, several in owners.items() if len(several) > 1):
        meanings = {member: _meaning(siblings, member, name, inside) for member in owners[name]}
        apart = _apart(meanings)
        if apart is not None:
            return f"`{name}` is one thing in {apart[0].path.name} and another in {apart[1].path.name}"
    one_package = len({member.package for member in members}) == 1
    return next(filter(None, (_odd_import(siblings, m, inside, one_package=one_package) for m in members)), "")


def _apart(meanings: dict[Member, set[str]]) -> tuple[Member, Member] | None:
    """Two files that mean different things by a name; one that has it from the others means nothing of its own."""
    first: Member | None = None
    for member, meaning in meanings.items():
        if meaning and first is None:
            first = member
        elif meaning and first is not None and (meaning != meanings[first] or _PART in meaning):
            return first, member
    return None


def _meaning(siblings: Siblings, member: Member, name: str, inside: set[Path]) -> set[str]:
    """What a module-level name of a file stands for, as texts that are the same where the meaning is."""
    meaning: set[str] = set()
    for binder in member.bound[name]:
        if isinstance(binder, Definition):
            if not _is_main_guard(binder):
                meaning |= {binder.text.strip(), *([_PART] if _is_part(binder) else [])}
            continue
        node, dotted = binder
        if not isinstance(node, ast.ImportFrom):
            meaning.add(dotted)
        elif not comes_from(siblings, member, node, name, inside):
            meaning.add(_absolute(siblings, member, node, dotted))
    return meaning


def _absolute(siblings: Siblings, member: Member, node: ast.ImportFrom, dotted: str) -> str:
    """The dotted name, with the file in place of a module of the user's own."""
    path = siblings.file_of(member, node)
    return dotted if path is None else f"{path}: {dotted.rpartition('.')[2]}"


def _is_main_guard(definition: Definition) -> bool:
    tree = definition.tree
    return isinstance(tree, ast.If) and "__name__" in ast.unparse(tree.test)


def _is_part(definition: Definition) -> bool:
    """Whether it may be rewritten, of which there must not be two."""
    words = ("softmax", "sin", "cos", "attention")
    return isinstance(definition.tree, ast.ClassDef) or any(word in definition.text for word in words)


def _odd_import(siblings: Siblings, member: Member, inside: set[Path], *, one_package: bool) -> str:
    """An import that does not survive in a text of several files."""
    where = member.path.name
    for definition in member.index.definitions:
        tree = definition.tree
        nested = isinstance(tree, FunctionNode | ast.ClassDef) and "import " in definition.text
        for node in definition.nodes if nested else ():
            if isinstance(node, ast.ImportFrom) and node.level and not one_package:
                return f"{where} has a relative import inside of a definition"
        ours = [
            node for node in import_nodes(definition)
            if isinstance(node, ast.ImportFrom) and leads_inside(siblings, member, node, inside)
        ]  # fmt: skip
        if ours and (not isinstance(tree, ast.ImportFrom) or _shares_its_line(member, definition)):
            return f"{where} imports from its siblings inside of another statement"
        if any(alias.asname not in (None, alias.name) for node in ours for alias in node.names):
            return f"{where} imports a sibling's part under another name"
    return ""


def leads_inside(siblings: Siblings, member: Member, node: ast.ImportFrom, inside: set[Path]) -> bool:
    """Whether an import brings anything that is defined in one of the files `inside`."""
    return any(comes_from(siblings, member, node, alias.name, inside) for alias in node.names)


def comes_from(siblings: Siblings, member: Member, node: ast.ImportFrom, name: str, inside: set[Path]) -> bool:
    """Whether a name that is imported has its meaning in one of the files `inside`."""
    path = siblings.file_of(member, node)
    if path is not None and path in inside:
        return True
    origin = siblings.origin(member, node, name)
    return origin is not None and origin.path in inside


def _shares_its_line(member: Member, definition: Definition) -> bool:
    others = (d for d in member.index.definitions if d is not definition)
    return any(d.first_line <= definition.last_line and definition.first_line <= d.last_line for d in others)
