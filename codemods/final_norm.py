"""A pre-norm stack gets the final norm that its residual stream needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Finding,
    Insert,
    Modern,
    NormPart,
    Phase,
    Place,
    Promise,
    Refusal,
    Replace,
    Site,
)
from migrator.recognise.blocks import Block, norms
from migrator.recognise.index import FileIndex
from migrator.recognise.stacks import Stack, stacks
from migrator.recognise.syntax import bind


@dataclass(frozen=True)
class _Part:
    stack: Stack
    attribute: str
    norm: str


class FinalNorm(Codemod):
    """x = self.trunk(x) -> x = self.final_norm(self.trunk(x)), for pre-norm stacks without one."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = (
        "In a pre-norm stack nothing bounds the residual stream, so its sum has to be normalised once at the end."
    )
    reference = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv 2002.04745"
    after = ("pre_norm",)
    refusals = {
        "norm-unknown": "the norm of the blocks cannot be built from what the stack's `__init__` knows",
        "one-of-several": "the stack's output is used in more than one place",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for stack in stacks(index):
            if stack.block.placement != "pre":
                continue
            place = Place.of(stack.owner.name, stack.statement, stack.owner.definition)
            if stack.normed:
                yield Modern(place, f"the stack's output is normalised by {stack.normed}")
            else:
                yield _finding(stack, place)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        stack, definition = part.stack, part.stack.owner.definition
        yield Insert(definition, stack.component.assignment.statement, f"self.{part.attribute} = {part.norm}")
        name = _assigned_name(stack)
        if name is not None:
            yield Insert(definition, stack.statement, f"{name} = self.{part.attribute}({name})")
        else:
            assert stack.result.node is not None
            inner = definition.source(stack.result.node)
            yield Replace(definition, stack.result.node, f"self.{part.attribute}({inner})")


def _finding(stack: Stack, place: Place) -> Finding:
    norm = _norm(stack.block, stack)
    if norm is None:
        seen = f"the norm of {stack.block.info.name} takes values that {stack.owner.name}.__init__ does not have"
        return Refusal(place, "norm-unknown", seen, "build the norm from an argument of the block")
    if _assigned_name(stack) is None and stack.result.node is None:
        return Refusal(
            place, "one-of-several", "the loop over the blocks keeps its result in no single name", "name it"
        )
    attribute = next(
        n for n in ("final_norm", "norm_out", "stack_norm") if n not in {*stack.owner.attributes, *stack.owner.methods}
    )
    part = NormPart(stack.owner.name, attribute, stack.component.attribute)
    claim = Claim((stack.owner.name,), (stack.owner.name,), parts=(part,))
    message = f"no norm after the pre-norm stack `{stack.component.attribute}` -> self.{attribute} = {norm}"
    return Site(place, message, claim, _Part(stack, attribute, norm))


def _assigned_name(stack: Stack) -> str | None:
    """The name that holds the result right after the statement."""
    statement = stack.statement
    if isinstance(statement, ast.Assign) and statement.value is stack.result.node:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    if isinstance(statement, ast.For):
        called = stack.result.args[2].statement
        if isinstance(called, ast.Assign) and isinstance(called.targets[0], ast.Name):
            return called.targets[0].id
    return None


def _norm(block: Block, stack: Stack) -> str | None:
    """The blocks' own kind of norm, in terms of the stack's `__init__`."""
    name = block.sublayers[-1].norm
    call = norms(block.info).get(name)
    bound = bind(block.info.init_parameters, stack.component.call)
    if call is None or bound is None or len(call.args) != 1:
        return None
    width = _width(call.args[0])
    if not isinstance(width, ast.Name) or width.id not in bound:
        return None
    extras = [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
    if any(not isinstance(k.value, ast.Constant) for k in call.keywords):
        return None
    argument = ast.unparse(bound[width.id])
    return f"{ast.unparse(call.func)}({', '.join([argument, *extras])})"


def _width(node: ast.expr) -> ast.expr:
    """`dim` of `dim`, `(dim,)` and `[dim]`."""
    if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 1:
        return node.elts[0]
    return node
