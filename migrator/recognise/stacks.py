"""Stacks of blocks in the class that owns them: what goes in, what comes out, and what meets the output first.

A stack of layers whose parts stand in several classes, or of pairs in a ModuleList, is one too (`layer_stacks`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from migrator.recognise.blocks import NORMS, Block, Sublayer, blocks, norms
from migrator.recognise.composition import Component, components, copied, users_of
from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import Assignment, ClassInfo, FileIndex
from migrator.recognise.layers import Layer, layers
from migrator.recognise.pairs import Pairs
from migrator.recognise.runs import members, obstacle_of, run_obstacle
from migrator.recognise.syntax import first_parameter
from migrator.recognise.values import Flow, Value, place_of, strip, walked

_PASSING = (
    "dropout",
    "contiguous",
    "identity",
    "view",
    "reshape",
    "transpose",
    "permute",
    "getitem",
    "to",
    "float",
)


_COMPUTING = ("module", "linear", "matmul", "einsum", "softmax", "self_call", "call_local")


@dataclass(eq=False)
class Stack:
    """The blocks in `component`, run by a method of `owner`: `result` is what the last block gives out.

    `statement` computes it. `normed` says what normalises the result, or is empty. `obstacle` is the (code, what was
    seen, remedy) that keeps the stack from being one run of one kind of block; `chained` names the attribute of the
    stack that goes on with the result, or that the entry comes from; `last` tells whether no stack goes on with it.
    `layer` is what the block is where its sums or norms stand in other classes.
    """

    owner: ClassInfo
    component: Component
    block: Block
    flow: Flow
    entry: Value
    result: Value
    statement: ast.stmt
    normed: str
    obstacle: tuple[str, str, str] | None = None
    chained: str = ""
    last: bool = True
    layer: Layer | None = None

    @property
    def name(self) -> str:
        """What the stack is made of, for people."""
        return self.layer.name if self.layer is not None else self.block.info.name


def stacks(index: FileIndex) -> list[Stack]:
    """All stacks of blocks, in order of the source."""
    return _stacks_of(index, blocks(index))


def layer_stacks(index: FileIndex) -> list[Stack]:
    """All stacks of layers that are no blocks."""
    found = layers(index)
    classes = {layer.info.name: layer for layer in found if layer.pairs is None}
    known = {name: _as_block(layer) for name, layer in classes.items()}
    stacked = [*_stacks_of(index, known), *_copied_stacks(index, known)]
    for stack in stacked:
        stack.layer = classes[stack.block.info.name]
    return [*stacked, *(_pair_stack(index, layer, layer.pairs) for layer in found if layer.pairs is not None)]


def _stacks_of(index: FileIndex, known: Mapping[str, Block]) -> list[Stack]:
    found: list[Stack] = []
    for info in index.modules.values():
        if info.name in known:
            continue
        attributes = {c.attribute: c for c in reversed(components(info)) if c.name in known}
        own = [_stack(index, info, component, known[component.name]) for component in reversed(attributes.values())]
        _chain(own)
        found.extend(own)
    return found


def _copied_stacks(index: FileIndex, known: Mapping[str, Block]) -> Iterator[Stack]:
    """Stacks of deep copies of one block."""
    for info in index.modules.values():
        for component in copied(info):
            if component.name in known and info.name not in known:
                stack = _stack(index, info, component, known[component.name])
                runs = int(stack.result.op != "opaque")
                if stack.obstacle is not None and stack.obstacle[0] == "mixed-stack":
                    stack.obstacle = run_obstacle(component, stack.flow.function, stack.statement, runs)
                yield stack


def _as_block(layer: Layer) -> Block:
    flow = layer.sums[0].total.frame.callers[-1].flow
    sums = ((one.kind, one.placement, one.total.value, one.residual.value, one.branch.value) for one in layer.sums)
    return Block(layer.info, flow, [Sublayer(*one) for one in sums])


def _pair_stack(index: FileIndex, layer: Layer, pairs: Pairs) -> Stack:
    """The stack whose blocks are pairs in a ModuleList."""
    info, result, block = layer.info, layer.result, _as_block(layer)
    assert result is not None and result.statement is not None
    made = info.attribute(pairs.attribute)
    call = next((node for node in ast.walk(pairs.statement) if isinstance(node, ast.Call)), None)
    assert made is not None and call is not None
    built = Assignment(pairs.attribute, made, pairs.statement)
    component = Component(info, pairs.attribute, layer.name, call, "list", built, "", made)
    obstacle = run_obstacle(component, block.flow.function, result.statement, 1) or _grown(pairs)
    if not layer.whole:
        seen = f"only a part of what a step over `{pairs.attribute}` does can be told"
        obstacle = "run-unknown", seen, "build each member of the pairs in one way, without a condition"
    normed = _normed(index, info, block.flow, result)
    if not normed and _given_out(block.flow, result):
        obstacle = obstacle or _unclear_end(index, info)
    stack = Stack(info, component, block, block.flow, result.args[0], result, result.statement, normed, obstacle)
    stack.layer = layer
    return stack


def _grown(pairs: Pairs) -> tuple[str, str, str] | None:
    """Whether `__init__` does anything with the list but fill it in one place."""
    name = f"{first_parameter(pairs.owner.methods['__init__'])}.{pairs.attribute}"
    uses = [
        node
        for node in ast.walk(pairs.owner.methods["__init__"])
        if isinstance(node, ast.Attribute) and ast.unparse(node) == name and isinstance(node.ctx, ast.Load)
        and not any(node in scaled.args for scaled in _scalings(pairs.owner))
    ]  # fmt: skip
    if len(uses) < 2:
        return None
    return "mixed-stack", f"`{pairs.attribute}` is filled in several places", "fill it in one loop"


def _scalings(info: ClassInfo) -> list[ast.Call]:
    """What already scales initial values by depth."""
    values = [info.attribute(name) for name in info.attributes]
    calls = [value for value in values if isinstance(value, ast.Call)]
    return [call for call in calls if info.index.resolve(call.func) == "runtime.DepthScaledInit"]


def norm_of_their_own(block: Block) -> str:
    """The class of the norms in front of the sublayers, if it is not torch's."""
    for sublayer in block.sublayers:
        first = sublayer.steps[-1] if sublayer.steps else None
        value = block.info.attribute(first.data) if first is not None and first.op == "module" else None
        if isinstance(value, ast.Call) and first is not None and first.data not in norms(block.info):
            name = ast.unparse(value.func)
            if "norm" in name.lower():
                return name
    return ""


