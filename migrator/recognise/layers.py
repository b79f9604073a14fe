"""Transformer layers whose residual sums or norms stand in other classes than the one that runs both sublayers.

`blocks` knows a block that writes its two sums in its own forward. A layer here is anything else that computes the
same: sums in an Output class, in a wrapper that takes the sublayer as an argument, in the attention class itself, or
in a loop over the pairs of a ModuleList. It is read through those classes (`inlining`), and where its norms sit is
decided as for a block.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.activations import bends
from migrator.recognise.attention import attending_classes
from migrator.recognise.blocks import NORMS, blocks, flagged, is_half
from migrator.recognise.composition import mentioned
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.inlining import NESTED, Frame, Seen, callee, element, is_norm, settle, top_frame
from migrator.recognise.noise import behind_noise, is_noise
from migrator.recognise.pairs import Pairs, pairs_of
from migrator.recognise.values import Value


@dataclass(eq=False)
class Sum:
    """One residual sum, total = residual + branch, with the values of the branch from its end to the residual.

    kind: attention | feed_forward | other. placement: as for the sublayer of a block; `norm` decides it. `optional`
    tells that a condition may leave the sum out.
    """

    kind: str
    placement: str
    total: Seen
    residual: Seen
    branch: Seen
    steps: list[Seen]
    norm: Seen | None = None
    optional: bool = False


@dataclass(eq=False)
class Layer:
    """A layer: the class `info`, or the pairs in an attribute of `info`; its sums in order of computation."""

    info: ClassInfo
    sums: list[Sum]
    pairs: Pairs | None = None
    result: Value | None = None  # of the loop over pairs
    whole: bool = True  # all that one step of the loop does
    frames: set[Frame] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.info.name}.{self.pairs.attribute}" if self.pairs is not None else self.info.name

    @property
    def placement(self) -> str:
        kinds = {one.placement for one in self.sums}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def parts(self) -> set[str]:
        """The classes of the file that run inside of it."""
        names = {frame.owner.name for frame in self.frames if frame.owner is not None}
        return names - {self.info.name}

    @property
    def homes(self) -> list[str]:
        """The classes beside its own in which sums and norms stand."""
        places = [seen.frame.owner for one in self.sums for seen in (one.norm, one.total) if seen is not None]
        names = [owner.name for owner in places if owner is not None and owner.name != self.info.name]
        return list(dict.fromkeys(names))


def layers(index: FileIndex) -> list[Layer]:
    """All layers of the file that are no blocks, those in classes first."""
    if "layers" not in index.memo:
        index.memo["layers"] = _layers(index)
    found: list[Layer] = index.memo["layers"]
    return found


def unread_pairs(index: FileIndex) -> Iterator[Pairs]:
    """Pairs of which it cannot be told what they compute, and in which some member attends, or may."""
    known = {id(layer.pairs) for layer in layers(index)}
    attending = attending_classes(index)
    for info in index.modules.values():
        reached = {one.name for one in mentioned(index, info.name)} & attending
        for pairs in pairs_of(info) if reached else ():
            if id(pairs) not in known and any(_may_attend(index, member, attending) for member in pairs.members):
                yield pairs


def _may_attend(index: FileIndex, member: ast.expr, attending: set[str]) -> bool:
    names = {node.id for node in ast.walk(member) if isinstance(node, ast.Name)} & index.classes.keys()
    return isinstance(member, ast.Name) or any(
        one.name in attending for name in names for one in mentioned(index, name)
    )


def own_norm(layer: Layer) -> str:
    """The class of a norm that decides the placement, if it is not torch's."""
    for one in layer.sums:
        made = made_by(one.norm) if one.norm is not None else None
        if made is not None and layer.info.index.resolve(made.func) not in NORMS:
            return ast.unparse(made.func)
    return ""


def made_by(seen: Seen) -> ast.Call | None:
    """The call that builds the module which a value's call runs."""
    runs = callee(seen)
    return runs.made if runs is not None else None


def is_gated(one: Sum) -> bool:
    """Whether two values that both come from the residual are multiplied on the way, or SwiGLU is."""
    for step in one.steps:
        made = made_by(step)
        if step.value.op == "runtime.swiglu" or (made is not None and "GLU(" in ast.unparse(made)):
            return True
        gate = step.value.op == "mul" and not bends(step.value)
        sides = [settle(Seen(arg, step.frame)) for arg in step.value.args] if gate else []
        if len(sides) == 2 and all(side == one.residual or _search(side, one.residual, set()) for side in sides):
            return True
    return False


