"""A pre-norm stack gets the final norm that its residual stream needs."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
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
from migrator.recognise.layer_parts import keeps_more, layer_norm_source
from migrator.recognise.layers import own_norm, unread_pairs
from migrator.recognise.runs import RUN_REFUSALS
from migrator.recognise.stacks import Stack, call_of, layer_stacks, norm_of_their_own, result_place, stacks
from migrator.recognise.syntax import bind, stored_names
from migrator.recognise.values import strip


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
    formula = "y = norm(x_0 + f_1(norm(x_0)) + ... + f_2N(norm(x_2N-1)))"
    after = ("pre_norm",)
    refusals = {
        "norm-unknown": "the norm of the blocks cannot be built from what the stack's `__init__` knows",
        "conditional": "the stack is run under a condition, so that the norm would not always be used",
        "layout": "the place cannot be edited statement by statement",
        **RUN_REFUSALS,
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        found = [*stacks(index), *layer_stacks(index)]
        alone = Counter(stack.owner.name for stack in found if stack.last)
        for stack in found:
            own_kind = own_norm(stack.layer) if stack.layer is not None else norm_of_their_own(stack.block)
            if not stack.last or stack.block.placement != "pre" and not (own_kind and stack.layer is None):
                continue
            place = Place.of(stack.owner.name, stack.statement, stack.owner.definition)
            if stack.normed:
                yield Modern(place, f"the stack's output is normalised by {stack.normed}")
            elif own_kind:
                seen = f"{stack.name} normalises by {own_kind}, which is not torch's"
                yield Refusal(place, "norm-unknown", seen, "use nn.LayerNorm or nn.RMSNorm, or add the norm by hand")
            else:
                yield _finding(stack, place, alone[stack.owner.name] == 1)

        for pairs in unread_pairs(index):
            place = Place.of(pairs.owner.name, pairs.statement, pairs.owner.definition)
            seen = f"it cannot be told what the members of `{pairs.attribute}` compute"
            yield Refusal(place, "run-unknown", seen, "build them where they are listed, and add each to the residual")

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


def _finding(stack: Stack, place: Place, alone: bool) -> Finding:
    if stack.obstacle is not None:
        return Refusal(place, *stack.obstacle)
    if _is_kept(stack):
        seen = f"the results of `{stack.component.attribute}` are kept one by one"
        return Refusal(place, "one-of-several", seen, "normalise the last of them by hand")
    if _is_conditional(stack):
        seen = f"`{stack.component.attribute}` is run under a condition"
        return Refusal(place, "conditional", seen, "build an empty stack for the other case, and run it always")
    norm = layer_norm_source(stack) if stack.layer is not None else _norm(stack.block, stack)
    if norm is None:
        seen = f"the norm of {stack.name} takes values that {stack.owner.name}.__init__ does not have"
        return Refusal(place, "norm-unknown", seen, "build the norm from an argument of the block")
    if _assigned_name(stack) is None and stack.result.node is None:
        return Refusal(place, "run-unknown", "the loop over the blocks keeps its result in no single name", "name it")
    of_this_stack = f"{stack.component.attribute.replace('.', '_')}_norm"
    wishes = ("final_norm", "norm_out", "stack_norm") if alone else (of_this_stack,)
    taken = {*stack.owner.attributes, *stack.owner.methods}
    attribute = next((name for name in wishes if name not in taken), f"{wishes[-1]}_out")
    part = NormPart(stack.owner.name, attribute, stack.component.attribute, result_place(stack))
    claim = Claim((stack.owner.name,), (stack.owner.name,), parts=(part,))
    message = f"no norm after the pre-norm stack `{stack.component.attribute}` -> self.{attribute} = {norm}"
    return Site(place, message, claim, _Part(stack, attribute, norm))


def _is_kept(stack: Stack) -> bool:
    """Whether a loop does anything with the result of one block but hand it to the next."""
    if stack.result.op != "looped":
        return False
    if stack.layer is not None and stack.layer.pairs is not None:
        return keeps_more(stack)
    _, head, body, _ = stack.result.args
    return any(user not in (call_of(body), stack.result) for user in [*strip(body).users, *head.users])


def _is_conditional(stack: Stack) -> bool:
    return any(
        isinstance(outer, ast.If | ast.IfExp | ast.BoolOp | ast.Try | ast.While | ast.Match)
        and any(inner is stack.statement or inner is stack.result.node for inner in ast.walk(outer))
        for outer in ast.walk(stack.flow.function)
    )


def _assigned_name(stack: Stack) -> str | None:
    """The name that holds the result right after the statement."""
    statement = stack.statement
    if isinstance(statement, ast.Assign) and statement.value is stack.result.node and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return str(stack.result.data) if isinstance(statement, ast.For) and stack.result.op == "looped" else None


def _norm(block: Block, stack: Stack) -> str | None:
    """The blocks' own kind of norm, in terms of the stack's `__init__`."""
    call = norms(block.info).get(block.sublayers[-1].norm)
    if call is None:
        return None
    arguments = [_argument(block, stack, node) for node in call.args]
    arguments += [_argument(block, stack, k.value, f"{k.arg}=") for k in call.keywords]
    if any(argument is None for argument in arguments):
        return None
    return f"{ast.unparse(call.func)}({', '.join(argument for argument in arguments if argument)})"


def _argument(block: Block, stack: Stack, node: ast.expr, prefix: str = "") -> str | None:
    """An argument of the norm, with what the stack hands to the block in place of the block's parameters."""
    node = _width(node)
    bound = bind(block.info.init_parameters, stack.component.call)
    names = _names(node)
    rebound = stored_names(block.info.methods["__init__"].body)
    if bound is None or not names <= bound.keys() - rebound:
        return None
    if any(_stored_inside(stack.component.value) & _names(bound[name]) for name in names):
        return None
    if all(ast.unparse(bound[name]) == name for name in names):
        return prefix + block.info.definition.source(node)
    return prefix + ast.unparse(_Handed(bound).visit(ast.parse(ast.unparse(node), mode="eval").body))


def _width(node: ast.expr) -> ast.expr:
    """`dim` of `dim`, `(dim,)` and `[dim]`."""
    return node.elts[0] if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 1 else node


class _Handed(ast.NodeTransformer):
    """Puts arguments in place of parameters."""

    def __init__(self, bound: Mapping[str, ast.expr]) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.bound[node.id]


def _names(node: ast.expr) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _stored_inside(node: ast.expr) -> set[str]:
    """Names that an expression binds for itself, as comprehensions do."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