def _stack(index: FileIndex, info: ClassInfo, component: Component, block: Block) -> Stack:
    runs: list[tuple[Flow, Value, Value, ast.stmt]] = []
    for name, method in info.methods.items():
        if name == "__init__":
            continue
        flow = flow_of(index, info.definition, method, info)
        for value in flow.values:
            entry = _entry(value, component)
            if entry is not None and value.statement is not None:
                runs.append((flow, entry, value, value.statement))
    if not runs:
        unknown = Value("opaque")
        flow = flow_of(index, info.definition, info.methods["__init__"], info)
        runs.append((flow, unknown, unknown, component.assignment.statement))
    flow, entry, result, statement = runs[0]
    norms_after = [_normed_inside(component) or _normed(index, info, flow, value) for flow, _, value, _ in runs]
    obstacle = obstacle_of(component, flow.function, statement, sum(value.op != "opaque" for _, _, value, _ in runs))
    normed = norms_after[0] if all(norms_after) else ""
    if result.op == "module" and any(place_of(user) is not None for user in result.users):
        seen = f"`{component.attribute}` gives out several results"
        obstacle = obstacle or ("one-of-several", seen, "normalise the one that goes on by hand")
    if not normed and _given_out(flow, result):
        obstacle = obstacle or _unclear_end(index, info)
    return Stack(info, component, block, flow, entry, result, statement, normed, obstacle)


def _unclear_end(index: FileIndex, info: ClassInfo) -> tuple[str, str, str] | None:
    """Whether it cannot be told for all uses of the owner together that no norm follows."""
    if any(_after_holders(index, info, 4)):
        seen = f"some of the classes that hold {info.name} normalise its output, others do not"
        return "one-of-several", seen, f"give {info.name} the norm, and take it from those that hold it"
    listed = next((c for c in users_of(index, info.name) if c.kind != "single"), None)
    if listed is not None:
        seen = (
            f"`{listed.attribute}` of {listed.owner.name} runs one {info.name} after another, so no norm there would be"
        )
        return "one-of-several", f"{seen} the final one", "normalise what the last of them gives out by hand"
    staged = _staged(index, info)
    if staged:
        seen = f"`{staged[0]}` goes on into `{staged[1]}`, another {info.name}, so no norm there would be the final one"
        return "one-of-several", seen, "normalise what the last of them gives out by hand"
    return _built_in_passing(index, info)


def _staged(index: FileIndex, info: ClassInfo) -> tuple[str, str] | None:
    """Two attributes with instances of the class, if the output of the first reaches the second."""
    held = users_of(index, info.name)
    for holder in {c.owner for c in held}:
        names = {c.attribute for c in held if c.owner is holder}
        for flow in (
            flow_of(index, holder.definition, m, holder) for n, m in holder.methods.items() if n != "__init__"
        ):
            calls = [value for value in flow.values if value.op == "module" and value.data in names]
            for first, second in ((a, b) for a in calls for b in calls if a is not b and a.data != b.data):
                if _reaches(first, second):
                    return str(first.data), str(second.data)
    return None


def _reaches(first: Value, second: Value) -> bool:
    seen: set[Value] = set()
    todo = [first]
    while todo:
        value = todo.pop()
        if value is second:
            return True
        if value not in seen:
            seen.add(value)
            todo.extend(value.users)
    return False


def _built_in_passing(index: FileIndex, info: ClassInfo) -> tuple[str, str, str] | None:
    """Whether a class of the file builds the owner where it cannot be told what its output meets first."""
    known = {id(holder.call) for holder in users_of(index, info.name)}
    for site in index.calls.get(info.name, []):
        if id(site.call) not in known and site.definition.name in index.modules and site.definition.name != info.name:
            seen = f"line {site.definition.line(site.call)} builds {info.name} where it cannot be told what follows it"
            return "one-of-several", seen, f"assign {info.name} to an attribute, and call that"
    return None


