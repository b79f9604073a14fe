"""The text itself: nothing changes that no claim covers, and interfaces stay."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
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
    problems = [*_changed(before, after, allowed), *_interfaces(before, after, Gains.of(stage.claims))]
    for symbol, message in problems:
        ledger.add("scope", symbol, False, message)
    if not problems:
        names = ", ".join(sorted(allowed))
        gained = [f"{name} gains {', '.join(new)}" for claim in stage.claims for name, new in claim.parameters]
        signatures = f"; of the signatures: {'; '.join(dict.fromkeys(gained))}" if gained else ", and no signature"
        ledger.add("scope", _symbol(stage.claims), True, f"only {names} changed{signatures}")


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


@dataclass(frozen=True)
class Gains:
    """What signatures and classes may get: parameters by function or "Class.method", bases by class."""

    parameters: Mapping[str, frozenset[str]]
    bases: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, claims: Sequence[Claim]) -> Gains:
        parameters: dict[str, frozenset[str]] = {}
        bases: dict[str, frozenset[str]] = {}
        for claim in claims:
            for function, names in claim.parameters:
                parameters[function] = parameters.get(function, frozenset()) | set(names)
            for name, base in claim.bases:
                bases[name] = bases.get(name, frozenset()) | {base}
        return cls(parameters, bases)

    def fit(self, name: str, old: Function, new: Function) -> bool:
        """Whether `new` takes what `old` takes, and beyond it only what it may gain, with defaults, at the end."""
        gained = self.parameters.get(name, frozenset())
        without = _without(new.args, gained)
        if without is None or ast.dump(without) != ast.dump(old.args):
            return False
        return type(old) is type(new) and _returns_fit(old.returns, new.returns, wider=bool(gained))


def _without(spec: ast.arguments, gained: frozenset[str]) -> ast.arguments | None:
    """The parameters without the gained ones; None if one of these has no default."""
    positional, defaults = list(spec.args), list(spec.defaults)
    while positional and positional[-1].arg in gained:
        if not defaults:
            return None
        positional.pop()
        defaults.pop()
    keywords = list(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    if any(arg.arg in gained and default is None for arg, default in keywords):
        return None
    keywords = [pair for pair in keywords if pair[0].arg not in gained]
    return ast.arguments(
        posonlyargs=spec.posonlyargs, args=positional, vararg=spec.vararg, kwonlyargs=[arg for arg, _ in keywords],
        kw_defaults=[default for _, default in keywords], kwarg=spec.kwarg, defaults=defaults,
    )  # fmt: skip


def _returns_fit(old: ast.expr | None, new: ast.expr | None, *, wider: bool) -> bool:
    """The same annotation, or, where there are new ways to call it, a union that begins with the old one."""
    if old is None or new is None:
        return old is new
    while wider and ast.dump(new) != ast.dump(old) and isinstance(new, ast.BinOp) and isinstance(new.op, ast.BitOr):
        new = new.left
    return ast.dump(old) == ast.dump(new)


def _interfaces(before: list[_Statement], after: list[_Statement], gains: Gains) -> Iterator[tuple[str, str]]:
    new = {statement.name: statement for statement in after if statement.name}
    for old in before:
        other = new.get(old.name)
        if other is not None and not old.same(other):
            yield from _interface(old.name, old.tree, other.tree, gains)


def _interface(name: str, old: ast.stmt, new: ast.stmt, gains: Gains) -> Iterator[tuple[str, str]]:
    if isinstance(old, Function) and isinstance(new, Function):
        if not gains.fit(name, old, new):
            yield name, f"its signature changed from `{ast.unparse(old.args)}` to `{ast.unparse(new.args)}`"
        return
    if not isinstance(old, ast.ClassDef) or not isinstance(new, ast.ClassDef):
        yield name, "it is another kind of definition"
        return
    allowed = gains.bases.get(name, frozenset())
    if [ast.dump(base) for base in old.bases] != [ast.dump(b) for b in new.bases if ast.unparse(b) not in allowed]:
        yield name, "its bases changed"
    methods = {item.name: item for item in new.body if isinstance(item, Function)}
    for method in (item for item in old.body if isinstance(item, Function)):
        other = methods.get(method.name)
        if other is None:
            yield name, f"its method {method.name} is gone"
        elif not gains.fit(f"{name}.{method.name}", method, other):
            yield name, f"the signature of {method.name} changed to `{ast.unparse(other.args)}`"
