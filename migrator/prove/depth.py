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
_ROUNDING = 1e-6  # one multiplication in float32
_APPLY_SEED = 5


@dataclass(frozen=True)
class _Models:
    """One case four times: the text before, and the text after with its part neutral, active, and after `apply`."""

    before: Model
    neutral: Model
    active: Model
    applied: Model
    applied_neutral: Model


def check_depth_init(bench: Bench, stage: Stage, cases: Sequence[Case], part: DepthInitPart) -> None:
    with (
        bench.ledger.tally("scale after apply()", part.owner, _ROUNDING) as survives,
        bench.ledger.tally("other initial values", part.owner) as others,
        bench.ledger.tally("initial scale", part.owner, _ROUNDING) as scale,
    ):
        for case in cases:
            if case.symbol != part.owner and case.kind != "root":
                continue
            try:
                models = _models(bench, stage, case)
                outputs = _outputs(models.active, part)
            except BoxError as error:
                scale.fail(f"its initial values can't be compared: {error}")
                continue
            for path, factor in outputs.items():
                _scaled(scale, models.neutral, models.active, path, factor)
                _scaled(survives, models.applied_neutral, models.applied, path, factor)
            _others(others, stage, models)
            _embeddings(others, models.active, part)
        scale.words = f"{', '.join(part.outputs)} of {part.blocks} start at 1/sqrt(2 N)"
        survives.words = "a later model.apply(init_fn) keeps the scale"
        others.words = f"all others start as before{f', embeddings at std {_STD}' if part.embeddings else ''}"


def _models(bench: Bench, stage: Stage, case: Case) -> _Models:
    # Calls of nn.init.normal_ leave the random stream alone on both sides, so that an added one shifts nothing else.
    before = bench.box("the code before the change", stage.before, isolated_draws=True)
    neutral = bench.box("the migrated code", stage.after, neutral=_parts(stage), isolated_draws=True)
    active = bench.box("the migrated code", stage.after, isolated_draws=True)

    def built(box: object, init_seed: int | None = None) -> Model:
        return bench.model(box, case, torch.float32, init_seed=init_seed)  # type: ignore[arg-type]

    return _Models(
        built(before), built(neutral), built(active), built(active, _APPLY_SEED), built(neutral, _APPLY_SEED)
    )


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


def _scaled(tally: Tally, neutral: Model, active: Model, name: str, factor: float) -> None:
    tally.measured(
        relative(neutral.state[name] * factor, active.state[name]), f"{name}, which should be scaled by {factor:.4f},"
    )


def _others(tally: Tally, stage: Stage, models: _Models) -> None:
    """The scaling touches nothing else; and but for embeddings, the text before starts with the same values."""
    parts = _parts(stage)
    outputs = {name for part in parts for name in _outputs(models.active, part)}
    embeddings = {name for part in parts for name in _embedding_weights(models.active, part)}
    for name, value in models.active.state.items():
        tally.ok()
        if name not in models.before.state:
            tally.fail(f"the tensor {name} is new, and no claim covers it")
        elif name not in outputs and not torch.equal(models.neutral.state[name], value):
            tally.fail(f"{name} is scaled too")
        elif name not in embeddings and not _equal(models.before.state[name], models.neutral.state[name]):
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
