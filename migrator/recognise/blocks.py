"""Transformer blocks: two residual sums, where the norms sit, and the feed-forward in them.

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
from migrator.recognise.pairs import partners
from migrator.recognise.values import Flow, Value, strip

NORMS = {"torch.nn.LayerNorm", "torch.nn.RMSNorm"}
ACTIVATIONS = {"relu", "gelu"}
_LETTERS = {"torch.nn.Linear": "L", "torch.nn.ReLU": "A", "torch.nn.GELU": "A", "torch.nn.Dropout": "D"}


@dataclass(eq=False)
class FeedForward:
    """down(activation(up(x))) of two nn.Linear attributes, in a method of `owner`.

    kind: "inline" (in forward), "sequential" (one nn.Sequential attribute, `attribute`). `call` computes the first
    product and `activation` is applied to it.
    """

    owner: ClassInfo
    flow: Flow
    kind: str
    first: str
    last: str
    call: Value | None
    activation: Value | None
    name: str  # of the activation
    attribute: str = ""


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
    return {
        name: value
        for name in info.attributes
        if isinstance(value := info.attribute(name), ast.Call) and info.index.resolve(value.func) == "torch.nn.Linear"
    }


def feed_forwards(index: FileIndex) -> list[FeedForward]:
    """The legacy feed-forwards of all blocks, each once."""
    found: dict[tuple[str, str], FeedForward] = {}
    for block in blocks(index).values():
        for sublayer in block.sublayers:
            if sublayer.kind != "attention":
                one = _feed_forward(index, block, sublayer)
                if one is not None:
                    found[one.owner.name, one.first or one.attribute] = one
    for partner in partners(index):
        one = _own_class(index, index.modules[partner.name])
        if one is not None:
            found.setdefault((one.owner.name, one.first or one.attribute), one)
    return list(found.values())


def strange_feed_forward(index: FileIndex, block: Block) -> str:
    """The attribute that a feed-forward sublayer ends in, if that sublayer is of no known form."""
    for sublayer in block.sublayers:
        if sublayer.kind == "feed_forward" and _feed_forward(index, block, sublayer) is None:
            return sublayer.module
    return ""


def has_modern_feed_forward(block: Block) -> bool:
    """Whether the block's feed-forward is gated already."""
    return any(
        _is_gate(step, sublayer.residual) or _is_gated_module(block.info, step)
        for sublayer in block.sublayers
        if sublayer.kind == "feed_forward"
        for step in sublayer.steps
    )


def _is_gate(value: Value, source: Value) -> bool:
    """Whether two values that both come from `source` are multiplied."""
    if value.op == "runtime.swiglu":
        return True
    return value.op == "mul" and all(_steps(arg, source) is not None for arg in value.args)


def _is_gated_module(info: ClassInfo, step: Value) -> bool:
    if step.op != "module":
        return False
    value = info.attribute(step.data)
    text = info.definition.source(value) if value is not None else ""
    if "GLU(" in text:
        return True
    inner = (
        info.index.modules.get(value.func.id)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
        else None
    )
    flow = method_flow(inner) if inner is not None else None
    entry = next((v for v in flow.values if v.op == "param"), None) if flow is not None else None
    if flow is None or entry is None or inner is None or inner is info:
        return False
    return any(_is_gate(value, entry) or _is_gated_module(inner, value) for value in flow.values)


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
    return Block(info, flow, sublayers[::-1])


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
        steps = _steps(branch, residual)
        if steps is None:
            continue
        kind, module = _kind(info, steps, attending)
        placement, norm = _placement(info, total, residual, steps, outer)
        name = norm.data if norm is not None else ""
        return Sublayer(kind, placement, total, residual, branch, name, norm, module, steps)
    return None


def _steps(branch: Value, residual: Value, depth: int = 24) -> list[Value] | None:
    """The values from `branch` back to `residual`, if that is where it comes from."""
    if branch is residual:
        return []
    if depth == 0:
        return None
    for arg in branch.operands():
        rest = _steps(arg, residual, depth - 1)
        if rest is not None:
            return [branch, *rest]
    return None


