"""Blocks without a class: `layers.append(nn.ModuleList([Attention(...), FeedForward(...)]))`, run in a loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.attention import attention_classes
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import first_parameter


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


def _of_class(index: FileIndex, info: ClassInfo) -> Iterator[Partner]:
    attending = set(attention_classes(index))
    if not attending or "ModuleList" not in info.definition.text:
        return
    for attribute, members in _pairs(index, info):
        built = [list(_built(index, member)) for member in members]
        beside = [calls for calls in built if not attending & {_named(call) for call in calls}]
        if len(beside) < len(built) and _looped_over(info, attribute, len(members)):
            for calls in beside:
                if calls:  # the innermost, in `PreNorm(dim, FeedForward(dim))`
                    yield Partner(info, attribute, _named(calls[-1]), calls[-1])


def _pairs(index: FileIndex, info: ClassInfo) -> Iterator[tuple[str, list[ast.expr]]]:
    """(attribute, members) of each `self.attribute.append(nn.ModuleList([...]))` in `__init__`."""
    init = info.methods.get("__init__")
    for node in ast.walk(init) if init is not None else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "append":
            continue
        held, pair = node.func.value, node.args[0] if len(node.args) == 1 else None
        own = isinstance(held, ast.Attribute) and ast.unparse(held.value) == first_parameter(init)
        if own and isinstance(held, ast.Attribute) and isinstance(pair, ast.Call):
            listed = pair.args[0] if len(pair.args) == 1 else None
            if index.resolve(pair.func) == "torch.nn.ModuleList" and isinstance(listed, ast.List):
                yield held.attr, listed.elts


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
