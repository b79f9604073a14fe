"""The gated feed-forwards of a layout, and where their weights can start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from migrator.checkpoint.layout import Layout
from migrator.checkpoint.request import Request
from migrator.codemod import SwiGLUPart
from migrator.prove.states import State, under


@dataclass(frozen=True)
class Start:
    """A gated feed-forward: paths of its gate and `up`, of all three products, and how it starts from old weights.

    `part` is None where the gate was seen in the migrated file, but not where it came from.
    """

    gate: str
    up: str
    products: tuple[str, ...]
    part: SwiGLUPart | None

    def begins(self, old: State, layout: Layout, origin: Mapping[str, str]) -> bool:
        """Whether the old weights are those of a feed-forward of the same width without a gate."""
        weight = f"{self.gate}.weight"
        source = origin.get(weight, "")
        return source in old and old[source].shape == layout.state[weight].shape and f"{self.up}.weight" not in old

    def spelled(self, name: str) -> str:
        """How one of its tensors comes about, for people."""
        assert self.part is not None
        k = f"{self.part.sharpness:g}"
        if under(name, [self.gate]):
            return f"{k} * old; within {self.part.bound} of {self.part.activation} per unit"
        return f"1/{k}" if name.endswith("bias") else "0"


def starts_of(request: Request, layout: Layout) -> list[Start]:
    """The gated feed-forwards of a model: those that the migration claims, then others that its file shows."""
    found: dict[str, Start] = {}
    for part in request.starts:
        for path in layout.paths(part.owner):
            gate, up, down = (path + name for name in (part.gate, part.up, part.down))
            found[gate] = Start(gate, up, (gate, up, down), part)
    seen = [] if request.model is None else list(request.model.gates)
    gates = [(path + gate, path + up) for owner, gate, up in seen for path in layout.paths(owner)]
    gates += [(f"{path}gate", f"{path}up") for path in layout.paths("SwiGLU")]
    for gate, up in gates:
        if f"{gate}.weight" in layout.state:
            found.setdefault(gate, Start(gate, up, (gate, up, *_down(gate, layout)), None))
    return [start for start in found.values() if request.back or f"{start.gate}.weight" in layout.state]


def _down(gate: str, layout: Layout) -> list[str]:
    """Products beside a gate that lead back from its width: where that was changed, they were too."""
    prefix = gate[: gate.rfind(".") + 1]
    hidden, width = layout.state[f"{gate}.weight"].shape
    names = [
        name.removesuffix(".weight") for name in layout.state if name.startswith(prefix) and name.endswith(".weight")
    ]
    return [name for name in names if tuple(layout.state[f"{name}.weight"].shape) == (width, hidden)]


def unknown(old: State, layout: Layout, origin: Mapping[str, str], starts: Iterable[Start]) -> Start | None:
    """A gate of which only the legacy file could say which tensors and which activation it stands for."""
    known = {name: origin.get(name, name) for name in layout.state}
    for start in starts:
        lost = known[f"{start.gate}.weight"] not in old and f"{start.up}.weight" not in old
        if lost or (start.part is None and start.begins(old, layout, known)):
            return start
    return None
