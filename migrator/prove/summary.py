"""What a reader wants to know besides the verdict: which tensors were reused, and how many parameters there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import Claim, SwiGLUPart
from migrator.prove.bench import Bench, parts_of
from migrator.prove.remote import Box, BoxError
from migrator.prove.result import TensorRow, TensorStatus
from migrator.prove.states import counts, owners, renaming_of
from migrator.rewrite.plan import Plan

Row = tuple[str, int, int]
Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class _Model:
    """A module of the size that the file itself builds: parameter counts, shapes of the state dict, classes by path."""

    counts: dict[str, int]
    shapes: Shapes
    classes: dict[str, list[str]]


def summarise(bench: Bench, plan: Plan) -> tuple[tuple[TensorRow, ...], tuple[Row, ...]]:
    """Tensors and parameter counts of the whole models, from the text as it was to the text as it shall be."""
    claims = [claim for stage in plan.stages for claim in stage.claims]
    rows: list[TensorRow] = []
    sizes: list[Row] = []
    for name in bench.probes.roots:
        if name not in bench.probes.full:
            continue
        bench.tick(f"{name}: counting")
        try:
            old = _model(bench, bench.box("the legacy code", plan.source), name)
            new = _model(bench, bench.box("the migrated code", plan.text), name)
        except BoxError as error:
            bench.ledger.note(
                f"{name} could not be built at its full size, so its parameters were not counted: {error}"
            )
            continue
        rename = renaming_of(old.classes, [entry for claim in claims for entry in claim.renamed])
        rows += _rows(old.shapes, new.shapes, {rename(key): key for key in old.shapes})
        sizes.append((name, sum(old.counts.values()), sum(new.counts.values())))
        sizes += _feed_forwards(claims, old, new)
    return tuple(rows), tuple(dict.fromkeys(sizes))


def _model(bench: Bench, box: Box, name: str) -> _Model:
    build, tensors = bench.probes.full[name]
    reply, _ = box.call("count", tensors, build=build)
    return _Model(reply["counts"], reply["shapes"], reply["classes"])


def _rows(old: Shapes, new: Shapes, sources: dict[str, str]) -> Iterator[TensorRow]:
    for name, key in sources.items():
        before, after = _spelled(old[key]), _spelled(new[name]) if name in new else ""
        status: TensorStatus = "dropped" if not after else "reused" if before == after else "resized"
        yield TensorRow(name if name == key else f"{key} -> {name}", status, before, after)
    for name, shape in new.items():
        if name not in sources:
            yield TensorRow(name, "new", "", _spelled(shape))


def _spelled(shape: list[int]) -> str:
    return str(tuple(shape))


def _feed_forwards(claims: list[Claim], old: _Model, new: _Model) -> Iterator[Row]:
    """One instance of each feed-forward that changed."""
    for part in parts_of(claims):
        if not isinstance(part, SwiGLUPart):
            continue
        for path in owners(new.classes, part.owner)[:1]:
            dotted = f"{path}." if path else ""
            after = counts(new.counts, [dotted + name for name in (part.gate, part.up, part.down)])
            renamed = [
                was.rpartition(".")[0] for claim in claims for owner, was, _ in claim.renamed if owner == part.owner
            ]
            before = counts(old.counts, [dotted + name for name in {part.gate, part.down, *renamed}])
            yield f"feed-forward of {part.owner}", before, after
