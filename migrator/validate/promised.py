"""What the migration guide promises, beside what was measured of it, or why nothing was."""

from __future__ import annotations

import math
from collections.abc import Iterator

from migrator.validate.result import (
    Gradients,
    Memory,
    Promised,
    Quality,
    SideName,
    Speed,
    SpeedRow,
    Spread,
    Unmeasured,
)


def promised(
    gradients: Gradients | Unmeasured,
    memory: Memory | Unmeasured,
    speed: Speed | Unmeasured,
    quality: Quality | Unmeasured,
) -> tuple[Promised, ...]:
    """One row for each promise, in the guide's order."""
    return (
        _explosions(gradients, quality), _memory(memory), _generation(speed), _perplexity(quality),
        _extrapolation(quality), _forward(speed), _deeper(gradients),
    )  # fmt: skip


def _explosions(gradients: Gradients | Unmeasured, quality: Quality | Unmeasured) -> Promised:
    claim, claimed = "fewer gradient explosions", "40 %"
    if isinstance(quality, Unmeasured):
        return Promised(claim, claimed, "", _why(quality))
    counts = {
        side: (sum(row.diverged for row in rows), sum(row.seeds for row in rows))
        for side in ("legacy", "migrated")
        for rows in [[row for row in quality.divergence if row.side == side]]
    }
    rates = ", ".join(dict.fromkeys(f"{row.learning_rate:g}" for row in quality.divergence))
    said = f"{counts['legacy'][0]} -> {counts['migrated'][0]} of {counts['legacy'][1]} runs diverge"
    remark = f"at learning rates {rates}; so few runs show large effects only"
    if isinstance(gradients, Gradients):
        before, after = (
            sum(row.exploding for row in gradients.rows if row.side == side) for side in ("legacy", "migrated")
        )
        remark += f"; gradients 100 times apart between blocks: {before} -> {after} of {_seeds(gradients)} seeds"
    return Promised(claim, claimed, said, remark)


def _seeds(gradients: Gradients) -> int:
    return sum(row.seeds for row in gradients.rows if row.side == "legacy")


def _memory(memory: Memory | Unmeasured) -> Promised:
    claim, claimed = "less peak memory", "35 %"
    if isinstance(memory, Unmeasured):
        return Promised(claim, claimed, "", _why(memory))
    longest = max(row.length for row in memory.rows)
    peaks = {(row.side, row.activity): row.bytes for row in memory.rows if row.length == longest}
    said = [
        f"{activity} {_percent(peaks['legacy', activity], peaks['migrated', activity])}"
        for activity in ("forward", "training step")
        if ("legacy", activity) in peaks and ("migrated", activity) in peaks
    ]
    return Promised(claim, claimed, ", ".join(said), f"at {longest} tokens; it grows with the length")


def _percent(before: float, after: float) -> str:
    change = 100 * (1 - after / before) if before else math.nan
    return f"{change:.0f} % less" if change >= 0 else f"{-change:.0f} % more"


def _generation(speed: Speed | Unmeasured) -> Promised:
    claim, claimed = "faster generation", "1.9x"
    if isinstance(speed, Unmeasured):
        return Promised(claim, claimed, "", _why(speed))
    pairs = list(_pairs(speed, "generation"))
    if not pairs:
        return Promised(claim, claimed, "", speed.note or "no function that generates was measured")
    ratios = [f"{old.seconds.median / new.seconds.median:.1f}x at {old.length}" for old, new in pairs]
    return Promised(claim, claimed, ", ".join(ratios), f"tokens, batch {pairs[0][0].batch}; it grows with their number")


def _forward(speed: Speed | Unmeasured) -> Promised:
    claim, claimed = "faster forward pass", "1.9x (15 -> 8 ms)"
    if isinstance(speed, Unmeasured):
        return Promised(claim, claimed, "", _why(speed))
    ratios = [
        f"{old.seconds.median / new.seconds.median:.2f}x at {old.length}" for old, new in _pairs(speed, "forward")
    ]
    return Promised(claim, claimed, ", ".join(ratios), "tokens, on one thread of a CPU")


def _pairs(speed: Speed, activity: str) -> Iterator[tuple[SpeedRow, SpeedRow]]:
    """The two sides at each length; of generation with its cache."""
    rows = {(row.side, row.length): row for row in speed.rows if row.activity == activity and row.variant != "uncached"}
    for side, length in sorted(rows, key=lambda key: key[1]):
        if side == "legacy" and ("migrated", length) in rows:
            yield rows[side, length], rows["migrated", length]


def _perplexity(quality: Quality | Unmeasured) -> Promised:
    claim, claimed = "better perplexity", "5 to 10 %"
    if isinstance(quality, Unmeasured):
        return Promised(claim, claimed, "", _why(quality))
    old, new = quality.final["legacy"], quality.final["migrated"]
    steps = max(curve.steps[-1] for curve in quality.curves)
    said = f"loss {_value(old)} -> {_value(new)}"
    return Promised(claim, claimed, said, f"after {steps} steps on {quality.task}; says nothing of long training")


def _value(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.low:.3g} to {spread.high:.3g})"


def _extrapolation(quality: Quality | Unmeasured) -> Promised:
    claim, claimed = "better length extrapolation", "2x"
    if isinstance(quality, Unmeasured):
        return Promised(claim, claimed, "", _why(quality))
    losses: dict[tuple[SideName, int], Spread] = {
        (row.side, row.factor): row.loss for row in quality.lengths if row.loss is not None
    }
    said = [
        f"{factor}x: {_growth(losses, 'legacy', factor)} -> {_growth(losses, 'migrated', factor)}"
        for factor in (2, 4)
        if {("legacy", factor), ("migrated", factor), ("legacy", 1), ("migrated", 1)} <= losses.keys()
    ]
    if not said:
        reasons = [row.reason for row in quality.lengths if row.loss is None]
        return Promised(claim, claimed, "", reasons[0] if reasons else "there is no longer data")
    return Promised(claim, claimed, ", ".join(said), "loss at that length by loss at the length of training")


def _growth(losses: dict[tuple[SideName, int], Spread], side: SideName, factor: int) -> str:
    return f"{losses[side, factor].median / losses[side, 1].median:.2f}"


def _deeper(gradients: Gradients | Unmeasured) -> Promised:
    claim, claimed = "deeper models", "2x"
    if isinstance(gradients, Unmeasured):
        return Promised(claim, claimed, "", _why(gradients))
    steps = max(row.steps for row in gradients.rows)
    rows = {(row.side, row.depth): row for row in gradients.rows if row.steps == steps}
    said = [
        f"{depth} blocks: {rows['legacy', depth].ratio:.2f} -> {rows['migrated', depth].ratio:.2f}"
        for side, depth in rows
        if side == "legacy" and ("migrated", depth) in rows
    ]
    remark = f"gradient of the first block by that of the last after {steps} steps; whether a model trains well is more"
    return Promised(claim, claimed, ", ".join(said), remark)


def _why(section: Unmeasured) -> str:
    return section.reason
