"""Initial values that know the depth: residual outputs start at 1/sqrt(2 N) of their size."""

from __future__ import annotations

import ast
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
from migrator.recognise.residuals import embeddings_into, own_initialisation, residual_outputs, scaled_by
from migrator.recognise.spelling import call, runtime_name
from migrator.recognise.stacks import Stack, stacks


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
    after = ("pre_norm", "swiglu")
    refusals = {
        "outputs-unknown": "the last weight of a sublayer cannot be told",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for stack in stacks(index):
            if stack.block.placement == "pre":
                yield _finding(index, stack)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.stack.owner.definition
        yield Insert(definition, part.stack.owner.methods["__init__"], part.assignment, "end")
        for statement, code in part.embeddings:
            yield Insert(definition, statement, code)
        yield part.imports


def _finding(index: FileIndex, stack: Stack) -> Finding:
    owner, component = stack.owner, stack.component
    place = Place.of(owner.name, component.assignment.statement, owner.definition)
    scaled = scaled_by(owner, component.attribute)
    if scaled:
        return Modern(place, f"initial values of `{component.attribute}` are scaled by depth ({scaled})")
    own = own_initialisation(owner)
    if own:
        return Modern(place, f"{owner.name} sets its own initial values ({own}); left to it")
    outputs = residual_outputs(index, stack.block)
    if outputs is None:
        remedy = "end each sublayer with one linear projection"
        return Refusal(place, "outputs-unknown", f"the residual outputs of {component.name} cannot be told", remedy)
    spelling, imported = runtime_name(index, "DepthScaledInit")
    attribute = next(n for n in ("depth_init", "depth_scaled_init") if n not in {*owner.attributes, *owner.methods})
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
