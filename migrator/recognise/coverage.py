"""Whether additive positions and attention meet in all places: none without the other, none not understood."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from migrator.recognise.anatomy import Attention, Obstacle
from migrator.recognise.attention import attentions
from migrator.recognise.composition import built_outside, components, family, named_below, runs, users_of
from migrator.recognise.consumers import Consumer, PositionGroup
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, Definition, FileIndex

_ATTENDING = (
    "torch.nn.MultiheadAttention",
    "torch.nn.Transformer",
    "torch.nn.functional.multi_head_attention_forward",
    "torch.nn.functional.scaled_dot_product_attention",
    "runtime.attention",
)
_FUSED = _ATTENDING[-2:]
_KNOWN_ROOTS = frozenset({"torch", "runtime", "numpy", "einops", *sys.stdlib_module_names})


# --- attention without positions ----------------------------------------------------------------------------------


def uncovered(index: FileIndex, group: PositionGroup) -> str:
    """Where an attention of the group is used without the group's positions, or ""."""
    consumers = {consumer.info.name for consumer in group.consumers}
    covered = {(c.owner.name, c.attribute) for consumer in group.consumers for c in consumer.stacks}
    todo, seen = [(name, "") for name in group.attentions], set()
    while todo:
        name, through = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        holders = users_of(index, name)
        if index.subclasses.get(name):
            return f"{name} is subclassed by {index.subclasses[name][0]}"
        if not holders and through:
            return f"{through} attends without the positions"
        if built_outside(index, name):
            return f"{name} is also built outside of these classes"
        for component in holders:
            if (component.owner.name, component.attribute) not in covered:
                here = f"{component.owner.name}.{component.attribute}"
                if component.owner.name in consumers:
                    return f"{here} attends without the positions"
                todo.append((component.owner.name, here))
    return next((text for consumer in group.consumers for text in _bare_uses(index, consumer)), "")


def _bare_uses(index: FileIndex, consumer: Consumer) -> Iterator[str]:
    """Uses of the consumer's attending components that do not get its positions."""
    attributes = {component.attribute for component in consumer.stacks}
    for place in runs(index, consumer.info, attributes, consumer.positioned):
        yield f"{place} without the positions"


def other_reader(index: FileIndex, consumer: Consumer) -> str:
    """Code that uses the encoding in another way than the consumer's own calls: "line 4", "lines 4, 9"."""
    lines = sorted(set(_other_lines(index, consumer)))
    return f"{'line' if len(lines) == 1 else 'lines'} {', '.join(map(str, lines))}" if lines else ""


def _other_lines(index: FileIndex, consumer: Consumer) -> Iterator[int]:
    calls = consumer.named
    own = {id(node) for node in ast.walk(consumer.assignment.statement)}
    kin = family(index, consumer.info)
    held, _, attribute = consumer.attribute.rpartition(".")
    for definition in index.definitions:
        if attribute not in definition.text:
            continue
        for node in ast.walk(definition.tree):
            if id(node) in calls | own:
                continue
            if _names_attribute(node, attribute):
                yield definition.line(node)
            if isinstance(node, ast.Attribute) and node.attr == attribute:
                alone = isinstance(node.value, ast.Name) and node.value.id == "self"
                if not alone or (definition in kin and not held):  # `self.wpe` is no item of `self.transformer`
                    yield definition.line(node)


def _names_attribute(node: ast.AST, attribute: str) -> bool:
    """Whether a string addresses the attribute: "pos", "pos.encoding"."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    return attribute in node.value.split(".") and " " not in node.value


# --- attention that is not understood -----------------------------------------------------------------------------


def strange_attention(index: FileIndex, names: list[str], known: set[str]) -> tuple[str, str] | None:
    """(code, what was seen) for an attention below these classes that is not one of the `known` classes' own."""
    for definition in named_below(index, names):
        for found in attentions(index):
            if found.flow.definition is not definition:
                continue
            where = f"{found.flow.owner.name if found.flow.owner else found.flow.function.name}"
            if isinstance(found, Obstacle) or found.kind == "legacy":
                return "not-fused", f"the attention of {where} is still spelled out"
            if where not in known or not found.flow.self_name:
                return "foreign-attention", f"{where} attends by itself"
        foreign = _foreign(index, definition)
        if foreign:
            return "foreign-attention", f"{definition.name} uses {foreign}"
    return None


def _foreign(index: FileIndex, definition: Definition) -> str:
    """Attention that no recogniser reads: torch's own modules, or a fused call in an unusual form."""
    fused = 0
    for node in ast.walk(definition.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = index.resolve(node) or ""
            if name in _FUSED:
                fused += 1
            elif name.startswith(_ATTENDING[:3]):
                return name
    read = [f for f in attentions(index) if f.flow.definition is definition and isinstance(f, Attention)]
    if fused > len([found for found in read if found.kind != "legacy"]):
        return "a fused attention in a form that is not understood"
    return ""


def handed_in(index: FileIndex, info: ClassInfo) -> str:
    """A part of the class that this file does not show: a module from elsewhere, or one that is given to `__init__`."""
    for name, assigned in info.attributes.items():
        value = assigned[0].value
        if isinstance(value, ast.Name) and value.id in info.init_parameters and _is_called(index, info, name):
            return f"`self.{name}` is handed in"
        for node in ast.walk(value):
            if isinstance(node, ast.Call):
                dotted = index.resolve(node.func) or ""
                root = dotted.lstrip(".").partition(".")[0]
                if dotted in index.imports.values() and (dotted.startswith(".") or root not in _KNOWN_ROOTS):
                    return f"`{ast.unparse(node.func)}` is not in this file"
    return next((text for c in components(info) if (text := handed_in(index, index.classes[c.name]))), "")


def _is_called(index: FileIndex, info: ClassInfo, attribute: str) -> bool:
    flows = (flow_of(index, info.definition, m, info) for n, m in info.methods.items() if n != "__init__")
    return any(value.op == "module" and value.data == attribute for flow in flows for value in flow.values)