def _layers(index: FileIndex) -> list[Layer]:
    attending = attending_classes(index)
    if not attending:
        return []
    known = {*blocks(index), *(info.name for info in flagged(index))}
    found = {info.name: layer for info in index.modules.values() if info.name not in known
             and (layer := _of_class(info, attending)) is not None}  # fmt: skip
    whole = [layer for name, layer in found.items() if not _is_within(layer, {*found, *known} - {name})]
    paired = [layer for info in index.modules.values() for layer in _of_pairs(info, attending)]
    inside = {name for layer in (*whole, *paired) for name in layer.parts}
    return [*(layer for layer in whole if layer.info.name not in inside), *paired]


def _of_class(info: ClassInfo, attending: set[str]) -> Layer | None:
    flow = method_flow(info)
    if flow is None or len(flow.returns) != 1:
        return None
    top = top_frame(info, flow)
    found = (_layer(info, end, top, attending) for end in _ends(Seen(flow.returns[0][0], top)))
    return next((layer for layer in found if layer is not None), None)


def _ends(seen: Seen, depth: int = NESTED) -> Iterator[Seen]:
    """What a forward gives out: one value, or those of a tuple, also of `weights + (x,)` under a condition."""
    seen = settle(seen)
    value = seen.value
    parts = {"tuple": value.args, "add": value.args, "phi": value.args[1:]}.get(value.op, ())
    if depth and (value.op == "tuple" or any(_is_tuple(Seen(part, seen.frame), depth) for part in parts)):
        for part in parts:
            yield from _ends(Seen(part, seen.frame), depth - 1)
    else:
        yield seen


def _is_tuple(seen: Seen, depth: int) -> bool:
    seen = settle(seen)
    parts = seen.value.args if depth and seen.value.op == "add" else ()
    return seen.value.op == "tuple" or any(_is_tuple(Seen(part, seen.frame), depth - 1) for part in parts)


def _of_pairs(info: ClassInfo, attending: set[str]) -> Iterator[Layer]:
    for pairs in pairs_of(info):
        found = list(_loops_over(pairs, attending))
        whole = [layer for layer in found if layer.whole]
        yield from whole or found[:1]


def _loops_over(pairs: Pairs, attending: set[str]) -> Iterator[Layer]:
    """What each name that a loop over the pairs hands on holds at its end."""
    flow = method_flow(pairs.owner)
    for value in flow.of("looped") if flow is not None else ():
        source = value.args[3]
        if flow is not None and source.op == "attr" and source.data == pairs.attribute:
            top = top_frame(pairs.owner, flow, pairs)
            layer = _layer(pairs.owner, Seen(value.args[2], top), top, attending)
            if layer is not None:
                layer.pairs, layer.result = pairs, value
                layer.whole = layer.sums[0].residual == settle(Seen(value.args[1], top))
                yield layer


def _layer(info: ClassInfo, end: Seen, top: Frame, attending: set[str]) -> Layer | None:
    sums = list(_unwind(_before_dropout(end), attending))[::-1]
    plain = all(one.kind == "attention" and one.placement == "none" for one in sums)  # as in convolutional nets
    if plain or not any(one.kind == "attention" for one in sums):
        return None
    if top.pairs is None and all(one.kind == "attention" for one in sums) and is_half(info.index, info):
        return None
    frames = {frame for one in sums for seen in (one.total, *one.steps) for frame in seen.frame.callers} - {top}
    return Layer(info, sums, frames=frames)


def _before_dropout(end: Seen) -> Seen:
    """The sum, where what a layer gives out passes through dropout once more."""
    end = settle(end)
    inner = settle(Seen(behind_noise(end.frame.owner, end.value), end.frame))
    return inner if inner.value.op == "add" else end


def _is_within(layer: Layer, others: set[str]) -> bool:
    """Whether all sums stand below attributes that are layers or blocks themselves."""
    tops = {one.total.frame.path.partition(".")[0] for one in layer.sums}
    owners = {frame.path: frame.owner.name for frame in layer.frames if frame.owner is not None}
    return "" not in tops and all(owners.get(top) in others for top in tops)


def _unwind(seen: Seen, attending: set[str]) -> Iterator[Sum]:
    """Sums from the last one back."""
    known: set[Seen] = set()
    while seen not in known:
        known.add(seen)
        seen = _first(settle(seen))
        one = _optional(seen, attending) if seen.value.op == "phi" else _last_sum(seen, attending)
        if one is None:
            return
        yield one
        seen = one.residual


