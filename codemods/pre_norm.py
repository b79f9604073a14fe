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
    Replace,
    Site,
    Swap,
)
from migrator.recognise.blocks import Block, Sublayer, blocks
from migrator.recognise.index import FileIndex
from migrator.recognise.spelling import free_name
from migrator.recognise.values import Value


@dataclass(frozen=True)
class _Part:
    block: Block
    entries: tuple[tuple[Sublayer, ast.Call, tuple[ast.expr, ...]], ...]
    name: str


class PreNorm(Codemod):
    """x = norm(x + sublayer(x)) -> x = x + sublayer(norm(x))."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "With the norms inside the branches gradients pass the residual stream unhindered at any depth."
    reference = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv 2002.04745"
    refusals = {
        "entry-unknown": "where the sublayer takes its input is not plain",
        "shared-norm": "one norm serves several sublayers",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for block in blocks(index).values():
            if block.placement == "post":
                yield _finding(index, block)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.block.info.definition
        for sublayer, call, inputs in part.entries:
            assert sublayer.norm_call is not None and isinstance(sublayer.norm_call.node, ast.Call)
            yield Edit(definition, sublayer.norm_call.node, _argument)
            if len(inputs) == 1:
                yield Replace(definition, inputs[0], f"self.{sublayer.norm}({definition.source(inputs[0])})")
                continue
            statement = _statement(part.block, call)
            yield Insert(
                definition, statement, f"{part.name} = self.{sublayer.norm}({ast.unparse(inputs[0])})", "before"
            )
            for node in inputs:
                yield Replace(definition, node, part.name)


def _argument(node: cst.CSTNode) -> cst.CSTNode:
    """`x + y` of `norm(x + y)`."""
    return cast(cst.Call, node).args[0].value


def _finding(index: FileIndex, block: Block) -> Finding:
    info = block.info
    place = Place.of(info.name, info.methods["forward"], info.definition)
    used = [sublayer.norm for sublayer in block.sublayers]
    if len(set(used)) != len(used):
        return Refusal(place, "shared-norm", f"`self.{used[0]}` normalises more than one sum", "give each its own norm")
    entries = []
    for sublayer in block.sublayers:
        entry = _entry(block, sublayer)
        if entry is None:
            seen = f"the branch that `self.{sublayer.norm}` closes does not begin with one call on the residual"
            return Refusal(place, "entry-unknown", seen, "call the sublayer on x itself")
        entries.append((sublayer, *entry))
    name = free_name(index, info.definition, "normed", "normed_input")
    claim = Claim(
        (info.name,),
        (info.name,),
        off=tuple(swap for sublayer in block.sublayers for swap in _swap(block, sublayer)),
        parts=tuple(MovedNormPart(info.name, sublayer.norm) for sublayer in block.sublayers),
        changes=(("normalised output", "the block gives out the raw residual sum; the stack's final norm bounds it"),),
    )
    return Site(place, f"post-norm -> pre-norm ({', '.join(used)})", claim, _Part(block, tuple(entries), name))


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


def _swap(block: Block, sublayer: Sublayer) -> Iterator[Swap]:
    assert sublayer.norm_call is not None and isinstance(sublayer.norm_call.node, ast.Call)
    definition = block.info.definition
    node = sublayer.norm_call.node
    yield Swap.of(definition, node, f"({definition.source(node.args[0])})")
