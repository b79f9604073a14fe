"""Gradients: how they reach the blocks, at first and after some steps, at the given depth and at multiples of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from migrator.prove.remote import BoxError
from migrator.validate.result import SIDES, GradientRow, Gradients, SideName, Verdict
from migrator.validate.sizes import deeper
from migrator.validate.subject import Budget, CannotMeasure, Subject

_TIMES = (1, 2, 4)
_STEPS = 20
_SEEDS = 5
_BATCH, _LENGTH = 2, 32
_APART = 100.0  # a block's gradient this many times that of another counts as exploding, or vanishing, with depth
_CLEARLY = 3.0


def measure(subject: Subject, budget: Budget) -> Gradients:
    """Rows for each depth, before and after training; as many seeds as the time allows, five at most."""
    if subject.blocks < 2:
        raise CannotMeasure("no stack of two or more blocks of one class was found, so there is no depth to speak of")
    rows: list[GradientRow] = []
    notes: list[str] = []
    depths = {times: deeper(subject, times) if times > 1 else (subject, "") for times in _TIMES}
    for steps, times in itertools.product((0, _STEPS), _TIMES):  # what takes longest comes last
        # A step takes about three calls, and building a deep model another one.
        cost = subject.seconds[_length(subject)] * (3 * steps + 4) * times * len(SIDES)
        if rows and cost > budget.left:
            notes.append(f"there was no time for {subject.blocks * times} blocks after {steps} steps")
            continue
        deep, note = depths[times]
        notes += [note] if note else []
        budget.tick(f"{subject.blocks * times} blocks, after {steps} steps")
        rows += _pair(deep, budget, times, steps, cost)
    if not rows:
        raise CannotMeasure("no gradient was computed in the time there is")
    return Gradients(tuple(rows), tuple(_verdicts(rows)), "; ".join(dict.fromkeys(notes)))


def _pair(subject: Subject, budget: Budget, times: int, steps: int, cost: float) -> list[GradientRow]:
    """Both sides, seed by seed in turn; none where one of them fails."""
    replies: dict[SideName, list[dict[str, object]]] = {side: [] for side in SIDES}
    run = subject.run(_BATCH, _length(subject))
    structural = 1 if subject.deepened else times
    try:
        for seed in range(_SEEDS):
            for side in SIDES:
                pending = subject.ask(side, "gradients", run, seed=seed, steps=steps, times=structural, limit=30.0)
                replies[side].append(pending.get()[0])
            if cost > budget.left:
                break
    except BoxError:
        return []
    return [_row(side, subject.blocks * structural, steps, replies[side]) for side in SIDES]


def _length(subject: Subject) -> int:
    return max((n for n in subject.lengths if n <= _LENGTH), default=subject.lengths[0])


def _row(side: SideName, depth: int, steps: int, replies: list[dict[str, object]]) -> GradientRow:
    flows = [[float(norm) for norm in reply["norms"]] for reply in replies]  # type: ignore[attr-defined]
    norms = tuple(_middle(list(column)) for column in zip(*flows, strict=True))
    missing = set.intersection(*(set(map(str, reply["missing"])) for reply in replies))  # type: ignore[call-overload]
    return GradientRow(
        side, depth, steps, len(replies), norms, _ratio(norms[0], norms[-1]),
        nonfinite=sum(bool(reply["nonfinite"]) for reply in replies),
        exploding=sum(_apart(flow) for flow in flows), missing=tuple(sorted(missing)),
    )  # fmt: skip


def _middle(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _ratio(first: float, last: float) -> float:
    return first / last if last else math.inf if first else math.nan


def _apart(flow: list[float]) -> bool:
    return not all(map(math.isfinite, flow)) or max(flow) > _APART * min(flow)


# --- verdicts -----------------------------------------------------------------------------------------------------


def _verdicts(rows: list[GradientRow]) -> Iterator[Verdict]:
    """Of what is as before at every depth, one line is enough."""
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    found = [verdict for old, new in pairs for verdict in _of_pair(old, new)]
    yield from found
    if not found:
        ratios = [
            f"{new.ratio:.2f} ({old.ratio:.2f} before) with {new.depth} blocks" for old, new in pairs[-len(_TIMES) :]
        ]
        steps = rows[-1].steps
        yield Verdict(
            "same", f"as even over depth as before: first block / last {', '.join(ratios)}, after {steps} steps"
        )


def _of_pair(old: GradientRow, new: GradientRow) -> Iterator[Verdict]:
    where = f"{new.depth} blocks, after {new.steps} steps"
    yield from _of_parameters(old, new)
    for what, before, after in (
        ("not finite", old.nonfinite, new.nonfinite),
        (f"more than {_APART:g} times apart between blocks", old.exploding, new.exploding),
    ):
        if before != after:
            words = f"gradients {what} in {after} of {new.seeds} seeds, {before} before ({where})"
            yield Verdict("worse" if after > before else "better", words)
    yield from _of_ratio(old, new, where)


def _of_parameters(old: GradientRow, new: GradientRow) -> Iterator[Verdict]:
    """After some steps, because what starts at zero may let nothing through at first."""
    if not new.steps or len(new.norms) != len(old.norms):
        return
    lost = sorted(set(new.missing) - set(old.missing))
    if lost and len(new.missing) > len(old.missing):
        yield Verdict("worse", f"no gradient reaches {', '.join(lost[:4])}{' and others' if len(lost) > 4 else ''}")


def _of_ratio(old: GradientRow, new: GradientRow, where: str) -> Iterator[Verdict]:
    before, after = (abs(math.log(row.ratio)) if 0 < row.ratio < math.inf else math.inf for row in (old, new))
    said = f"first block / last {new.ratio:.2f}, {old.ratio:.2f} before ({where})"
    if after > before + math.log(_CLEARLY):
        yield Verdict("worse", f"gradients are less even over depth: {said}")
    elif before > after + math.log(_CLEARLY):
        yield Verdict("better", f"gradients are more even over depth: {said}")