def _optional(seen: Seen, attending: set[str]) -> Sum | None:
    """A sum that a condition leaves out: `if memory is not None: x = x + self.cross(x, memory)`."""
    yes, no = (_first(Seen(side, seen.frame)) for side in seen.value.args[1:])
    for taken, skipped in ((yes, no), (no, yes)):
        one = _last_sum(taken, attending)
        if one is not None and one.residual == skipped:
            one.optional = True
            return one
    return None


def _last_sum(seen: Seen, attending: set[str]) -> Sum | None:
    """The sum that a value is, or is a norm of."""
    outer = seen if is_norm_call(seen) else None
    total = _first(settle(Seen(seen.value.args[0], seen.frame))) if outer is not None else seen
    if total.value.op != "add" or len(total.value.args) != 2:
        return None
    return _sum(total, outer, attending)


def _first(seen: Seen) -> Seen:
    """The first element of a tuple that is given out."""
    while (inner := element(seen, 0)) is not None:
        seen = inner
    return settle(seen)


def _sum(total: Seen, outer: Seen | None, attending: set[str]) -> Sum | None:
    first, second = (settle(Seen(arg, total.frame)) for arg in total.value.args)
    for residual, branch in ((first, second), (second, first)):
        steps = _way(branch, residual, attending)
        if steps:
            placement, norm = _placement(residual, steps, outer)
            return Sum(_kind(steps, attending), placement, total, residual, branch, steps, norm)
    return None


def _way(branch: Seen, residual: Seen, attending: set[str]) -> list[Seen] | None:
    """The shortest way from a branch back to the residual that it starts from, through what can be read if possible."""
    return _search(branch, residual, set()) or _search(branch, residual, attending)


def _search(branch: Seen, residual: Seen, attending: set[str]) -> list[Seen] | None:
    before: dict[Seen, Seen | None] = {branch: None}
    todo = deque([branch])
    while todo:
        one = todo.popleft()
        for operand in _sources(one, attending):
            if operand == residual:
                return _back(one, before)
            if operand not in before:
                before[operand] = one
                todo.append(operand)
    return None


def _sources(seen: Seen, attending: set[str]) -> Iterator[Seen]:
    """What a value comes from; inside of an attention, which may be hard to read, that may be all that it is given."""
    yield from seen.operands()
    owner, function = seen.frame.owner, seen.frame.flow.function
    if owner is not None and owner.name in attending and function.name != "<lambda>":
        yield from (settle(given) for given in seen.frame.given.values())


def _back(last: Seen, before: dict[Seen, Seen | None]) -> list[Seen]:
    steps: list[Seen] = []
    here: Seen | None = last
    while here is not None:
        steps.append(here)
        here = before[here]
    return steps[::-1]


def _kind(steps: list[Seen], attending: set[str]) -> str:
    if any(_attends(step, attending) for step in steps):
        return "attention"
    products = [step for step in steps if step.value.op == "module" and not is_norm_call(step)]
    products = [step for step in products if not is_noise(step.frame.owner, step.value)]
    return "feed_forward" if products else "other"


def _attends(step: Seen, attending: set[str]) -> bool:
    owner = step.frame.owner
    if owner is not None and owner.name in attending:
        return True
    made = made_by(step)
    name = step.frame.index.resolve(made.func) if made is not None else None
    return name in attending or name == "torch.nn.MultiheadAttention"


def is_norm_call(seen: Seen) -> bool:
    """A call of torch's norm, or of one of the file's own or of an unknown class that is called a norm."""
    made = made_by(seen) if seen.value.args else None
    if made is None:
        return False
    name = seen.frame.index.resolve(made.func) or ""
    info = seen.frame.index.modules.get(name)
    return name in NORMS or (is_norm(info) if info is not None else "norm" in name.rpartition(".")[2].lower())


def _placement(residual: Seen, steps: list[Seen], outer: Seen | None) -> tuple[str, Seen | None]:
    first = steps[-1] if is_norm_call(steps[-1]) else None
    last = next((step for step in steps if not is_noise(step.frame.owner, step.value)), None)
    if outer is not None:
        return ("post", outer) if first is None else ("sandwich", outer)
    if last is not None and last is not first and is_norm_call(last):
        return "sandwich", last
    if first is not None:
        return "pre", first
    if is_norm_call(residual) and settle(Seen(residual.value.args[0], residual.frame)).value.op != "add":
        return "residual", residual
    return "none", None
