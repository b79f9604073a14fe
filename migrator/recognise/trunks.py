"""Where a class runs its stack of transformer blocks, block by block or as a whole."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from migrator.recognise.attention import attentions
from migrator.recognise.blocks import blocks
from migrator.recognise.composition import Component, components, mentioned
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter, inner_statements

_CHECKPOINTS = "torch.utils.checkpoint"


@dataclass(frozen=True, eq=False)
class Run:
    """`call`, in `statement` of `method`, runs a block, or, if `whole`, all of them one after another."""

    method: FunctionNode
    statement: ast.stmt
    call: ast.Call
    whole: bool


@dataclass(eq=False)
class Trunk:
    """The stack of blocks at `path` of `owner`, and where it is run; `kind` is as in `Component`.

    `by_hand` are the places that recompute the blocks already.
    """

    owner: ClassInfo
    path: str
    kind: str
    members: list[Component]
    runs: list[Run] = field(default_factory=list)
    by_hand: list[Run] = field(default_factory=list)


def trunks(index: FileIndex) -> list[Trunk]:
    """All stacks of classes that attend, and single blocks, in order of the source."""
    attending = {found.flow.owner.name for found in attentions(index) if found.flow.owner is not None}
    attending |= {block.info.name for block in blocks(index).values()}
    found: list[Trunk] = []
    for info in index.classes.values():
        table: dict[str, Trunk] = {}
        for component in components(info):
            path = component.attribute
            if component.kind == "single" and component.name not in blocks(index):
                continue
            if any(part.name in attending for part in mentioned(index, component.name)):
                table.setdefault(path, Trunk(info, path, component.kind, [])).members.append(component)
        for trunk in table.values():
            _note_runs(trunk)
        found += [trunk for trunk in table.values() if trunk.runs or trunk.by_hand]
    return found


def _note_runs(trunk: Trunk) -> None:
    for name, method in trunk.owner.methods.items():
        if name != "__init__":
            source = f"{first_parameter(method)}.{trunk.path}"
            for statement, call, names in _calls(method.body, source, frozenset()):
                if _is_by_hand(trunk.owner.index, call, {*names, source}):
                    trunk.by_hand.append(Run(method, statement, call, False))
                elif ast.unparse(call.func) == source and trunk.kind != "list":
                    trunk.runs.append(Run(method, statement, call, True))
                elif _is_block(call.func, names, source) and _is_chained(statement, call):
                    trunk.runs.append(Run(method, statement, call, False))


def _calls(
    body: list[ast.stmt], source: str, names: frozenset[str]
) -> Iterator[tuple[ast.stmt, ast.Call, frozenset[str]]]:
    """Every call, with the innermost statement around it and what the loops around it call a block of the stack."""
    for statement in body:
        inner = inner_statements(statement)
        nested = {id(node) for one in inner for node in ast.walk(one)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and id(node) not in nested:
                yield statement, node, names
        looped = names | _blocks_of(statement, source) if isinstance(statement, ast.For) else names
        yield from _calls(inner, source, looped)


def _blocks_of(loop: ast.For, source: str) -> set[str]:
    """What a loop calls a block, if it goes over the stack or a part of it."""
    names: set[str] = set()
    for target, over in _walked(loop.target, loop.iter):
        over = over.value if isinstance(over, ast.Subscript) and isinstance(over.slice, ast.Slice) else over
        if isinstance(target, ast.Name) and ast.unparse(over) == source:
            names.add(target.id)
    return names


def _walked(target: ast.expr, over: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Pairs of loop variable and iterable, through `enumerate` and `zip`."""
    callee = over.func.id if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) else ""
    if isinstance(over, ast.Call) and callee in ("enumerate", "zip") and isinstance(target, ast.Tuple):
        parts = [ast.Constant(0), *over.args[:1]] if callee == "enumerate" else over.args
        for one, inner in zip(target.elts, parts, strict=False):
            yield from _walked(one, inner)
    else:
        yield target, over


def _is_block(func: ast.expr, names: Collection[str], source: str) -> bool:
    """`block`, or `self.blocks[i]`."""
    if isinstance(func, ast.Name):
        return func.id in names
    return (
        isinstance(func, ast.Subscript) and not isinstance(func.slice, ast.Slice) and ast.unparse(func.value) == source
    )


def _is_chained(statement: ast.stmt, call: ast.Call) -> bool:
    """Whether the result goes where the arguments came from, so that the blocks follow one another."""
    single = [statement.target] if isinstance(statement, ast.AugAssign | ast.AnnAssign) else []
    targets = statement.targets if isinstance(statement, ast.Assign) else single
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    return bool(_names(targets) & _names(arguments))


def _names(nodes: Iterable[ast.expr]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _is_by_hand(index: FileIndex, call: ast.Call, names: set[str]) -> bool:
    """`checkpoint(block, x)` in any spelling, and what this tool writes."""
    resolved = index.resolve(call.func) or ""
    known = resolved.startswith(_CHECKPOINTS) or resolved.endswith((".checkpointed", "_gradient_checkpointing_func"))
    inner = {ast.unparse(node) for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.expr)}
    return known and bool(inner & names)
