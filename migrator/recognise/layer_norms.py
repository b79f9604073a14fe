"""Where the norm of a layer can move in front of its sublayer: classes that write norm(x + f(x)) for the layer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.composition import copied, users_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.inlining import Frame, Seen, callee, settle
from migrator.recognise.layer_parts import layer_norm_source
from migrator.recognise.layers import Layer, Sum, layers, own_norm
from migrator.recognise.stacks import Stack, layer_stacks
from migrator.recognise.values import Flow, Value, strip

_SIZES = ("shape", "size", "getattr")  # what a norm does not change
Reason = tuple[str, str, str]  # code, what was seen, remedy


@dataclass(frozen=True, eq=False)
class Home:
    """`info` computes norm(x + f(x)): `norm_call` is the norm, `entries` the calls in f with arguments that are x."""

    info: ClassInfo
    flow: Flow
    norm_call: Value
    entries: tuple[tuple[Value, tuple[ast.expr, ...]], ...]

    @property
    def takes_functions(self) -> bool:
        """Whether f is an argument, which may be a lambda."""
        return any(value.op == "call_local" for value, _ in self.entries)


@dataclass(eq=False)
class Move:
    """Post-norm layers that share the classes where their norms stand; `reason` is why they stay as they are."""

    layers: list[Layer]
    homes: dict[str, Home]
    reason: Reason | None = None

    def norms(self) -> Iterator[tuple[str, str]]:
        """(layer, path of a norm below it)."""
        for layer in self.layers:
            for one in layer.sums:
                runs = callee(one.norm) if one.norm is not None else None
                if runs is not None:
                    yield layer.info.name, runs.path


def moves(index: FileIndex) -> list[Move]:
    """All post-norm layers of the file, those that share a class together."""
    found = [_move(layer) for layer in layers(index) if layer.placement == "post"]
    for move in found:
        for other in found:
            if move is not other and move.layers and other.homes.keys() & move.homes.keys():
                move.layers += other.layers
                move.homes.update(other.homes)
                move.reason = move.reason or other.reason
                other.layers = []
    whole = [move for move in found if move.layers]
    for move in whole:
        move.reason = move.reason or _around(index, move)
    return whole


def _move(layer: Layer) -> Move:
    own = own_norm(layer)
    if own:
        seen = f"{layer.name} normalises by {own}, which is not torch's"
        return Move([layer], {}, ("norm-unknown", seen, "use nn.LayerNorm or nn.RMSNorm"))
    if layer.pairs is not None:
        seen = f"the blocks of {layer.name} have no class of their own"
        return Move([layer], {}, ("no-stack", seen, "write the pairs as a class of its own"))
    homes: dict[str, Home] = {}
    for one, following in zip(layer.sums, [*layer.sums[1:], None], strict=True):
        home = _home(one)
        if home is None:
            return Move([layer], {}, ("entry-unknown", _apart(one), "write the sum and its norm where f(x) is called"))
        homes[home.info.name] = home
        if not _passed_on(one, following):
            seen = f"the sum that {home.info.name} normalises is used beside the residual stream"
            remedy = "compute that from the output of the stack, or drop it"
            return Move([layer], homes, ("norm-output-used", seen, remedy))
    return Move([layer], homes)


def _apart(one: Sum) -> str:
    owner = one.total.frame.owner
    where = owner.name if owner is not None else "the norm's class"
    return f"{where} adds and normalises, and the sublayer takes its input in another class, or in several places"


def _home(one: Sum) -> Home | None:
    """The class of a sum, if it normalises the sum at its end and calls the sublayer on the residual itself."""
    frame, total, norm = one.total.frame, one.total.value, one.norm
    owner, flow = frame.owner, frame.flow
    if norm is None or owner is None or norm.frame is not frame or frame.flow.function.name != "forward":
        return None
    raw = next((arg for arg in total.args if settle(Seen(arg, frame)) == one.residual), None)
    given_out = strip(flow.returns[0][0])
    if raw is None or given_out is not norm.value or strip(raw).op != "param" or norm.value.op != "module":
        return None
    if any(user is not norm.value and user.op not in _SIZES for user in total.users) or norm.value.users:
        return None
    entries = [_entry(value, raw) for value in raw.users if value is not total and value.op not in _SIZES]
    plain = tuple(entry for entry in entries if entry is not None)
    inside = isinstance(norm.value.node, ast.Call) and strip(norm.value.args[0]) is total
    return Home(owner, flow, norm.value, plain) if plain and len(plain) == len(entries) and inside else None


def _entry(value: Value, raw: Value) -> tuple[Value, tuple[ast.expr, ...]] | None:
    """A call of a sublayer and its arguments that are the residual."""
    node = value.node
    if value.op not in ("module", "call_local") or not isinstance(node, ast.Call):
        return None
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    operands = list(value.operands())[value.op == "call_local" :]
    inputs = tuple(arg for arg, operand in zip(given, operands, strict=True) if operand is raw)
    return (value, inputs) if inputs and all(isinstance(arg, ast.Name) for arg in inputs) else None


def _passed_on(one: Sum, following: Sum | None) -> bool:
    """Whether only the next sum of the layer takes the result, or the layer gives it out."""
    frame = one.total.frame
    call = frame.call
    if frame.outer is None:
        return following is None
    if call is None or frame.outer.outer is not None:
        return False
    returned = any(strip(value) is call for value, _ in frame.outer.flow.returns)
    taking = following.total.frame.call if following is not None else None
    users = [user for user in call.users if not _is_own_lambda(user, call, frame.outer)]
    return returned == (following is None) and all(user is taking for user in users)


def _is_own_lambda(user: Value, value: Value, frame: Frame) -> bool:
    """Whether a lambda only has a parameter of the name that holds the value."""
    if not isinstance(user.node, ast.Lambda) or user.statement is None:
        return False
    own = {arg.arg for arg in user.node.args.args}
    names = {node.id for node in ast.walk(user.node.body) if isinstance(node, ast.Name)} - own
    held = frame.flow.before.get(user.statement, {})
    return not any(held.get(name) is value for name in names)


# --- around the layers -----------------------------------------------------------------------------------------


def _around(index: FileIndex, move: Move) -> Reason | None:
    for home in move.homes.values():
        reason = _home_alone(index, move, home)
        if reason is not None:
            return reason
    return next((reason for layer in move.layers if (reason := _in_stacks(index, layer)) is not None), None)


def _home_alone(index: FileIndex, move: Move, home: Home) -> Reason | None:
    """Whatever else would see another norm once the class changes."""
    name = home.info.name
    if name in index.subclasses:
        return "subclassed", f"{index.subclasses[name][0]} derives from {name}", "let it be a class of its own"
    covered = {id(one.total.frame.made) for layer in move.layers for one in layer.sums}
    is_layer = name in {layer.info.name for layer in move.layers}
    for site in index.calls.get(name, []) if not is_layer else ():
        if id(site.call) not in covered:
            seen = f"line {site.definition.line(site.call)} builds {name} outside of the layers"
            return "no-stack", seen, "give that other use a class of its own"
    norm = str(home.norm_call.data)
    assert isinstance(home.norm_call.node, ast.Call)
    own = {id(home.norm_call.node.func), *assigned_nodes(home.info, {norm})}
    line = borrower(index, home.info, {norm}, own)
    return (
        ("shared-norm", f"{line} uses a norm of {name} too", "give each sublayer a norm of its own") if line else None
    )


def _in_stacks(index: FileIndex, layer: Layer) -> Reason | None:
    """Uses of a layer that no stack with a final norm covers."""
    name, remedy = layer.info.name, "run the blocks in a loop or an nn.Sequential of one class"
    if name in index.subclasses:
        return "subclassed", f"{index.subclasses[name][0]} derives from {name}", "let it be a class of its own"
    known = [stack for stack in layer_stacks(index) if stack.layer is layer]
    covered = {id(stack.component.call) for stack in known}
    held = {id(c.call) for c in users_of(index, name)} | {id(c.call) for i in index.modules.values() for c in copied(i)}
    alone = [site for site in index.calls.get(name, []) if id(site.call) not in covered & held]
    if alone or not known:
        seen = f"nothing in this file runs {name} in a stack that could end in a norm"
        if alone:
            line = alone[0].definition.line(alone[0].call)
            seen = f"line {line} builds {name} where no stack is seen that could end in a norm"
        return "no-stack", seen, remedy
    return next((reason for stack in known if (reason := _unfit(stack)) is not None), None)


def _unfit(stack: Stack) -> Reason | None:
    if stack.result.op == "looped" and any(user is not stack.result for user in stack.result.args[2].users):
        seen = f"{stack.owner.name} uses what each block gives out, not the last one's output alone"
        return "norm-output-used", seen, "compute that from the output of the stack, or drop it"
    if stack.normed:
        return None
    if stack.obstacle is not None:
        return "no-stack", *stack.obstacle[1:]
    if layer_norm_source(stack) is None:
        seen = f"{stack.owner.name} cannot build the norm of {stack.name} from what it gives to it"
        return "no-stack", seen, "build the norm from an argument of the block"
    return None
