"""What is asked of a conversion, and what it did: plain data, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from migrator.codemod import SwiGLUPart

Status = Literal["reused", "converted", "new", "resized", "dropped"]
Renamed = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class ModelFile:
    """The source of a model. `gates` are (owner, gate, up) of its gated feed-forwards."""

    path: Path
    text: str
    gates: tuple[tuple[str, str, str], ...] = ()
    probes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """One conversion.

    Args:
        old, out: the checkpoint to read, and the file (there already, and empty) to write.
        safetensors: whether `out` is to be in that format, instead of torch's own.
        model: the file whose layout the result has; None on the way back, where that is `legacy`.
        symbol, build: the class, and an expression that constructs it, as far as the user said so.
        starts, renamed: what the migration of `legacy` claims.
        back: from the migrated layout to the legacy one.
    """

    old: Path
    out: Path
    safetensors: bool
    model: ModelFile | None
    legacy: ModelFile | None
    symbol: str = ""
    build: str = ""
    starts: tuple[SwiGLUPart, ...] = ()
    renamed: Renamed = ()
    back: bool = False
    seed: int = 0

    @property
    def target(self) -> ModelFile:
        """The file that has the layout of the result."""
        found = self.legacy if self.back else self.model
        assert found is not None
        return found


@dataclass(frozen=True)
class Row:
    """One tensor: its name (`old -> new` where that changes), shapes before and after, and how it came about."""

    name: str
    status: Status
    before: str
    after: str
    how: str = ""


@dataclass(frozen=True)
class Conversion:
    """What was done.

    Args:
        built: how the model was constructed.
        rows: the tensors of the weights, in the order of the new layout, then those that were dropped.
        parameters: elements of all parameters before and after.
        notes: what else the file held, and what became of it.
        lost: what could not be converted and is not in the new file.
    """

    built: str
    rows: tuple[Row, ...]
    parameters: tuple[int, int]
    notes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Conversion:
        before, after = data["parameters"]
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(data["built"], rows, (before, after), tuple(data["notes"]), tuple(data["lost"]))
