"""The text itself: nothing changes that no claim covers, and interfaces stay."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrator.codemod import Claim
from migrator.prove.ledger import Ledger
from migrator.recognise.index import FileIndex
from migrator.rewrite.plan import Stage

Function = ast.FunctionDef | ast.AsyncFunctionDef
_MODULE_LEVEL = "module level"


def check_scope(ledger: Ledger, stage: Stage) -> None:
    """Compare the two texts of a stage statement by statement."""
    allowed = {name for claim in stage.claims for name in claim.definitions}
    before, after = _statements(stage.before), _statements(stage.after)
    problems = [*_changed(before, after, allowed), *_interfaces(before, after)]
    for symbol, message in problems:
        ledger.add("scope", symbol, False, message)
    if not problems:
        names = ", ".join(sorted(allowed))
        ledger.add("scope", _symbol(stage.claims), True, f"only {names} changed, and no signature")


def _symbol(claims: Sequence[Claim]) -> str:
    names = dict.fromkeys(name for claim in claims for name in (*claim.models, *claim.definitions))
    return next(iter(names), _MODULE_LEVEL)


@dataclass(frozen=True)
class _Statement:
    """A top-level statement: its name if it is a definition, and its text."""

    name: str
    text: str
    tree: ast.stmt

    @property
    def key(self) -> str:
        return self.name or self.text.strip()

    def same(self, other: _Statement) -> bool:
        """Comments and layout do not count."""
        return self.text == other.text or ast.dump(self.tree) == ast.dump(other.tree)


def _statements(text: str) -> list[_Statement]:
    """Top-level statements; imports of the runtime, which a stage may add, are left out."""
    found = FileIndex(text).definitions
    return [
        _Statement(d.tree.name if isinstance(d.tree, Function | ast.ClassDef) else "", d.text, d.tree)
        for d in found if not _imports_runtime(d.tree)
    ]  # fmt: skip


def _imports_runtime(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and (node.module or "").split(".")[0] == "runtime"
    return isinstance(node, ast.Import) and all(alias.name.split(".")[0] == "runtime" for alias in node.names)


def _changed(before: list[_Statement], after: list[_Statement], allowed: set[str]) -> Iterator[tuple[str, str]]:
    if [statement.key for statement in before] != [statement.key for statement in after]:
        yield from _missing(before, after)
        return
    for old, new in zip(before, after, strict=True):
        if old.name not in allowed and not old.same(new):
            yield old.name or _MODULE_LEVEL, "its text changed, and no claim covers it"


def _missing(before: list[_Statement], after: list[_Statement]) -> Iterator[tuple[str, str]]:
    """Statements that only one of the texts has."""
    old, new = {statement.key for statement in before}, {statement.key for statement in after}
    gone = [(statement, "is gone") for statement in before if statement.key not in new]
    added = [(statement, "is new") for statement in after if statement.key not in old]
    for statement, what in gone + added:
        first = statement.text.strip().splitlines()[0][:60]
        yield statement.name or _MODULE_LEVEL, f"`{first}` {what}, and no claim covers it"
    if not gone and not added:
        yield _MODULE_LEVEL, "the order of its statements changed"


# --- interfaces -----------------------------------------------------------------------------------------------------


def _interfaces(before: list[_Statement], after: list[_Statement]) -> Iterator[tuple[str, str]]:
    new = {statement.name: statement for statement in after if statement.name}
    for old in before:
        other = new.get(old.name)
        if other is not None and not old.same(other):
            yield from _interface(old.name, old.tree, other.tree)


def _interface(name: str, old: ast.stmt, new: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(old, Function) and isinstance(new, Function):
        if _signature(old) != _signature(new):
            yield name, f"its signature changed from `{ast.unparse(old.args)}` to `{ast.unparse(new.args)}`"
        return
    if not isinstance(old, ast.ClassDef) or not isinstance(new, ast.ClassDef):
        yield name, "it is another kind of definition"
        return
    if [ast.dump(base) for base in old.bases] != [ast.dump(base) for base in new.bases]:
        yield name, "its bases changed"
    methods = {item.name: item for item in new.body if isinstance(item, Function)}
    for method in (item for item in old.body if isinstance(item, Function)):
        other = methods.get(method.name)
        if other is None:
            yield name, f"its method {method.name} is gone"
        elif _signature(method) != _signature(other):
            yield name, f"the signature of {method.name} changed to `{ast.unparse(other.args)}`"


def _signature(function: Function) -> tuple[str, str, bool]:
    """Parameters with defaults, and what the function says to return; a generator or coroutine is another kind."""
    returns = ast.dump(function.returns) if function.returns else ""
    return ast.dump(function.args), returns, isinstance(function, ast.AsyncFunctionDef)
