"""The feed-forwards of blocks and layers: down(activation(up(x)))."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.activations import activation_made, activation_of, bends
from migrator.recognise.blocks import NORMS, Block, Sublayer, blocks, norms, steps_between
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.inlining import Frame
from migrator.recognise.lambdas import lambda_flow
from migrator.recognise.layers import Sum, is_norm_call, layers, made_by
from migrator.recognise.matrices import products
from migrator.recognise.noise import is_noise
from migrator.recognise.pairs import partners
from migrator.recognise.values import Flow, Value

_PLAIN = ("contiguous", "identity")
_LETTERS = {"torch.nn.Linear": "L", "torch.nn.ReLU": "A", "torch.nn.GELU": "A", "torch.nn.Dropout": "D"}


@dataclass(eq=False)
class FeedForward:
    """down(activation(up(x))) of two nn.Linear attributes, in a method of `owner`.

    kind: "inline" (in forward, or in the lambda that the attribute `kept_in` holds), "sequential" (one nn.Sequential
    attribute, `attribute`), "split" (over two classes, see `halves`). `call` computes the first product and
    `activation` is applied to it.
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
    kept_in: str = ""
    halves: Halves | None = None

    @property
    def home(self) -> str:
        """The class below which the proof finds the products."""
        return self.halves.layer.name if self.halves is not None else self.owner.name

    @property
    def definitions(self) -> tuple[str, ...]:
        """The classes that a gate changes."""
        return (self.owner.name, self.halves.last.name) if self.halves is not None else (self.owner.name,)


@dataclass(frozen=True, eq=False)
class Halves:
    """A feed-forward of `layer` whose second product stands in the class `last`, each run by a frame of its own."""

    layer: ClassInfo
    last: ClassInfo
    frames: tuple[Frame, Frame]
    value: Value  # the second product


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
    for one in _of_layers(index):
        found.setdefault((one.owner.name, one.first or one.attribute), one)
    return list(found.values())


def _of_layers(index: FileIndex) -> Iterator[FeedForward]:
    for layer in layers(index):
        for one in layer.sums:
            found = of_sum(index, one) if one.kind == "feed_forward" else None
            if found is not None:
                yield found


def _split(index: FileIndex, one: Sum) -> FeedForward | None:
    """Two products in two classes, as BERT writes them: dense and activation here, dense, dropout and sum there."""
    core = [step for step in one.steps if step.value.op not in _PLAIN and not is_noise(step.frame.owner, step.value)]
    core = [step for step in core if not is_norm_call(step)]
    if len(core) != 3:
        return None
    last, activation, first = core
    owners = (first.frame.owner, last.frame.owner)
    layer = one.total.frame.callers[-1].owner
    if activation.frame is not first.frame or last.frame is first.frame or None in (*owners, layer):
        return None
    assert owners[0] is not None and owners[1] is not None and layer is not None
    if first.value.data not in products(owners[0]) or last.value.data not in products(owners[1]):
        return None
    name = activation_of(index, owners[0], activation.value)
    if not name or any(step.frame.pairs is not None for step in core):
        return None
    halves = Halves(layer, owners[1], (first.frame, last.frame), last.value)
    return FeedForward(
        owners[0], first.frame.flow, "split", first.value.data, last.value.data, first.value, activation.value, name,
        halves=halves,
    )  # fmt: skip


def of_sum(index: FileIndex, one: Sum) -> FeedForward | None:
    """The feed-forward of a residual sum, in one class or two."""
    for last in one.steps:
        made = made_by(last) if last.value.op == "module" else None
        name = index.resolve(made.func) if made is not None else None
        owner, flow = last.frame.owner, last.frame.flow
        if made is None or owner is None or flow.function.name != "forward":
            continue
        if name == "torch.nn.Sequential" and owner.attribute(last.value.data) is made:
            kind = _sequential_activation(index, made)
            return FeedForward(owner, flow, "sequential", "", "", None, None, kind, last.value.data) if kind else None
        if last.value.data in products(owner):
            inside = list(_chain(owner, last.value))
            return _two_products(owner, flow, inside) or _split(index, one)
    return None


