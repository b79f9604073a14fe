"""Initial values by depth: only these change, by exactly the factor, and they survive `model.apply`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from migrator.codemod import DepthInitPart
from migrator.prove.bench import Bench, parts_of
from migrator.prove.comparing import relative
from migrator.prove.ledger import Tally
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError, Model
from migrator.rewrite.plan import Stage

_STD = 0.02
_APPLY_SEED = 5


@dataclass(frozen=True)
class _Models:
    """One case four times: before and after the change, fresh and after a later `model.apply`."""

    before: Model
    after: Model
    before_applied: Model
    after_applied: Model


def check_depth_init(bench: Bench, stage: Stage, cases: Sequence[Case], part: DepthInitPart) -> None:
    with (
        bench.ledger.tally("scale after apply()", part.owner, bench.tolerances.initial_scale) as survives,
        bench.ledger.tally("other initial values", part.owner) as others,
        bench.ledger.tally("initial scale", part.owner, bench.tolerances.initial_scale) as scale,
    ):
        for case in cases:
            if case.symbol != part.owner and case.kind != "root":
                continue
            try:
                models = _models(bench, stage, case)
                outputs = _outputs(models.after, part)
            except BoxError as error:
                scale.fail(f"its initial values can't be compared: {error}")
                continue
            for path, factor in outputs.items():
                _scaled(scale, models.before, models.after, path, factor)
                _scaled(survives, models.before_applied, models.after_applied, path, factor)
            _others(others, stage, models)
            _embeddings(others, models.after, part)
        scale.words = f"{', '.join(part.outputs)} of {part.blocks} start at 1/sqrt(2 N)"
        survives.words = "a later model.apply(init_fn) keeps the scale"
        others.words = f"all others start as before{f', embeddings at std {_STD}' if part.embeddings else ''}"


def _models(bench: Bench, stage: Stage, case: Case) -> _Models:
    # Calls of nn.init.normal_ leave the random stream alone on both sides, so that an added one shifts nothing else.
    boxes = [
        bench.box("the code before the change", stage.before, isolated_draws=True),
        bench.box("the migrated code", stage.after, isolated_draws=True),
    ]
    fresh = [bench.model(box, case, torch.float32) for box in boxes]
    applied = [bench.model(box, case, torch.float32, init_seed=_APPLY_SEED) for box in boxes]
    return _Models(*fresh, *applied)


def _outputs(model: Model, part: DepthInitPart) -> dict[str, float]:
    """State-dict names of the residual outputs, with the factor that each starts with."""
    found: dict[str, float] = {}
    for path in model.owners(part.owner):
        blocks = f"{path}.{part.blocks}" if path else part.blocks
        length = model.modules[blocks].get("length") if blocks in model.modules else None
        if blocks not in model.modules:
            raise BoxError(f"{part.owner} has no {part.blocks}")
        prefixes = [blocks] if length is None else [f"{blocks}.{number}" for number in range(length)]
        for prefix in prefixes:
            for output in part.outputs:
                name = f"{prefix}.{output}"
                if name not in model.state:
                    raise BoxError(f"there is no {name}")
                found[name] = 1 / math.sqrt(2 * len(prefixes))
    return found


def _scaled(tally: Tally, before: Model, after: Model, name: str, factor: float) -> None:
    if name not in before.state:
        tally.fail(f"{name} is new")
        return
    what = f"{name}, which should be scaled by {factor:.4f},"
    tally.measured(relative(before.state[name] * factor, after.state[name]), what)


def _others(tally: Tally, stage: Stage, models: _Models) -> None:
    """But for residual outputs and embeddings, the text before starts with the same values."""
    parts = _parts(stage)
    meant = {name for part in parts for name in _outputs(models.after, part)}
    meant |= {name for part in parts for name in _embedding_weights(models.after, part)}
    meant |= {name for group in models.after.tied for name in group if meant & set(group)}
    for name, value in models.after.state.items():
        tally.ok()
        if name not in models.before.state:
            tally.fail(f"the tensor {name} is new, and no claim covers it")
        elif name not in meant and not _equal(models.before.state[name], value):
            tally.fail(f"{name} starts with other values than before")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _parts(stage: Stage) -> list[DepthInitPart]:
    return [part for part in parts_of(stage.claims) if isinstance(part, DepthInitPart)]


def _embedding_weights(model: Model, part: DepthInitPart) -> list[str]:
    prefixes = [f"{path}." if path else "" for path in model.owners(part.owner)]
    named = [prefix + name for prefix in prefixes for name in part.embeddings]
    return [name if name in model.state else f"{name}.weight" for name in named]


def _embeddings(tally: Tally, model: Model, part: DepthInitPart) -> None:
    for name in _embedding_weights(model, part):
        values = model.state[name].double().flatten()
        error = _STD / math.sqrt(2 * values.numel())
        if abs(values.std().item() - _STD) > 5 * error:
            tally.fail(f"{name} starts at std {values.std().item():.4f} instead of {_STD}")
        elif abs(values.mean().item()) > 5 * _STD / math.sqrt(values.numel()):
            tally.fail(f"{name} starts at mean {values.mean().item():.4f} instead of 0")
        else:
            tally.ok()
