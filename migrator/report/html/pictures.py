"""The plots of the page: inline SVG whose colours are the page's own, so that light, dark and print fit."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from migrator.validate.result import (
    SIDES,
    Attention,
    Gradients,
    Memory,
    Quality,
    SideName,
    Speed,
    Spread,
    Unmeasured,
    Validation,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = tuple[str, str]  # SVG, and what it shows in words
_INK = "#010203"
# What matplotlib draws with, and what the page puts in its place.
_COLOURS = {"legacy": "#010204", "migrated": "#010205"}
_VARIABLES = {_INK: "var(--ink)", _COLOURS["legacy"]: "var(--legacy)", _COLOURS["migrated"]: "var(--migrated)"}
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "migrate", "font.size": 9, "font.family": "sans-serif",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _INK, "axes.labelcolor": _INK,
    "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.linewidth": 0.6, "legend.frameon": False,
    "lines.linewidth": 1.6, "lines.markersize": 4,
}  # fmt: skip
_LAYERS, _HEADS = 4, 4


def of(validation: Validation) -> dict[str, list[Picture]]:
    """The pictures of each section that was measured."""
    draw = {"gradients": _gradients, "attention": _attention, "memory": _memory, "speed": _speed, "quality": _quality}
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        return {
            name: [] if isinstance(section, Unmeasured) or name not in draw else list(draw[name](section))  # type: ignore[operator]
            for name, section in validation.sections()
        }


def _svg(figure: Figure, words: str) -> Picture:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", text.replace("\n", " "), count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1), words


def _axes(columns: int = 1, width: float = 7.2, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _legend(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25 if axes.get_yscale() == "log" else high + 0.2 * (high - low))
    axes.legend(loc="best", handlelength=1.2, fontsize=8)


def _gradients(section: Gradients) -> Iterator[Picture]:
    """One panel for each depth, at the start and after training."""
    for steps in sorted({row.steps for row in section.rows}):
        rows = [row for row in section.rows if row.steps == steps]
        depths = sorted({row.depth for row in rows})
        figure, panels = _axes(len(depths))
        for axes, depth in zip(panels, depths, strict=True):
            for row in (row for row in rows if row.depth == depth):
                axes.plot(range(1, len(row.norms) + 1), row.norms, "o-", color=_COLOURS[row.side], label=row.side)
            axes.set(title=f"{depth} blocks", xlabel="block", yscale="log")
        panels[0].set_ylabel("gradient norm")
        _legend(panels[0])
        yield _svg(figure, f"Norm of the gradient of each block, median over seeds, after {steps} steps.")


def _memory(section: Memory) -> Iterator[Picture]:
    activities = list(dict.fromkeys(row.activity for row in section.rows))
    figure, panels = _axes(len(activities))
    for axes, activity in zip(panels, activities, strict=True):
        for side in SIDES:
            points = [
                (row.length, row.bytes / 2**20) for row in section.rows if (row.side, row.activity) == (side, activity)
            ]
            exponent = next((g.exponent for g in section.growth if (g.side, g.activity) == (side, activity)), None)
            label = side if exponent is None else f"{side}: length^{exponent:.2f}"
            axes.plot(*zip(*points, strict=True), "o-", color=_COLOURS[side], label=label)
        _lengths(axes, sorted({row.length for row in section.rows}))
        axes.set(title=activity, yscale="log")
        _legend(axes)
    panels[0].set_ylabel("peak, MiB")
    yield _svg(figure, "Peak of what was allocated during one call over the length of the sequence.")


def _speed(section: Speed) -> Iterator[Picture]:
    activities = list(dict.fromkeys(row.activity for row in section.rows))
    figure, panels = _axes(len(activities))
    for axes, activity in zip(panels, activities, strict=True):
        for side, variant in dict.fromkeys((r.side, r.variant) for r in section.rows if r.activity == activity):
            rows = [r for r in section.rows if (r.side, r.variant, r.activity) == (side, variant, activity)]
            middle = [r.seconds.median * 1000 for r in rows]
            errors = [
                [r.seconds.median * 1000 - r.seconds.low * 1000 for r in rows],
                [r.seconds.high * 1000 - r.seconds.median * 1000 for r in rows],
            ]
            style = "--" if variant == "uncached" else "-"
            label = f"{side}, {variant}" if variant else side
            axes.errorbar(
                [r.length for r in rows], middle, errors, fmt="o" + style, color=_COLOURS[side], label=label, capsize=2
            )
        _lengths(axes, sorted({r.length for r in section.rows if r.activity == activity}))
        axes.set(title=activity, yscale="log")
        _legend(axes)
    panels[0].set_ylabel("milliseconds")
    yield _svg(figure, "Time of one call over the length: the median, and the lowest and highest that were seen.")


def _with_spread(
    axes: Axes, found: Sequence[tuple[int, Spread]], side: SideName, variant: str = "", scale: float = 1.0
) -> None:
    """Medians, each with a bar from the lowest to the highest value."""
    middle = [one.median * scale for _, one in found]
    below = [(one.median - one.low) * scale for _, one in found]
    above = [(one.high - one.median) * scale for _, one in found]
    axes.errorbar(
        [place for place, _ in found], middle, [below, above], fmt="o--" if variant == "uncached" else "o-", capsize=2,
        color=_COLOURS[side], label=f"{side}, {variant}" if variant else side,
    )  # fmt: skip


def _lengths(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths], rotation=0 if len(lengths) < 6 else 45)
    axes.minorticks_off()
    axes.set_xlabel("length, tokens")


def _quality(section: Quality) -> Iterator[Picture]:
    figure, (curves, lengths) = _axes(2)
    for side in SIDES:
        own = [curve for curve in section.curves if curve.side == side]
        for number, curve in enumerate(own):
            label = f"{side}, {len(own)} seeds" if not number else None
            curves.plot(curve.steps, curve.losses, color=_COLOURS[side], alpha=0.75, linewidth=1.1, label=label)
        rows = [row for row in section.lengths if row.side == side and row.loss is not None]
        middle = [row.loss.median for row in rows if row.loss]
        errors = [
            [row.loss.median - row.loss.low for row in rows if row.loss],
            [row.loss.high - row.loss.median for row in rows if row.loss],
        ]
        lengths.errorbar(
            [row.factor for row in rows], middle, errors, fmt="o-", color=_COLOURS[side], label=side, capsize=2
        )
    curves.set(title="training", xlabel="step", ylabel="loss")
    lengths.set(title="longer than trained", xlabel="times the length that was trained", xticks=[1, 2, 4])
    _legend(curves)
    yield _svg(figure, "Loss over training, one line for each seed, and at lengths beyond that of training.")


def _attention(section: Attention) -> Iterator[Picture]:
    """Heatmaps of some layers, first to last, and of their first heads; all heads are in the table."""
    for side in SIDES:
        heads = [head for head in section.heads if head.side == side]
        layers = _some(sorted({head.layer for head in heads}), _LAYERS)
        shown = [[h for h in heads if h.layer == layer][:_HEADS] for layer in layers]
        most = max(len(row) for row in shown)
        figure = Figure(figsize=(0.4 + 1.7 * most, 0.2 + 1.75 * len(shown)), layout="constrained")
        for row, panels in zip(shown, figure.subplots(len(shown), most, squeeze=False), strict=True):
            for axes, head in zip(panels, row, strict=False):
                _heatmap(axes, head, side)
            for axes in panels[len(row) :]:
                axes.set_axis_off()
        yield _svg(figure, f"Attention of the {side} model: a row is a query, a column a key; darker is more.")


def _some(layers: list[int], count: int) -> list[int]:
    """First and last, and some between."""
    if len(layers) <= count:
        return layers
    return [layers[round(place * (len(layers) - 1) / (count - 1))] for place in range(count)]


def _heatmap(axes: Axes, head: Any, side: SideName) -> None:
    """Opacity of the side's colour says how much, so that the page's background shows through where there is none."""
    from matplotlib.colors import to_rgba

    most = max(max(row) for row in head.weights) or 1.0
    colour = to_rgba(_IMAGES[side])[:3]
    axes.imshow([[(*colour, min(value / most, 1.0)) for value in row] for row in head.weights], interpolation="nearest")
    axes.set_title(f"layer {head.layer + 1}, head {head.head + 1}", fontsize=8)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.4)


# Heatmaps are pictures inside of the SVG, which no variable of the page reaches: colours that both themes bear.
_IMAGES = {"legacy": "#c2571a", "migrated": "#1f7a8c"}
