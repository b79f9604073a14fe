"""Whether files can be read as one text: a name has to mean the same in all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.link.siblings import Member, Siblings
from migrator.recognise.bindings import bound_at_top, import_nodes
from migrator.recognise.index import Definition
from migrator.recognise.syntax import FunctionNode, imported_names

_OF_THE_FILE = frozenset({"__all__", "__author__", "__copyright__", "__doc__", "__license__", "__version__"})


def conflict(siblings: Siblings, members: Sequence[Member]) -> str:
    """What keeps these files from being read as one, or nothing."""
    inside = {member.path for member in members}
    meanings: dict[str, _Meaning] = {}
    for member in members:
        for meaning in _meanings(siblings, member, inside):
            other = meanings.setdefault(meaning.name, meaning)
            if not other.agrees(meaning):
                first, second = other.member.path.name, meaning.member.path.name
                return f"`{meaning.name}` is one thing in {first} and another in {second}"
        odd = _odd_import(siblings, member, inside, one_package=len({other.package for other in members}) == 1)
        if odd:
            return odd
    return ""


@dataclass(frozen=True)
class _Meaning:
    """What a module-level name of a file stands for, as a text that is the same where the meaning is."""

    name: str
    member: Member
    what: str
    is_part: bool = False  # of which there must not be two, since both would have to be rewritten

    def agrees(self, other: _Meaning) -> bool:
        return self.member is other.member or (self.what == other.what and not self.is_part)


def _meanings(siblings: Siblings, member: Member, inside: set[Path]) -> Iterator[_Meaning]:
    for definition in member.index.definitions:
        if _is_main_guard(definition):
            continue
        for name in bound_at_top(definition) - _OF_THE_FILE:
            yield _Meaning(name, member, ast.dump(definition.tree), _is_part(definition))
        for node in import_nodes(definition):
            for name, dotted in imported_names(node):
                if isinstance(node, ast.ImportFrom) and comes_from(siblings, member, node, name, inside):
                    continue  # what it names is inside too, and has its meaning there
                yield _Meaning(name, member, _absolute(siblings, member, node, dotted))


def _is_part(definition: Definition) -> bool:
    words = ("softmax", "sin", "cos", "attention")
    return isinstance(definition.tree, ast.ClassDef) or any(word in definition.text for word in words)


def _absolute(siblings: Siblings, member: Member, node: ast.Import | ast.ImportFrom, dotted: str) -> str:
    """The dotted name, with the file in place of a module of the user's own."""
    path = siblings.file_of(member, node) if isinstance(node, ast.ImportFrom) else None
    return dotted if path is None else f"{path}: {dotted.rpartition('.')[2]}"


def _is_main_guard(definition: Definition) -> bool:
    tree = definition.tree
    return isinstance(tree, ast.If) and "__name__" in ast.unparse(tree.test)


def _odd_import(siblings: Siblings, member: Member, inside: set[Path], *, one_package: bool) -> str:
    """An import that does not survive in a text of several files."""
    where = member.path.name
    for definition in member.index.definitions:
        tree = definition.tree
        for node in definition.nodes if isinstance(tree, FunctionNode | ast.ClassDef) else ():
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
    if path is not None and path.resolve() in inside:
        return True
    origin = siblings.origin(member, node, name)
    return origin is not None and origin.path in inside


def _shares_its_line(member: Member, definition: Definition) -> bool:
    others = (d for d in member.index.definitions if d is not definition)
    return any(d.first_line <= definition.last_line and definition.first_line <= d.last_line for d in others)
