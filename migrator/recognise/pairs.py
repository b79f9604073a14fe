"""Blocks without a class: `layers.append(nn.ModuleList([Attention(...), FeedForward(...)]))`, run in a loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.attention import attending_classes
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import first_parameter


@dataclass(frozen=True, eq=False)
class Pairs:
    """`owner.attribute` holds nn.ModuleLists of `members`, all built by `statement` of `__init__`."""

    owner: ClassInfo
    attribute: str
    members: tuple[ast.expr, ...]
    statement: ast.stmt


@dataclass(frozen=True)
class Partner:
    """A module that stands beside an attention in the pairs of `owner.attribute`: `call` builds it."""

    owner: ClassInfo
    attribute: str
    name: str
    call: ast.Call


def partners(index: FileIndex) -> list[Partner]:
    """Every module of a class of this file that stands beside an attention."""
    if "partners" not in index.memo:
        index.memo["partners"] = [one for info in index.modules.values() for one in _of_class(index, info)]
    found: list[Partner] = index.memo["partners"]
    return found


def pairs_of(info: ClassInfo) -> list[Pairs]:
    """The lists of pairs that `__init__` fills in one place each, and that some loop runs."""
    key = ("pairs", info.node)
    if key not in info.index.memo:
        found = list(_pairs(info)) if "ModuleList" in info.definition.text else []
        names = [pairs.attribute for pairs in found]
        once = [pairs for pairs in found if names.count(pairs.attribute) == 1]
        info.index.memo[key] = [pairs for pairs in once if _looped_over(info, pairs.attribute, len(pairs.members))]
    result: list[Pairs] = info.index.memo[key]
    return result


def _of_class(index: FileIndex, info: ClassInfo) -> Iterator[Partner]:
    attending = attending_classes(index)
    for pairs in pairs_of(info) if attending else ():
        built = [list(_built(index, member)) for member in pairs.members]
        beside = [calls for calls in built if not attending & {_named(call) for call in calls}]
        if len(beside) < len(built):
            for calls in beside:
                if calls:  # the innermost, in `PreNorm(dim, FeedForward(dim))`
                    yield Partner(info, pairs.attribute, _named(calls[-1]), calls[-1])


def _pairs(info: ClassInfo) -> Iterator[Pairs]:
    init = info.methods.get("__init__")
    for statement in init.body if init is not None else ():
        for node in ast.walk(statement):
            for attribute, value in _listed(info, node, first_parameter(init)):
                members = _members(info.index, value)
                if members is not None:
                    yield Pairs(info, attribute, members, statement)


def _listed(info: ClassInfo, node: ast.AST, self_name: str) -> Iterator[tuple[str, ast.expr]]:
    """(attribute, one pair) of `self.name.append(pair)` and of `self.name = nn.ModuleList([pair for ...])`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
        held = node.func.value
        if _is_own(held, self_name) and isinstance(held, ast.Attribute) and len(node.args) == 1:
            yield held.attr, node.args[0]
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and _is_own(node.targets[0], self_name):
        target, made = node.targets[0], node.value
        listed = made.args[0] if isinstance(made, ast.Call) and len(made.args) == 1 else None
        in_list = isinstance(made, ast.Call) and info.index.resolve(made.func) == "torch.nn.ModuleList"
        if in_list and isinstance(target, ast.Attribute) and isinstance(listed, ast.ListComp | ast.GeneratorExp):
            yield target.attr, listed.elt


def _is_own(node: ast.expr, self_name: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == self_name


def _members(index: FileIndex, pair: ast.expr) -> tuple[ast.expr, ...] | None:
    if not isinstance(pair, ast.Call) or index.resolve(pair.func) != "torch.nn.ModuleList":
        return None
    listed = pair.args[0] if len(pair.args) == 1 else None
    return tuple(listed.elts) if isinstance(listed, ast.List) else None


def _built(index: FileIndex, member: ast.expr) -> Iterator[ast.Call]:
    """Calls of the file's own classes in an expression, from the outside in."""
    for node in ast.walk(member):
        if isinstance(node, ast.Call) and _named(node) in index.modules:
            yield node


def _named(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _looped_over(info: ClassInfo, attribute: str, size: int) -> bool:
    """Whether forward runs the members in `for attn, ff in self.attribute`."""
    forward = info.methods.get("forward")
    loops = [node for node in ast.walk(forward) if isinstance(node, ast.For)] if forward is not None else []
    wanted = f"{first_parameter(forward)}.{attribute}"
    return any(
        ast.unparse(loop.iter) == wanted and isinstance(loop.target, ast.Tuple) and len(loop.target.elts) == size
        for loop in loops
    )
