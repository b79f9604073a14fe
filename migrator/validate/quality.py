"""Quality, in short: both models learn the same for the same number of steps, under several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from migrator.prove.guesses import guesses
from migrator.prove.remote import BoxError
from migrator.recognise.index import FileIndex
from migrator.validate import tasks
from migrator.validate.result import SIDES, Curve, DivergenceRow, LengthRow, Quality, SideName, Spread, Verdict
from migrator.validate.sizes import multiplied
from migrator.validate.subject import Budget, CannotMeasure, Subject

_SEEDS, _RATE = 3, 1e-3
_RATES, _RATE_SEEDS, _RATE_SHARE = (3e-3, 1e-2, 3e-2), 2, 3  # divergence gets a third of the steps
_FACTORS = (1, 2, 4)
_BATCH, _LENGTH = 8, 32
_FEWEST, _MOST = 10, 400
_POINTS = 60
_DATASETS = ("torch.utils.data.Dataset", "torch.utils.data.dataset.Dataset")


@dataclass(frozen=True)
class Data:
    """What is trained on: constructions of the file's data set, one for each factor, or None for the task made here."""

    words: str
    builds: tuple[dict[str, Any] | None, ...]
    lengths: tuple[int, ...]
    usable: tuple[bool, ...]


def measure(subject: Subject, budget: Budget) -> Quality:
    """Curves, loss at longer sequences, and runs that go wrong at high learning rates."""
    budget.tick("looking for data")
    data = _data(subject)
    seconds = max(_ask(subject, side, data, 0, _RATE, 4)["seconds"] for side in SIDES) / 4
    runs = len(SIDES) * (_SEEDS + len(_RATES) * _RATE_SEEDS / _RATE_SHARE)
    steps = min(_MOST, int(0.85 * budget.left / runs / max(seconds, 1e-4)))
    if steps < _FEWEST:
        raise CannotMeasure(f"{_FEWEST} steps for each run take longer than there is time; --seconds gives more")
    replies = _trained(subject, budget, data, steps)
    curves = tuple(_curve(side, seed, r["losses"]) for side in SIDES for seed, r in enumerate(replies[side]))
    final = {side: Spread.of([_last(r["losses"]) for r in replies[side]]) for side in SIDES}
    lengths = tuple(_length_rows(data, replies))
    divergence = tuple(_divergence(subject, budget, data, max(steps // _RATE_SHARE, 10)))
    verdicts = tuple(_verdicts(final, lengths, divergence))
    return Quality(data.words, _RATE, curves, final, lengths, divergence, verdicts)


# --- data ---------------------------------------------------------------------------------------------------------


def _data(subject: Subject) -> Data:
    """The data set of the legacy file if one fits, else a task that fits the model's arguments."""
    index = subject.index("legacy")
    for name, info in index.classes.items():
        if info.derives_from(*_DATASETS):
            for guess in list(guesses(index, name))[:6]:
                length = _length_of(subject, guess.full)
                if length:
                    return _own(subject, index, name, guess.full, length)
    lengths = tuple(_LENGTH * factor for factor in _FACTORS)
    usable = tuple(length <= max(subject.lengths) for length in lengths)
    words = tasks.PERIODIC if any("tokens" in spec for spec in subject.specs) else tasks.MOVED
    return Data(f"a task made for this: {words}", (None,) * len(_FACTORS), lengths, usable)


def _own(subject: Subject, index: FileIndex, name: str, build: dict[str, Any], length: int) -> Data:
    builds, lengths, usable = [build], [length], [True]
    for factor in _FACTORS[1:]:
        longer = next(
            (
                (other, found)
                for _, other in list(multiplied(index, name, build, factor))[:12]
                if abs((found := _length_of(subject, other)) - factor * length) < 0.1 * factor * length
            ),
            None,
        )
        builds.append(longer[0] if longer else build)
        lengths.append(longer[1] if longer else length)
        usable.append(longer is not None)
    return Data(f"the file's own {name}", tuple(builds), tuple(lengths), tuple(usable))


def _length_of(subject: Subject, dataset: dict[str, Any]) -> int:
    """How long the sequences of a data set are; 0 if the model does not take them."""
    try:
        found = [
            subject.ask(side, "data_set", dataset=dataset, specs=subject.specs, limit=10.0).get()[0]["length"]
            for side in SIDES
        ]
    except BoxError:
        return 0
    return int(found[0])


# --- runs ---------------------------------------------------------------------------------------------------------


def _ask(
    subject: Subject, side: SideName, data: Data, seed: int, rate: float, steps: int, later: bool = False
) -> dict[str, Any]:
    usable = [place for place, fine in enumerate(data.usable) if fine] if later else []
    builds = [data.builds[place] for place in usable] or [data.builds[0]]
    lengths = [data.lengths[place] for place in usable]
    reply, _ = subject.ask(
        side, "trained", seed=seed, rate=rate, steps=steps, data=builds, length=data.lengths[0], specs=subject.specs,
        lengths=lengths if later else [data.lengths[0]], batch=_BATCH, limit=120.0,
    ).get()  # fmt: skip
    if not reply["losses"]:
        raise CannotMeasure("it gives no loss")
    reply["later"] = dict(zip(usable, reply["later"], strict=True)) if later else {}
    return dict(reply)


def _trained(subject: Subject, budget: Budget, data: Data, steps: int) -> dict[SideName, list[dict[str, Any]]]:
    replies: dict[SideName, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(_SEEDS):
        for side in SIDES:
            budget.tick(f"training, {steps} steps, seed {seed + 1} of {_SEEDS}, {side}")
            replies[side].append(_ask(subject, side, data, seed, _RATE, steps, later=True))
    return replies


def _divergence(subject: Subject, budget: Budget, data: Data, steps: int) -> Iterator[DivergenceRow]:
    for rate in _RATES:
        for side in SIDES:
            budget.tick(f"learning rate {rate:g}, {side}")
            losses = [_ask(subject, side, data, seed, rate, steps)["losses"] for seed in range(_RATE_SEEDS)]
            yield DivergenceRow(side, rate, sum(map(_diverged, losses)), _RATE_SEEDS)


def _diverged(losses: list[float]) -> bool:
    return not math.isfinite(losses[-1]) or _last(losses) > losses[0]


def _last(losses: list[float]) -> float:
    """The mean of the last tenth, five steps at least."""
    tail = losses[-max(len(losses) // 10, 5) :]
    return sum(tail) / len(tail)


def _curve(side: SideName, seed: int, losses: list[float]) -> Curve:
    """At most `_POINTS` points, each the mean of the steps around it."""
    size = math.ceil(len(losses) / _POINTS)
    pieces = [losses[start : start + size] for start in range(0, len(losses), size)]
    steps = tuple(min((place + 1) * size, len(losses)) for place in range(len(pieces)))
    return Curve(side, seed, steps, tuple(sum(piece) / len(piece) for piece in pieces))


# --- what comes of it ---------------------------------------------------------------------------------------------


def _length_rows(data: Data, replies: dict[SideName, list[dict[str, Any]]]) -> Iterator[LengthRow]:
    for place, factor in enumerate(_FACTORS):
        for side in SIDES:
            found = [reply["later"].get(place, "") for reply in replies[side]]
            losses = [loss for loss in found if isinstance(loss, float)]
            if len(losses) == len(found):
                yield LengthRow(side, factor, Spread.of(losses))
            else:
                said = next(loss for loss in found if not isinstance(loss, float))
                longest = "there is no data of that length" if data.builds[0] else "it does not run at that length"
                yield LengthRow(side, factor, None, said or longest)


def _verdicts(
    final: dict[SideName, Spread], lengths: tuple[LengthRow, ...], divergence: tuple[DivergenceRow, ...]
) -> Iterator[Verdict]:
    yield _compared("loss at the end of training", final["legacy"], final["migrated"])
    for old, new in zip(lengths[::2], lengths[1::2], strict=True):
        if old.factor > 1 and old.loss is not None and new.loss is not None:
            yield _compared(f"loss at {old.factor} times the length", old.loss, new.loss)
        elif (old.loss is None) != (new.loss is None):
            level = "worse" if new.loss is None else "better"
            yield Verdict(level, f"{old.factor} times the length: {new.reason or 'runs now'}")  # type: ignore[arg-type]
    before, after = (sum(row.diverged for row in divergence if row.side == side) for side in SIDES)
    seeds = sum(row.seeds for row in divergence if row.side == "legacy")
    level = "same" if before == after else "worse" if after > before else "better"
    rates = ", ".join(f"{rate:g}" for rate in _RATES)
    yield Verdict(level, f"{after} of {seeds} runs diverge at learning rates {rates}, {before} before")  # type: ignore[arg-type]


def _compared(what: str, old: Spread, new: Spread) -> Verdict:
    """Only where the spreads over the seeds do not overlap is one better than the other."""
    figures = f"{new.median:.3f} ({new.low:.3f} to {new.high:.3f}), {old.median:.3f} before"
    if new.high < old.low:
        return Verdict("better", f"{what}: {figures}")
    if new.low > old.high or not math.isfinite(new.median):
        return Verdict("worse", f"{what}: {figures}")
    return Verdict("same", f"{what}: {figures}; no difference beyond the spread")
