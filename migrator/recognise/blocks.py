"""Transformer blocks: two residual sums, and where the norms sit.

A block is a class whose forward adds the output of an attention to a residual. The norm placement is decided by
dataflow: "pre" (the sublayer sees norm(residual), the residual stays raw), "post" (the sum is normalised), "residual"
(the residual itself is normalised before), "sandwich" (the sublayer's output is normalised), or "none".
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from migrator.recognise.attention import attending_classes
from migrator.recognise.composition import components
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.noise import is_noise
from migrator.recognise.values import Flow, Value, strip

NORMS = {"torch.nn.LayerNorm", "torch.nn.RMSNorm"}


@dataclass(eq=False)
class Sublayer:
    """One residual sum: total = residual + branch."""

    kind: str  # attention | feed_forward | other
    placement: str  # pre | post | residual | sandwich | none
    total: Value
    residual: Value
    branch: Value
    norm: str = ""  # attribute of the norm that decides the placement
    norm_call: Value | None = None
    module: str = ""  # attribute of the attention or of the feed-forward's last product
    steps: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Block:
    """A transformer block and its sublayers in the order of computation."""

    info: ClassInfo
    flow: Flow
    sublayers: list[Sublayer]

    @property
    def placement(self) -> str:
        kinds = {sublayer.placement for sublayer in self.sublayers}
        return kinds.pop() if len(kinds) == 1 else "mixed"


def blocks(index: FileIndex) -> dict[str, Block]:
    """Every block of the file, by class name."""
    if "blocks" not in index.memo:
        attending = attending_classes(index)
        found = {name: _block(index, info, attending) for name, info in index.modules.items() if name not in attending}
        index.memo["blocks"] = {name: block for name, block in found.items() if block is not None}
    result: dict[str, Block] = index.memo["blocks"]
    return result


def norms(info: ClassInfo) -> dict[str, ast.Call]:
    """Attributes of a class that are torch's own norms."""
    return {
        name: value
        for name in info.attributes
        if isinstance(value := info.attribute(name), ast.Call) and info.index.resolve(value.func) in NORMS
    }


def linears(info: ClassInfo) -> dict[str, ast.Call]:
    """Attributes of a class, and items of its ModuleDicts ("mlp.fc"), that are linear products."""
    names = [*info.attributes, *(f"{name}.{key}" for name in info.attributes for key in info.items_of(name))]
    return {
        name: value
        for name in names
        if isinstance(value := info.attribute(name), ast.Call) and info.index.resolve(value.func) == "torch.nn.Linear"
    }


def flagged(index: FileIndex) -> list[ClassInfo]:
    """Classes that would be blocks, but in which a condition decides where the norms sit."""
    attending = attending_classes(index)
    others = (info for name, info in index.modules.items() if name not in attending and name not in blocks(index))
    return [info for info in others if _is_flagged(index, info, _attentions_of(index, info, attending))]


def _is_flagged(index: FileIndex, info: ClassInfo, held: set[str]) -> bool:
    flow = method_flow(info)
    if not held or flow is None:
        return False
    choices = [value.args[1:] for value in flow.of("phi")]
    choices += [tuple(value for value, _ in flow.returns)] if len(flow.returns) > 1 else []
    return any(_is_choice_of_norms(info, sides, held) for sides in choices)


def _is_choice_of_norms(info: ClassInfo, sides: tuple[Value, ...], held: set[str]) -> bool:
    """Whether one of several values is another one, normalised, or they are sums that norms belong to."""
    known = norms(info)
    normed = [side for side in sides if side.op == "module" and side.data in known and side.args]
    sums = [sublayer for side in sides for sublayer in _unwind(info, side, held)]
    placements = {sublayer.placement for sublayer in sums if sublayer.kind == "attention"}
    return any(side.args[0] in sides for side in normed) or len(placements) > 1


