"""Initial values that know the depth: residual outputs start at 1/sqrt(2 N) of their size."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    DepthInitPart,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Site,
)
from migrator.recognise.index import FileIndex
from migrator.recognise.layer_parts import layer_outputs
from migrator.recognise.residuals import (
    embeddings_into,
    own_initialisation,
    replaced_output,
    residual_outputs,
    scaled_by,
)
from migrator.recognise.runs import RUN_REFUSALS
from migrator.recognise.spelling import call, runtime_name
from migrator.recognise.stacks import Stack, layer_stacks, stacks


@dataclass(frozen=True)
class _Part:
    stack: Stack
    assignment: str
    embeddings: tuple[tuple[ast.stmt, str], ...]
    imports: Import


class DepthInit(Codemod):
    """Scales the initial residual outputs of each stack, so that the sum of 2 N of them keeps its variance."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = (
        "A residual stream is a sum of 2 N outputs; scaled by 1/sqrt(2 N) its variance does not grow with depth."
    )
    reference = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2), section 2.3"
    formula = "Var(x_0 + (f_1 + ... + f_2N) / sqrt(2N)) = Var(x_0) + Var(f), at any N"
    after = ("pre_norm", "swiglu", "swiglu_warm")
    refusals = {
        "layout": "the place cannot be edited statement by statement",
        "outputs-shared": "a residual output is shared, or set to another tensor, after it was built",
        "outputs-unknown": "the last weight of a sublayer cannot be told",
        "several-stacks": "one residual stream goes through several stacks, so that no one of them knows its depth",
        **{code: meaning for code, meaning in RUN_REFUSALS.items() if code != "one-of-several"},
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        known = [*stacks(index), *layer_stacks(index)]
        found = [stack for stack in known if stack.block.placement == "pre"]
        alone = Counter(stack.owner.name for stack in found)
        for stack in found:
            yield _finding(index, stack, alone[stack.owner.name] == 1)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.stack.owner.definition
        init, built = part.stack.owner.methods["__init__"], part.stack.component.assignment.statement
        if built in init.body:
            yield Insert(definition, init, part.assignment, "end")
        else:  # under a condition
            yield Insert(definition, built, part.assignment)
        for statement, code in part.embeddings:
            yield Insert(definition, statement, code)
        yield part.imports


def _finding(index: FileIndex, stack: Stack, alone: bool) -> Finding:
    owner, component = stack.owner, stack.component
    place = Place.of(owner.name, component.assignment.statement, owner.definition)
    scaled = scaled_by(owner, component.attribute)
    if scaled:
        return Modern(place, f"initial values of `{component.attribute}` are scaled by depth ({scaled})")
    setter, how = own_initialisation(owner)
    if setter:
        return Modern(place, f"{setter} sets its own initial values ({how}); left to it")
    if stack.obstacle is not None and stack.obstacle[0] != "one-of-several":
        return Refusal(place, *stack.obstacle)
    if stack.chained:
        seen = f"`{component.attribute}` and `{stack.chained}` share one residual stream"
        return Refusal(place, "several-stacks", seen, "put their blocks into one nn.Sequential")
    outputs = layer_outputs(stack.layer) if stack.layer is not None else residual_outputs(index, stack.block)
    if outputs is None:
        remedy = "end each sublayer with one linear projection"
        if stack.layer is not None:
            remedy = "build each sublayer in the block itself, and end it with one linear projection"
        return Refusal(place, "outputs-unknown", f"the residual outputs of {stack.name} cannot be told", remedy)
    shared = replaced_output(index, stack, outputs)
    if shared:
        remedy = "scale what is shared by hand, once"
        return Refusal(place, "outputs-shared", f"`{shared}` is assigned after it was built", remedy)
    spelling, imported = runtime_name(index, "DepthScaledInit")
    wishes = ("depth_init", "depth_scaled_init") if alone else (f"{component.attribute.replace('.', '_')}_depth_init",)
    taken = {*owner.attributes, *owner.methods}
    attribute = next((name for name in wishes if name not in taken), f"{wishes[-1]}_")
    paths = ", ".join(f'"{path}"' for path in outputs) + ("," if len(outputs) == 1 else "")
    code = call(spelling, [f"self.{component.attribute}", f"outputs=({paths})"], prefix=f"self.{attribute} = ")
    embeddings = tuple(embeddings_into(index, stack))
    claim = Claim(
        (owner.name,),
        (owner.name,),
        parts=(
            DepthInitPart(
                owner.name, attribute, component.attribute, outputs, tuple(name for name, _, _ in embeddings)
            ),
        ),
    )
    message = f"residual outputs of `{component.attribute}` start at 1/sqrt(2 N)"
    message += f", embeddings at std 0.02 ({', '.join(name for name, _, _ in embeddings)})" if embeddings else ""
    part = _Part(stack, code, tuple((statement, code) for _, statement, code in embeddings), imported)
    return Site(place, message, claim, part)
