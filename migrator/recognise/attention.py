"""Softmax attention, recognised by what is computed: softmax over keys of scaled scores, times values.

Every function that has a softmax of a product of two values, times a third, is looked at. What is understood gives an
`Attention`, what looks like attention but is not understood gives an `Obstacle`; anything else is not mentioned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.anatomy import Attention, Obstacle, Stop
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.operations import MATMULS
from migrator.recognise.products import find_product, made_by
from migrator.recognise.scores import read
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Flow, Value
from migrator.recognise.weights import follow, seen_on_the_way, stranger

_SCRIPTING = {f"torch.jit.{name}" for name in ("script", "script_method", "ScriptModule", "script_if_tracing")}

_OF_TORCH = (
    *(f"torch.nn.{name}" for name in ("MultiheadAttention", "Transformer")),
    *(f"torch.nn.Transformer{part}{kind}" for part in ("Encoder", "Decoder") for kind in ("", "Layer")),
)


def attentions(index: FileIndex) -> list[Attention | Obstacle]:
    """Everything in the file that is attention or looks like it, in order of the source."""
    if "attentions" not in index.memo:
        flows = [flow for definition in index.definitions for flow in _flows(index, definition)]
        found = [one for flow in flows for one in in_flow(flow)]
        found += [one for definition in index.definitions for one in _out_of_reach(index, definition)]
        if found and compiles_scripts(index):
            found = [_scripted(one) for one in found]
        index.memo["attentions"] = found
    result: list[Attention | Obstacle] = index.memo["attentions"]
    return result


def torch_modules(index: FileIndex) -> list[tuple[Definition, ast.Call, str]]:
    """Where the file builds attention that torch itself provides, each kind once for each definition."""
    found: dict[tuple[str, str], tuple[Definition, ast.Call, str]] = {}
    for definition in index.definitions:
        if not any(name.rpartition(".")[2] in definition.text for name in _OF_TORCH):
            continue
        for node in ast.walk(definition.tree):
            name = (index.resolve(node.func) or "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in _OF_TORCH:
                found.setdefault((definition.name, name), (definition, node, name.removeprefix("torch.")))
    return list(found.values())


def attention_classes(index: FileIndex) -> dict[str, list[Attention]]:
    """Name of an nn.Module class -> the attentions that its own methods compute."""
    table: dict[str, list[Attention]] = {}
    for found in attentions(index):
        if isinstance(found, Attention) and found.owner is not None and found.owner.is_module:
            table.setdefault(found.owner.name, []).append(found)
    return table


def attending_classes(index: FileIndex) -> set[str]:
    """Classes that attend, also where the attention itself is refused, or stands in a function that they call."""
    owners = [(found.flow.owner, found.flow.function.name) for found in attentions(index)]
    functions = {name for owner, name in owners if owner is None}
    classes = {owner.name for owner, _ in owners if owner is not None}
    for info in index.modules.values() if functions else ():
        calls = (node.func for node in ast.walk(info.node) if isinstance(node, ast.Call))
        if functions & {func.id for func in calls if isinstance(func, ast.Name)}:
            classes.add(info.name)
    return classes & index.modules.keys()


def _flows(index: FileIndex, definition: Definition) -> Iterator[Flow]:
    """Flows of all functions that can hold an attention; the text decides first, since it is quick."""
    words = {"oftmax", "attention"} | {name for name, dotted in index.imports.items() if dotted == "runtime.attention"}
    if not any(word in definition.text for word in words):
        return
    if isinstance(definition.tree, FunctionNode):
        yield flow_of(index, definition, definition.tree)
    info = index.classes.get(definition.name)
    if info is None or info.definition.tree is not definition.tree:
        return
    for method in info.methods.values():
        if "Softmax" in definition.text or any(word in definition.source(method) for word in words):
            yield flow_of(index, definition, method, info)


def _out_of_reach(index: FileIndex, definition: Definition) -> Iterator[Obstacle]:
    """Attention in nested functions and classes, and in definitions under an `if`."""
    info = index.classes.get(definition.name)
    hidden = isinstance(definition.tree, ast.ClassDef) and (info is None or info.node is not definition.tree)
    if hidden or "oftmax" not in definition.text:
        return
    reached = {id(definition.tree), *(id(method) for method in (info.methods.values() if info is not None else ()))}
    for node in definition.nodes:
        if isinstance(node, FunctionNode) and id(node) not in reached and "oftmax" in definition.source(node):
            for found in in_flow(flow_of(index, definition, node)):
                if isinstance(found, Obstacle) or found.kind == "legacy":
                    seen = f"the attention stands in a nested definition, `{node.name}`"
                    yield Obstacle(found.flow, found.node, "scope", seen)


def in_flow(flow: Flow) -> list[Attention | Obstacle]:
    found: list[Attention | Obstacle] = []
    for value in flow.values:
        if value.op in ("runtime.attention", "sdpa") and len(value.args) >= 3 and value.node is not None:
            kind = "runtime" if value.op == "runtime.attention" else "sdpa"
            q, k, v = value.args[:3]
            found.append(Attention(flow, q, k, v, value, value.node, kind))
        elif value.op == "softmax":
            seen = _legacy(flow, value)
            if seen is not None:
                found.append(seen)
    return found


def compiles_scripts(index: FileIndex) -> bool:
    """Whether any code, and not just a text, names torch.jit.script or a relative of it."""
    names = (
        index.resolve(node)
        for definition in index.definitions
        if "script" in definition.text.lower()
        for node in ast.walk(definition.tree)
        if isinstance(node, ast.Attribute | ast.Name)
    )
    return any(name in _SCRIPTING for name in names)


def _scripted(found: Attention | Obstacle) -> Attention | Obstacle:
    if isinstance(found, Obstacle) or found.kind != "legacy":
        return found
    return Obstacle(found.flow, found.node, "scripted", "the file compiles code with `torch.jit.script`")


def _legacy(flow: Flow, softmax: Value) -> Attention | Obstacle | None:
    product = find_product(softmax.args[0]) if softmax.node is not None and softmax.args else None
    if product is None or softmax.node is None:
        return None
    way = follow(softmax)
    if way is None:
        strange = stranger(softmax)
        if strange is None:
            return _parted(flow, softmax)
        code = "upcast" if strange.op in ("to", "type_as") else "weights"
        return Obstacle(flow, strange.node or softmax.node, code, seen_on_the_way(strange))
    try:
        return read(flow, product, way)
    except Stop as stop:
        return Obstacle(flow, stop.node or softmax.node, stop.code, stop.seen)


def _parted(flow: Flow, softmax: Value) -> Obstacle | None:
    """Weights that meet the values in another place: returned after a mask was applied, or kept in an attribute.

    A softmax of similarities that are not masked may as well be the result that somebody wants.
    """
    assert softmax.node is not None
    last = next((user for user in softmax.users if user.op == "dropout"), softmax)
    masked = made_by(softmax.args[0], {"masked_fill", "where"})
    if masked and any(last in (value, *value.args) for value, _ in flow.returns):
        return Obstacle(flow, softmax.node, "weights-used", "the weights are returned, and meet the values elsewhere")
    kept = {store.name for store in flow.stores if store.kind == "attribute" and store.value in (softmax, last)}
    factors = [arg for value in flow.values if value.op in MATMULS and value.args for arg in value.args[:1]]
    if any(arg.op == "attr" and f"{flow.self_name}.{arg.data}" in kept for arg in factors):
        return Obstacle(flow, softmax.node, "weights-used", "the attention weights are kept in an attribute")
    return None