def _attentions_of(index: FileIndex, info: ClassInfo, attending: set[str]) -> set[str]:
    """Attributes of a class that attend."""
    held = {c.attribute for c in components(info) if c.name in attending and c.kind == "single"}
    held |= {
        name
        for name in info.attributes
        if isinstance(value := info.attribute(name), ast.Call)
        and index.resolve(value.func) == "torch.nn.MultiheadAttention"
    }
    return held


def _block(index: FileIndex, info: ClassInfo, attending: set[str]) -> Block | None:
    held = _attentions_of(index, info, attending)
    if not held:
        return None
    flow = method_flow(info)
    if flow is None or len(flow.returns) != 1:
        return None
    sublayers = _unwind(info, flow.returns[0][0], held)
    if not any(sublayer.kind == "attention" for sublayer in sublayers):
        return None
    if all(sublayer.kind == "attention" for sublayer in sublayers) and is_half(index, info):
        return None
    return Block(info, flow, sublayers[::-1])


def is_half(index: FileIndex, info: ClassInfo) -> bool:
    """Whether a class with a sum around its attention is only a part of layers: each that has it has other modules."""
    holders = {site.definition.name for site in index.calls.get(info.name, [])} & index.modules.keys()
    others = [
        any(c.name in index.modules and c.name != info.name for c in components(index.modules[holder]))
        for holder in holders
    ]
    return bool(others) and all(others)


def _unwind(info: ClassInfo, value: Value, attending: set[str]) -> list[Sublayer]:
    """Sublayers from the last one back."""
    found: list[Sublayer] = []
    known = norms(info)
    while True:
        value = _first_of_tuple(strip(value))
        outer = value if value.op == "module" and value.data in known else None
        total = strip(value.args[0]) if outer is not None else value
        if total.op != "add" or len(total.args) != 2:
            return found
        sublayer = _sublayer(info, total, outer, attending)
        if sublayer is None:
            return found
        found.append(sublayer)
        value = sublayer.residual


def _first_of_tuple(value: Value) -> Value:
    return value.args[0] if value.op == "tuple" and value.args else value


def _sublayer(info: ClassInfo, total: Value, outer: Value | None, attending: set[str]) -> Sublayer | None:
    for residual, branch in (total.args, total.args[::-1]):
        steps = steps_between(branch, residual)
        if steps is None:
            continue
        kind, module = _kind(info, steps, attending)
        placement, norm = _placement(info, total, residual, steps, outer)
        name = norm.data if norm is not None else ""
        return Sublayer(kind, placement, total, residual, branch, name, norm, module, steps)
    return None


def steps_between(branch: Value, residual: Value, depth: int = 24) -> list[Value] | None:
    """The values from `branch` back to `residual`, if that is where it comes from."""
    if branch is residual:
        return []
    if depth == 0:
        return None
    for arg in branch.operands():
        rest = steps_between(arg, residual, depth - 1)
        if rest is not None:
            return [branch, *rest]
    return None


def _kind(info: ClassInfo, steps: list[Value], attending: set[str]) -> tuple[str, str]:
    for step in steps:
        if step.op == "module" and step.data in attending:
            return "attention", step.data
    known = norms(info)
    for step in steps:
        if step.op == "module" and step.data not in known and not is_noise(info, step):
            return "feed_forward", step.data
    return "other", ""


def _placement(
    info: ClassInfo, total: Value, residual: Value, steps: list[Value], outer: Value | None
) -> tuple[str, Value | None]:
    known = norms(info)
    inner = steps[-1] if steps else None
    first = inner if inner is not None and inner.op == "module" and inner.data in known else None
    last = next((step for step in steps if step.op != "contiguous" and not is_noise(info, step)), None)
    raw = strip(residual)
    if outer is not None:
        return ("post", outer) if first is None else ("sandwich", outer)
    if last is not None and last is not first and last.op == "module" and last.data in known:
        return "sandwich", last
    if first is not None:
        return "pre", first
    if raw.op == "module" and raw.data in known and strip(raw.args[0]).op != "add":
        return "residual", raw
    return "none", None