def _chain(own: list[Stack]) -> None:
    """Note which stacks of one class go on with what another one gave out."""
    for first in own:
        reached = _passed_on(first.result)
        for second in own:
            if second is not first and second.entry in reached:
                first.chained, first.last, second.chained = second.component.attribute, False, first.component.attribute


def _passed_on(value: Value) -> set[Value]:
    seen: set[Value] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if one not in seen and one.op != "opaque":
            seen.add(one)
            todo.extend(user for user in one.users if user.op in _PASSING)
    return seen


def _entry(value: Value, component: Component) -> Value | None:
    """What enters the stack, if `value` is what leaves it."""
    if value.op == "module" and value.data == component.attribute and component.kind != "list" and value.args:
        return value.args[0]
    if value.op == "looped" and component.kind != "single":
        entering, _, body, _ = value.args
        source = _over(call_of(body))
        if source is not None and source.op == "attr" and source.data == component.attribute:
            return entering
    return None


def call_of(body: Value) -> Value:
    """The call of a block, one of whose results may be what goes on."""
    body = strip(body)
    return strip(body.args[0]) if place_of(body) is not None else body


def result_place(stack: Stack) -> int | None:
    """The place of what goes on among the results of a block, where it has several: 0 of `x, weights = block(x)`."""
    return place_of(strip(stack.result.args[2]) if stack.result.op == "looped" else stack.result)


def _over(called: Value) -> Value | None:
    """What is looped over, if `called` is `block(x)` or `self.checkpointed(block, x)` for each block of it."""
    runs = called.op == "call_local" or (called.op in ("module", "self_call") and called.data == "checkpointed")
    return walked(called.args[0]) if runs and called.args else None


def _normed_inside(component: Component) -> str:
    """The norm at the end of a Sequential that holds the blocks."""
    last = members(component)[-1:]
    name = component.owner.index.resolve(last[0].func) if last and isinstance(last[0], ast.Call) else None
    return f"the end of `{component.attribute}`" if name in NORMS and component.kind == "sequential" else ""


def _normed(index: FileIndex, info: ClassInfo, flow: Flow, result: Value, depth: int = 4) -> str:
    """Which norm sees the result first: an attribute of the owner, or of a class that holds the owner."""
    todo = [result]
    seen: set[Value] = set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        for user in value.users:
            name = _norm_in(index, info, user, depth)
            if name:
                return name
            if user.op in _PASSING or user.op in ("phi", "looped"):
                todo.append(user)
    if depth and any(value in seen for value, _ in flow.returns):
        return _normed_by_holder(index, info, depth)
    return ""


def _norm_in(index: FileIndex, info: ClassInfo, user: Value, depth: int) -> str:
    """The norm that a use of a value begins with, or ""."""
    if user.op == "layer_norm":
        return f"F.layer_norm in {info.name}"
    if user.op != "module":
        return ""
    name: str = user.data
    last = name.rpartition(".")[2]
    if name in norms(info) or "norm" in last.lower() or last.startswith("ln"):
        return f"{info.name}.{name}"
    made = info.attribute(name)
    if not isinstance(made, ast.Call):
        return ""
    if index.resolve(made.func) == "torch.nn.Sequential" and made.args and isinstance(made.args[0], ast.Call):
        kind = index.resolve(made.args[0].func) or ""
        return f"{info.name}.{name}[0]" if "Norm" in kind.rpartition(".")[2] else ""
    inner = index.modules.get(made.func.id) if isinstance(made.func, ast.Name) else None
    inside = method_flow(inner) if inner is not None else None
    if inner is None or inside is None or not depth:
        return ""
    entry = next((value for value in inside.values if value.op == "param"), None)
    uses = entry.users if entry is not None else []
    return next((text for use in uses if (text := _norm_in(index, inner, use, depth - 1))), "")


def _given_out(flow: Flow, result: Value) -> bool:
    """Whether the result is returned, reshaped or cut at the most, or with others."""
    seen: set[Value] = set()
    todo = [result]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo.extend(user for user in one.users if user.op not in _COMPUTING)
    return any(value in seen for value, _ in flow.returns)


def _normed_by_holder(index: FileIndex, info: ClassInfo, depth: int) -> str:
    """The norm after every run of the class by the classes that hold it; none if one of them does without."""
    names = _after_holders(index, info, depth)
    return names[0] if names and all(names) else ""


def _after_holders(index: FileIndex, info: ClassInfo, depth: int) -> list[str]:
    """For each run of the class by a class that holds it: the norm after it, or ""."""
    names: list[str] = []
    for holder in users_of(index, info.name):
        for name, method in holder.owner.methods.items():
            if name == "__init__":
                continue
            flow = flow_of(index, holder.owner.definition, method, holder.owner)
            for value in flow.values:
                if value.op == "module" and value.data == holder.attribute:
                    names.append(_normed(index, holder.owner, flow, value, depth - 1))
    return names
