"""What a proof found, as data: no torch, so that the report can hold it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["proved", "failed", "not verified", "skipped"]
TensorStatus = Literal["reused", "new", "dropped", "resized"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `figure` is what was measured and `limit` the most it may be.

    Args:
        name: what was checked, such as `parity float64`.
        symbol: the class it was checked on.
        stage: the codemods of the step that the check belongs to.
    """

    name: str
    symbol: str
    passed: bool
    message: str
    figure: float | None = None
    limit: float | None = None
    stage: str = ""


@dataclass(frozen=True)
class TensorRow:
    """One entry of the state dict, as it was and as it shall be; shapes as text, empty where there is none."""

    name: str
    status: TensorStatus
    before: str
    after: str


@dataclass(frozen=True)
class Verification:
    """The verdict on one file.

    Args:
        notes: what a reader has to know; where nothing was proved, the first one says why.
        parameters: (what, count before, count after), counted on modules of the size that the file itself builds.
        confinement: what kept the code from files, network and other processes: `namespaces`, `landlock` or `nothing`;
            empty where none of it ran.
    """

    status: Status
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    parameters: tuple[tuple[str, int, int], ...] = ()
    seconds: float = 0.0
    confinement: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verification:
        return cls(
            status=data["status"],
            checks=tuple(Check(**check) for check in data["checks"]),
            notes=tuple(data["notes"]),
            tensors=tuple(TensorRow(**row) for row in data["tensors"]),
            parameters=tuple((what, before, after) for what, before, after in data["parameters"]),
            seconds=data["seconds"],
            confinement=data["confinement"],
        )