def _kind(info: ClassInfo, steps: list[Value], attending: set[str]) -> tuple[str, str]:
    for step in steps:
        if step.op == "module" and step.data in attending:
            return "attention", step.data
    known = norms(info)
    for step in steps:
        if step.op == "module" and step.data not in known:
            return "feed_forward", step.data
    return "other", ""


def _placement(
    info: ClassInfo, total: Value, residual: Value, steps: list[Value], outer: Value | None
) -> tuple[str, Value | None]:
    known = norms(info)
    inner = steps[-1] if steps else None
    first = inner if inner is not None and inner.op == "module" and inner.data in known else None
    last = next((step for step in steps if step.op not in ("dropout", "contiguous")), None)
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


def _feed_forward(index: FileIndex, block: Block, sublayer: Sublayer) -> FeedForward | None:
    found = _two_products(block.info, block.flow, sublayer.steps)
    if found is not None:
        return found
    if sublayer.kind != "feed_forward":
        return None
    value = block.info.attribute(sublayer.module)
    if isinstance(value, ast.Call) and index.resolve(value.func) == "torch.nn.Sequential":
        name = _sequential_activation(index, value)
        return (
            FeedForward(block.info, block.flow, "sequential", "", "", None, None, name, sublayer.module)
            if name
            else None
        )
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in index.modules:
        return _own_class(index, index.modules[value.func.id])
    return None


def _own_class(index: FileIndex, info: ClassInfo) -> FeedForward | None:
    """A class whose whole forward is a feed-forward, or a Sequential that is one."""
    flow = method_flow(info)
    if flow is None or len(flow.returns) != 1:
        return None
    value = flow.returns[0][0]
    entry = next((v for v in flow.values if v.op == "param"), None)
    steps = _steps(value, entry) if entry is not None else None
    if steps is None:
        return None
    found = _two_products(info, flow, steps)
    modules = [step for step in steps if step.op == "module"]
    if found is None and len(modules) == 1:
        inner = info.attribute(modules[0].data)
        if isinstance(inner, ast.Call) and index.resolve(inner.func) == "torch.nn.Sequential":
            name = _sequential_activation(index, inner)
            return FeedForward(info, flow, "sequential", "", "", None, None, name, modules[0].data) if name else None
    return found


def _two_products(info: ClassInfo, flow: Flow, steps: list[Value]) -> FeedForward | None:
    """Linear, activation, linear among the steps, with nothing but dropout and norms around them."""
    known, ends = linears(info), norms(info)
    core = [
        s
        for s in steps
        if s.op not in ("dropout", "contiguous", "identity") and not (s.op == "module" and s.data in ends)
    ]
    if len(core) != 3:
        return None
    last, activation, first = core
    if not all(s.op == "module" and s.data in known for s in (last, first)) or activation.op not in ACTIVATIONS:
        return None
    between = steps[steps.index(last) + 1 : steps.index(first)]
    if any(s.op == "module" for s in between) or _lies_between(steps, activation, first):
        return None
    return FeedForward(info, flow, "inline", first.data, last.data, first, activation, activation.op)


def _lies_between(steps: list[Value], activation: Value, first: Value) -> bool:
    """Whether anything stands between the first product and its activation."""
    return steps.index(first) - steps.index(activation) != 1


def _sequential_activation(index: FileIndex, value: ast.Call) -> str:
    """Name of the activation of Sequential([norm], Linear, activation, [Dropout], Linear, [Dropout]), else ""."""
    if any(not isinstance(arg, ast.Call) for arg in value.args) or value.keywords:
        return ""
    kinds = [index.resolve(arg.func) or "" for arg in value.args if isinstance(arg, ast.Call)]
    kinds = kinds[1:] if kinds and kinds[0] in NORMS else kinds
    shape = "".join(_LETTERS.get(kind, "?") for kind in kinds)
    known = {"torch.nn.ReLU": "relu", "torch.nn.GELU": "gelu"}
    return known[kinds[1]] if shape in ("LAL", "LADL", "LALD", "LADLD") else ""
