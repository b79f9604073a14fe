"""Memory: the peak of a call and of a step of training, and how it grows with the length."""

from __future__ import annotations

import math
from collections.abc import Iterator

from migrator.prove.remote import BoxError
from migrator.validate.result import SIDES, Activity, Growth, Memory, MemoryRow, SideName, Verdict
from migrator.validate.subject import Budget, CannotMeasure, Subject

_ACTIVITIES: tuple[Activity, ...] = ("forward", "training step")
_BATCH = 1
_FITTED = 3  # lengths, the longest: short ones are ruled by what does not depend on the length
_CALLS = 25  # what one length takes, in calls: two of each activity on each side, and counting
_CLEARLY = 1.15
_STEEPER = 0.25


def measure(subject: Subject, budget: Budget) -> Memory:
    """Peaks at each length that both sides run at, as far as the time allows."""
    rows: list[MemoryRow] = []
    for length in subject.lengths:
        if rows and subject.seconds[length] * _CALLS > budget.left:
            break
        budget.tick(f"length {length}")
        rows += _at(subject, length, budget)
    if not rows:
        raise CannotMeasure("no call came to an end in the time there is")
    growth = tuple(_growths(rows))
    return Memory(
        "torch's CPU allocator: its events during one call after a first one",
        tuple(rows), growth, tuple(_verdicts(rows, growth)),
    )  # fmt: skip


def _at(subject: Subject, length: int, budget: Budget) -> Iterator[MemoryRow]:
    """Both sides or none, so that each figure has its other half."""
    for activity in _ACTIVITIES:
        found = []
        for side in SIDES:
            try:
                pending = subject.ask(
                    side, "peak", subject.run(_BATCH, length), activity=activity, limit=max(budget.left, 5.0)
                )
                found.append(MemoryRow(side, activity, _BATCH, length, int(pending.get()[0]["bytes"])))
            except BoxError:
                break
        if len(found) == len(SIDES):
            yield from found


def _growths(rows: list[MemoryRow]) -> Iterator[Growth]:
    for activity in _ACTIVITIES:
        for side in SIDES:
            points = [(row.length, row.bytes) for row in _of(rows, side, activity)][-_FITTED:]
            if len(points) >= 2 and all(amount > 0 for _, amount in points):
                yield Growth(side, activity, _slope([(math.log(x), math.log(y)) for x, y in points]))


def _slope(points: list[tuple[float, float]]) -> float:
    """Of the line with the least squares."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    above = sum((x - middle_x) * (y - middle_y) for x, y in points)
    return above / sum((x - middle_x) ** 2 for x, _ in points)


def _of(rows: list[MemoryRow], side: SideName, activity: Activity) -> list[MemoryRow]:
    return [row for row in rows if row.side == side and row.activity == activity]


def _verdicts(rows: list[MemoryRow], growth: tuple[Growth, ...]) -> Iterator[Verdict]:
    for activity in _ACTIVITIES:
        old, new = (_of(rows, side, activity)[-1:] for side in SIDES)
        if old and new:
            yield _of_peaks(activity, old[0], new[0])
        exponents = {found.side: found.exponent for found in growth if found.activity == activity}
        if len(exponents) == len(SIDES) and exponents["migrated"] > exponents["legacy"] + _STEEPER:
            words = f"length^{exponents['migrated']:.2f} instead of length^{exponents['legacy']:.2f}"
            yield Verdict("worse", f"{said(activity)}: memory grows with {words}")


def _of_peaks(activity: Activity, old: MemoryRow, new: MemoryRow) -> Verdict:
    ratio = old.bytes / max(new.bytes, 1)
    at = f"at length {new.length}: {megabytes(old.bytes)} before, {megabytes(new.bytes)} after"
    if ratio >= _CLEARLY:
        return Verdict("better", f"{said(activity)}: {ratio:.1f} times less memory {at}")
    if ratio <= 1 / _CLEARLY:
        return Verdict("worse", f"{said(activity)}: {1 / ratio:.1f} times more memory {at}")
    return Verdict("same", f"{said(activity)}: as much memory as before {at}")


def said(activity: str) -> str:
    return "forward pass" if activity == "forward" else activity


def megabytes(amount: int) -> str:
    return f"{amount / 2**20:.1f} MiB" if amount >= 2**20 else f"{amount / 2**10:.0f} KiB"
