"""What a validation measured, as data: no torch here, so that reports and commands can read it without.

Every section is either measured or says why it could not be. Of everything measured there are two sides.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

VERSION = 1
SideName = Literal["legacy", "migrated"]
SIDES: tuple[SideName, SideName] = ("legacy", "migrated")


@dataclass(frozen=True)
class Spread:
    """The middle of `n` measurements, and how far they lie apart."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        ordered = sorted(values)
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        return cls(median, ordered[0], ordered[-1], len(ordered))


@dataclass(frozen=True)
class Verdict:
    """One sentence that a section says of the migration. `worse` is what a reader has to look at."""

    level: Literal["better", "same", "worse", "note"]
    text: str


@dataclass(frozen=True)
class Unmeasured:
    """A section without figures, and why."""

    reason: str


@dataclass(frozen=True)
class Subject:
    """The model that was measured and how it was built; `parameters` by side, `blocks` in its longest stack."""

    symbol: str
    built: str
    full_size: bool
    blocks: int
    parameters: dict[SideName, int]


# --- gradients ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GradientRow:
    """Gradients of one model: `norms` of its blocks, first to last, the median over `seeds`.

    `depth` is the number of blocks, `steps` how many it was trained before. `nonfinite` and `exploding` count seeds.
    """

    side: SideName
    depth: int
    steps: int
    seeds: int
    norms: tuple[float, ...]
    ratio: float
    nonfinite: int
    exploding: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Gradients:
    rows: tuple[GradientRow, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


# --- attention ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """Attention of one head, means over queries.

    Args:
        entropy: of its weights, as a share of the largest that is possible, 0 to 1.
        distance: between query and key, in tokens.
        sink: the share that goes to the first key.
        weights: of the first sequence, `(rows, columns)` of queries and keys; where there are more than 48 of either,
            means over patches.
    """

    side: SideName
    layer: int
    head: int
    entropy: float
    distance: float
    sink: float
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Sensitivity:
    """How far attention is from uniform where all tokens are the same, 0 to 1: 0 if it knows no positions."""

    side: SideName
    spread: float


@dataclass(frozen=True)
class Attention:
    length: int
    heads: tuple[Head, ...]
    positions: tuple[Sensitivity, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


# --- memory and speed ---------------------------------------------------------------------------------------------

Activity = Literal["forward", "training step", "generation"]


@dataclass(frozen=True)
class MemoryRow:
    """The peak of what was allocated during an activity, in bytes, beyond parameters and inputs."""

    side: SideName
    activity: Activity
    batch: int
    length: int
    bytes: int


@dataclass(frozen=True)
class Growth:
    """The exponent of the length that fits the measured peaks best."""

    side: SideName
    activity: Activity
    exponent: float


@dataclass(frozen=True)
class Memory:
    counter: str  # what counted: torch's allocator events, the process's peak, CUDA's statistics
    rows: tuple[MemoryRow, ...]
    growth: tuple[Growth, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


@dataclass(frozen=True)
class SpeedRow:
    """Time of one call; `variant` tells apart how the same side generates: "" or "cached"."""

    side: SideName
    activity: Activity
    variant: str
    batch: int
    length: int
    seconds: Spread
    tokens_per_second: float


@dataclass(frozen=True)
class Speed:
    rows: tuple[SpeedRow, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


# --- quality ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Losses of one training run, one for each of `steps`."""

    side: SideName
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class LengthRow:
    """The loss at `factor` times the length that was trained; None where the model cannot be run at that length."""

    side: SideName
    factor: int
    loss: Spread | None
    reason: str = ""


@dataclass(frozen=True)
class DivergenceRow:
    """How many of `seeds` runs came to no finite loss, or one above that of their start, at a learning rate."""

    side: SideName
    learning_rate: float
    diverged: int
    seeds: int


@dataclass(frozen=True)
class Quality:
    task: str
    learning_rate: float
    curves: tuple[Curve, ...]
    final: dict[SideName, Spread]
    lengths: tuple[LengthRow, ...]
    divergence: tuple[DivergenceRow, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


# --- more than one process ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScaleRow:
    """Losses of the migrated model trained by several processes, beside those of a single one."""

    mode: str
    options: str
    losses: tuple[float, ...]
    single: tuple[float, ...]
    difference: float
    equal: bool
    note: str = ""


@dataclass(frozen=True)
class Scaling:
    processes: int
    backend: str
    rows: tuple[ScaleRow, ...]
    verdicts: tuple[Verdict, ...]
    note: str = ""


# --- all of it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promised:
    """A figure that the guide promises, and what was measured of it; `measured` is empty where nothing could be."""

    claim: str
    claimed: str
    measured: str
    why: str = ""


@dataclass(frozen=True)
class Environment:
    python: str
    torch: str
    device: str
    threads: int
    processor: str
    platform: str
    tool: str


Section = Gradients | Attention | Memory | Speed | Quality | Scaling | Unmeasured


@dataclass(frozen=True)
class Validation:
    """Two texts of one model, measured side by side."""

    legacy: str
    migrated: str
    subject: Subject
    environment: Environment
    gradients: Gradients | Unmeasured
    attention: Attention | Unmeasured
    memory: Memory | Unmeasured
    speed: Speed | Unmeasured
    quality: Quality | Unmeasured
    scaling: Scaling | Unmeasured
    promised: tuple[Promised, ...]
    notes: tuple[str, ...]
    seconds: float

    def sections(self) -> Iterator[tuple[str, Section]]:
        for name in ("gradients", "attention", "memory", "speed", "quality", "scaling"):
            yield name, getattr(self, name)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        measured = [section for _, section in self.sections() if not isinstance(section, Unmeasured)]
        return tuple(verdict for section in measured for verdict in section.verdicts)

    @property
    def worse(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.level == "worse")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; a figure that is no finite number is a string, because JSON has no other way to say it."""
        return {"version": VERSION, **plain(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Validation:
        return typing.cast(Validation, made(cls, {name: value for name, value in data.items() if name != "version"}))


def plain(value: Any) -> Any:
    """Frozen data as JSON; what carries no verdicts because it was not measured is known by its one key."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return repr(value) if isinstance(value, float) and value - value != 0 else value


def made(kind: Any, data: Any) -> Any:
    """The other way round, led by annotations."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, data)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: made(hints[name], item) for name, item in data.items()})  # type: ignore[operator]
    if origin is tuple:
        return tuple(made(arguments[0], item) for item in data)
    if origin is dict:
        return {key: made(arguments[1], item) for key, item in data.items()}
    return float(data) if kind is float else data


def _one_of(kinds: tuple[Any, ...], data: Any) -> Any:
    """A union here is one measured section, or a value, beside `Unmeasured` or None."""
    if data is None:
        return None
    unmeasured = isinstance(data, dict) and data.keys() == {"reason"}
    chosen = [kind for kind in kinds if (kind is Unmeasured) == unmeasured and kind is not types.NoneType]
    return made(chosen[0], data)
