"""Stacks of blocks in the class that owns them: what goes in, what comes out, and what meets the output first."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from migrator.recognise.blocks import Block, blocks, norms
from migrator.recognise.composition import Component, components, users_of
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.values import Flow, Value, strip

_PASSING = ("dropout", "contiguous", "identity", "view", "reshape", "transpose", "permute", "getitem", "to", "float")


@dataclass(eq=False)
class Stack:
    """The blocks in `component`, run by a method of `owner`: `result` is what the last block gives out.

    `statement` computes it. `normed` says what normalises the result, or is empty.
    """

    owner: ClassInfo
    component: Component
    block: Block
    flow: Flow
    entry: Value
    result: Value
    statement: ast.stmt
    normed: str


def stacks(index: FileIndex) -> list[Stack]:
    """All stacks of blocks, in order of the source."""
    known = blocks(index)
    found: list[Stack] = []
    for info in index.modules.values():
        if info.name in known:
            continue
        for component in components(info):
            if component.name in known:
                stack = _stack(index, info, component, known[component.name])
                if stack is not None:
                    found.append(stack)
    return found


def _stack(index: FileIndex, info: ClassInfo, component: Component, block: Block) -> Stack | None:
    for name, method in info.methods.items():
        if name == "__init__":
            continue
        flow = flow_of(index, info.definition, method, info)
        for value in flow.values:
            entry = _entry(value, component)
            if entry is not None and value.statement is not None:
                return Stack(
                    info, component, block, flow, entry, value, value.statement, _normed(index, info, flow, value)
                )
    return None


def _entry(value: Value, component: Component) -> Value | None:
    """What enters the stack, if `value` is what leaves it."""
    if value.op == "module" and value.data == component.attribute and component.kind != "list" and value.args:
        return value.args[0]
    if value.op == "looped" and component.kind == "list":
        entering, _, body, source = value.args
        called = strip(body)
        over = source.op == "attr" and source.data == component.attribute
        if over and called.op == "call_local" and called.args[0].op == "element":
            return entering
    return None


def _normed(index: FileIndex, info: ClassInfo, flow: Flow, result: Value, depth: int = 4) -> str:
    """Which norm sees the result first: an attribute of the owner, or of a class that holds the owner."""
    known = norms(info)
    todo = [result]
    seen: set[Value] = set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        for user in value.users:
            if user.op == "module" and (
                user.data in known or "norm" in user.data.lower() or user.data.startswith("ln")
            ):
                return f"{info.name}.{user.data}"
            if user.op in _PASSING or user.op in ("phi", "looped"):
                todo.append(user)
    if depth and any(value in seen for value, _ in flow.returns):
        return _normed_by_holder(index, info, depth)
    return ""


def _normed_by_holder(index: FileIndex, info: ClassInfo, depth: int) -> str:
    for holder in users_of(index, info.name):
        for name, method in holder.owner.methods.items():
            if name == "__init__":
                continue
            flow = flow_of(index, holder.owner.definition, method, holder.owner)
            for value in flow.values:
                if value.op == "module" and value.data == holder.attribute:
                    found = _normed(index, holder.owner, flow, value, depth - 1)
                    if found:
                        return found
    return ""