def _chain(info: ClassInfo, last: Value) -> Iterator[Value]:
    """A value and what it is made of, as the function says it that it stands in: first operands all the way."""
    while last.op not in ("param", "add") and last.args and (last.op != "phi" or is_noise(info, last)):
        yield last
        last = last.args[0] if last.op != "phi" else max(last.args[1:], key=lambda side: is_noise(info, side))


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
        if not is_noise(block.info, step)
    )


def _is_gate(value: Value, source: Value) -> bool:
    """Whether two values that both come from `source` are multiplied."""
    if value.op == "runtime.swiglu":
        return True
    return value.op == "mul" and not bends(value) and all(steps_between(arg, source) is not None for arg in value.args)


def _is_gated_module(info: ClassInfo, step: Value) -> bool:
    if step.op != "module":
        return False
    kept = lambda_flow(info, step.data)
    if kept is not None:
        start = kept.of("param")
        return any(_is_gate(value, start[0]) for value in kept.values if start)
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


def _feed_forward(index: FileIndex, block: Block, sublayer: Sublayer) -> FeedForward | None:
    found = _two_products(block.info, block.flow, sublayer.steps)
    if found is not None:
        return found
    if sublayer.kind != "feed_forward":
        return None
    inside = lambda_flow(block.info, sublayer.module)
    if inside is not None:
        return _of_lambda(block.info, inside, sublayer.module)
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


def _of_lambda(info: ClassInfo, flow: Flow, attribute: str) -> FeedForward | None:
    value, entry = flow.returns[0][0], next((v for v in flow.values if v.op == "param"), None)
    steps = steps_between(value, entry) if entry is not None else None
    found = _two_products(info, flow, steps) if steps is not None else None
    if found is not None:
        found.kept_in = attribute
    return found


def _own_class(index: FileIndex, info: ClassInfo) -> FeedForward | None:
    """A class whose whole forward is a feed-forward, or a Sequential that is one."""
    flow = method_flow(info)
    if flow is None or len(flow.returns) != 1:
        return None
    value = flow.returns[0][0]
    entry = next((v for v in flow.values if v.op == "param"), None)
    steps = steps_between(value, entry) if entry is not None else None
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
    known, ends = products(info), norms(info)
    core = [
        s for s in steps if s.op not in _PLAIN and not (s.op == "module" and s.data in ends) and not is_noise(info, s)
    ]
    if len(core) != 3:
        return None
    last, activation, first = core
    if not all(s.op == "module" and s.data in known for s in (last, first)):
        return None
    name = activation_of(info.index, info, activation)
    between = steps[steps.index(last) + 1 : steps.index(first)]
    if not name or any(s.op == "module" and s is not activation and not is_noise(info, s) for s in between):
        return None
    if _lies_between(steps, activation, first):
        return None
    return FeedForward(info, flow, "inline", first.data, last.data, first, activation, name)


def _lies_between(steps: list[Value], activation: Value, first: Value) -> bool:
    """Whether anything stands between the first product and its activation."""
    return steps.index(first) - steps.index(activation) != 1


def _sequential_activation(index: FileIndex, value: ast.Call) -> str:
    """Name of the activation of Sequential([norm], Linear, activation, [Dropout], Linear, [Dropout]), else ""."""
    if any(not isinstance(arg, ast.Call) for arg in value.args) or value.keywords:
        return ""
    made = [arg for arg in value.args if isinstance(arg, ast.Call)]
    made = made[1:] if made and index.resolve(made[0].func) in NORMS else made
    own = activation_made(index, made[1]) if len(made) > 1 else ""
    kinds = [index.resolve(arg.func) or "" for arg in made]
    shape = "".join(
        "A" if own and arg is made[1] else _LETTERS.get(kind, "?") for arg, kind in zip(made, kinds, strict=True)
    )
    known = {"torch.nn.ReLU": "relu", "torch.nn.GELU": "gelu"}
    return own or known[kinds[1]] if shape in ("LAL", "LADL", "LALD", "LADLD") else ""
