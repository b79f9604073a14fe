"""Post-norm blocks become pre-norm: each sublayer sees norm(x), and the residual stays raw."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import libcst as cst

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Edit,
    Finding,
    Insert,
    MovedNormPart,
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
    Swap,
)
from migrator.recognise.blocks import Block, Sublayer, blocks, flagged, norms
from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.composition import users_of
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.layer_norms import Home, Move, moves
from migrator.recognise.spelling import free_name
from migrator.recognise.stacks import Stack, stacks
from migrator.recognise.values import Value

_CHANGES = (("normalised output", "the block gives out the raw residual sum; the stack's final norm bounds it"),)
_SIZES = ("shape", "size", "getattr")  # what a norm does not change


@dataclass(frozen=True)
class _Branch:
    """One norm to be moved: its call, and the statement and expressions by which the sublayer takes the residual."""

    definition: Definition
    norm: str
    norm_call: Value
    statement: ast.stmt
    inputs: tuple[ast.expr, ...]
    name: str  # for the normalised residual, where it is said several times


class PreNorm(Codemod):
    """x = norm(x + sublayer(x)) -> x = x + sublayer(norm(x))."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "With the norms inside the branches gradients pass the residual stream unhindered at any depth."
    reference = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv 2002.04745"
    formula = "x = norm(x + f(x))  ->  x = x + f(norm(x))"
    refusals = {
        "entry-unknown": "where the sublayer takes its input is not plain",
        "shared-norm": "one norm serves several sublayers, or something beside them",
        "norm-output-used": "something beside the residual stream takes the normalised sum, or the raw one",
        "no-stack": "the block is also used where no final norm could take over",
        "subclassed": "another class builds on the block",
        "flag": "a condition decides where the norms sit",
        "norm-unknown": "the norms are not torch's",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for block in blocks(index).values():
            if block.placement == "post":
                yield _finding(index, block)
        for move in moves(index):
            yield from _of_layers(index, move)
        for info in flagged(index):
            place = Place.of(info.name, info.methods["forward"], info.definition)
            seen = "a flag decides where the norms sit"
            yield Refusal(place, "flag", seen, "write the case that you use as a class of its own")

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        branches: tuple[_Branch, ...] = site.part
        for branch in branches:
            definition, norm, inputs = branch.definition, branch.norm, branch.inputs
            yield from _without_norm(branch)
            if len(inputs) == 1:
                yield Replace(definition, inputs[0], f"self.{norm}({definition.source(inputs[0])})")
                continue
            code = f"{branch.name} = self.{norm}({ast.unparse(inputs[0])})"
            yield Insert(definition, branch.statement, code, "before")
            for node in inputs:
                yield Replace(definition, node, branch.name)


def _without_norm(branch: _Branch) -> Iterator[AnyEdit]:
    """`x = norm(x + y)` -> `x = x + y`; `x = norm(x)` goes."""
    definition, call = branch.definition, branch.norm_call
    assert isinstance(call.node, ast.Call) and call.statement is not None
    statement, argument = call.statement, call.node.args[0]
    alone = isinstance(statement, ast.Assign) and statement.value is call.node and len(statement.targets) == 1
    if alone and isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == ast.unparse(argument):
        yield Remove(definition, statement)
    else:
        yield Edit(definition, call.node, _argument)


def _argument(node: cst.CSTNode) -> cst.CSTNode:
    """`x + y` of `norm(x + y)`."""
    call = cast(cst.Call, node)
    given = call.args[0]
    value = given.value
    lines = cst.Module(body=[]).code_for_node(call).count("\n")
    if not lines or value.lpar:
        return value
    closing = given.comma.whitespace_after if isinstance(given.comma, cst.Comma) else given.whitespace_after_arg
    opened = cst.LeftParen(whitespace_after=call.whitespace_before_args)
    return value.with_changes(lpar=[opened], rpar=[cst.RightParen(whitespace_before=closing)])


def _finding(index: FileIndex, block: Block) -> Finding:
    info = block.info
    place = Place.of(info.name, info.methods["forward"], info.definition)
    used = [sublayer.norm for sublayer in block.sublayers]
    refusal = _shared_norm(index, block, place) or _reader(index, block, place)
    if refusal is not None:
        return refusal
    entries = []
    normed = free_name(index, info.definition, "normed", "normed_input")
    for sublayer in block.sublayers:
        entry = _entry(block, sublayer)
        if entry is None:
            seen = f"the branch that `self.{sublayer.norm}` closes does not begin with one call on the residual"
            return Refusal(place, "entry-unknown", seen, "call the sublayer on x itself")
        call, inputs = entry
        assert sublayer.norm_call is not None
        branch = _Branch(info.definition, sublayer.norm, sublayer.norm_call, _statement(block, call), inputs, normed)
        entries.append(branch)
    refusal = _outside(index, block, place)
    if refusal is not None:
        return refusal
    claim = Claim(
        (info.name,),
        (info.name,),
        off=tuple(_swap(branch) for branch in entries),
        parts=tuple(MovedNormPart(info.name, sublayer.norm) for sublayer in block.sublayers),
        changes=_CHANGES,
    )
    return Site(place, f"post-norm -> pre-norm ({', '.join(used)})", claim, tuple(entries))


def _of_layers(index: FileIndex, move: Move) -> Iterator[Finding]:
    """Layers whose norms stand in other classes: all that share one of those move together."""
    for layer in move.layers if move.reason is not None else ():
        assert move.reason is not None
        node = layer.pairs.statement if layer.pairs is not None else layer.info.node
        yield Refusal(Place.of(layer.name, node, layer.info.definition), *move.reason)
    if move.reason is None:
        branches = tuple(_home_branch(index, home) for home in move.homes.values())
        names = tuple(layer.info.name for layer in move.layers)
        parts = tuple(MovedNormPart(layer, path) for layer, path in move.norms())
        off = tuple(_swap(branch) for branch in branches)
        inside = tuple(name for name, home in move.homes.items() if home.takes_functions)
        claim = Claim(tuple(move.homes), names, off=off, parts=parts, changes=_CHANGES, inside=inside)
        first = next(iter(move.homes.values()))
        place = Place.of(first.info.name, first.flow.function, first.info.definition)
        yield Site(
            place, f"post-norm -> pre-norm (in {' and '.join(move.homes)}, for {', '.join(names)})", claim, branches
        )


def _home_branch(index: FileIndex, home: Home) -> _Branch:
    definition = home.info.definition
    first = home.entries[0][0].statement
    assert first is not None
    inputs = tuple(node for _, nodes in home.entries for node in nodes)
    name = free_name(index, definition, "normed", "normed_input")
    return _Branch(definition, home.norm_call.data, home.norm_call, first, inputs, name)


def _shared_norm(index: FileIndex, block: Block, place: Place) -> Refusal | None:
    used = {sublayer.norm for sublayer in block.sublayers}
    remedy = "give each sublayer a norm of its own"
    calls = [value for value in block.flow.values if value.op == "module" and value.data in used]
    for name in sorted(used):
        count = sum(value.data == name for value in calls)
        if count != 1:
            return Refusal(place, "shared-norm", f"`self.{name}` is called {count} times", remedy)
    own = {id(value.node.func) for value in calls if isinstance(value.node, ast.Call)}
    line = borrower(index, block.info, used, own | set(assigned_nodes(block.info, used)))
    return Refusal(place, "shared-norm", f"{line} uses a norm of the block too", remedy) if line else None


def _reader(index: FileIndex, block: Block, place: Place) -> Refusal | None:
    """Who beside the next sublayer takes a sum before or behind its norm: those would see other values."""
    remedy = "compute that from the output of the stack, or drop it"
    stored = {id(store.value) for store in block.flow.stores if store.kind == "attribute"}
    for sublayer, following in zip(block.sublayers, [*block.sublayers[1:], None], strict=True):
        assert sublayer.norm_call is not None
        inside = {id(value) for value in (*_branch(following), following.total)} if following else set()
        passing = _SIZES if following else (*_SIZES, "tuple")
        strangers = [u for u in sublayer.norm_call.users if id(u) not in inside and u.op not in passing]
        more = [u for u in sublayer.total.users if u is not sublayer.norm_call and u.op not in _SIZES]
        if strangers or more or stored & {id(sublayer.norm_call), id(sublayer.total)}:
            seen = f"the sum that `self.{sublayer.norm}` normalises is used beside the residual stream"
            return Refusal(place, "norm-output-used", seen, remedy)
    for stack in _stacks(index, block):
        if stack.result.op == "looped" and any(u is not stack.result for u in stack.result.args[2].users):
            seen = f"{stack.owner.name} uses what each block gives out, not the last one's output alone"
            return Refusal(place, "norm-output-used", seen, remedy)
    return None


def _stacks(index: FileIndex, block: Block) -> list[Stack]:
    return [stack for stack in stacks(index) if stack.block.info is block.info]


def _outside(index: FileIndex, block: Block, place: Place) -> Refusal | None:
    """Uses of the block that no stack with a final norm covers."""
    name = block.info.name
    if name in index.subclasses:
        seen = f"{index.subclasses[name][0]} derives from {name}"
        return Refusal(place, "subclassed", seen, "let it be a class of its own")
    remedy = "run the blocks in a loop or an nn.Sequential of one class"
    known = {(stack.owner.name, stack.component.attribute): stack for stack in _stacks(index, block)}
    covered = {id(c.call) for c in users_of(index, name) if (c.owner.name, c.attribute) in known}
    alone = [site for site in index.calls.get(name, []) if id(site.call) not in covered]
    if alone or not covered:
        seen = f"nothing in this file runs {name} in a stack that could end in a norm"
        if alone:
            line = alone[0].definition.line(alone[0].call)
            seen = f"line {line} builds {name} where no stack is seen that could end in a norm"
        return Refusal(place, "no-stack", seen, remedy)
    bare = [stack for stack in known.values() if not stack.normed]
    obstacle = next((stack.obstacle for stack in bare if stack.obstacle is not None), None)
    if obstacle is not None:
        return Refusal(place, "no-stack", *obstacle[1:])
    norm = norms(block.info)[block.sublayers[-1].norm]
    if bare and not any(
        isinstance(node, ast.Name) and node.id in block.info.init_parameters for node in ast.walk(norm)
    ):
        seen = f"whoever runs {name} cannot build `{ast.unparse(norm)}` from what it gives to {name}"
        return Refusal(place, "no-stack", seen, "build the norm from an argument of the block")
    return None


def _entry(block: Block, sublayer: Sublayer) -> tuple[ast.Call, tuple[ast.expr, ...]] | None:
    """The call that takes the residual in, and the arguments that are the residual; None if it enters elsewhere too."""
    entering = [value for value in _branch(sublayer) if any(arg is sublayer.residual for arg in value.operands())]
    entering = [value for value in entering if value.op not in ("size", "shape")]
    if len(entering) != 1 or not isinstance(entering[0].node, ast.Call):
        return None
    call = entering[0].node
    inputs = tuple(
        node
        for node, value in zip([*call.args, *(k.value for k in call.keywords)], entering[0].operands(), strict=False)
        if value is sublayer.residual
    )
    plain = entering[0].op == "module" and all(isinstance(node, ast.Name) for node in inputs)
    if not plain and not (entering[0].op == "module" and len(inputs) == 1):
        return None
    return call, inputs


def _branch(sublayer: Sublayer) -> list[Value]:
    """All values of the branch, without the residual and what lies behind it."""
    seen: list[Value] = []
    todo = [sublayer.branch]
    while todo:
        value = todo.pop()
        if value not in seen and value is not sublayer.residual:
            seen.append(value)
            todo.extend(value.operands())
    return seen


def _statement(block: Block, call: ast.Call) -> ast.stmt:
    statement = next(v.statement for v in block.flow.values if v.node is call)
    assert statement is not None
    return statement


def _swap(branch: _Branch) -> Swap:
    node = branch.norm_call.node
    assert isinstance(node, ast.Call)
    return Swap.of(branch.definition, node, f"({branch.definition.source(node.args[0])})")
