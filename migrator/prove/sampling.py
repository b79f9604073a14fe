"""How a function that samples is called: guesses by annotation, name, default and call site."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from migrator.prove.probe import Case
from migrator.recognise.index import FileIndex
from migrator.recognise.syntax import FunctionNode

Spec = dict[str, Any]
_MODEL = re.compile(r"model|net(work)?$|gpt|transformer|decoder|^lm$|generator")
_BATCH = re.compile(r"n_?samples|num_samples|batch|n_seqs?$|num_seqs?|num_return|^b$|^n$")
_LENGTH = re.compile(r"len|steps|tokens|^max_|^num_|^n_|chars|words|size$|^t$|^l$")
_TOKENS = re.compile(r"token|^ids?$|_ids?$|idx|indices|^src|input|^seq|prompt|context|start|prefix|^x$|primer")
_TUNING = ((re.compile(r"top_?k"), 3), (re.compile(r"top_?p|nucleus"), 0.9), (re.compile(r"temp"), 0.7))
_COUNTS = re.compile(r"(size|len|length|steps|window)$")
_WINDOWS = re.compile(r"context_(size|len)|ctx|window|block_size|max_seq")
_ROOMY, _NARROW = 64, 5  # windows that the tokens fit, and that they outgrow
_MODULES = ("nn.Module", "torch.nn.Module", "Module")
_TRIES = 64


@dataclass(frozen=True)
class Size:
    """How many sequences, how many tokens are given, and how many are to come."""

    batch: int
    prompt: int
    length: int

    @property
    def words(self) -> str:
        return f"batch {self.batch}, length {self.length}, prompt {self.prompt}"


@dataclass(frozen=True)
class Slot:
    """A parameter: what it may be given, best first, or how else than by its default it may be tuned."""

    name: str
    required: bool
    options: tuple[Spec, ...]


@dataclass(frozen=True)
class Call:
    """By name: {"model": place}, {"tokens": shape}, {"length": 1}, {"batch": 1}, {"value": x}, {"name": n}."""

    given: tuple[tuple[str, Spec], ...]

    def with_values(self, values: dict[str, Any]) -> Call:
        others = tuple(item for item in self.given if item[0] not in values)
        return Call((*others, *((name, {"value": value}) for name, value in values.items())))

    @property
    def words(self) -> str:
        """The switches and numbers that it gives, for messages."""
        return "".join(f", {name}={spec['value']}" for name, spec in self.given if "value" in spec)

    def realised(self, size: Size, vocabulary: int, first_module: Callable[[int], int]) -> tuple[Any, list[Tensor]]:
        """Encoded keyword arguments and their tensors; `first_module` says where modules stand behind n tensors."""
        generator = torch.Generator().manual_seed(size.prompt)
        named = {"B": size.batch, "P": size.prompt}
        tensors: list[Tensor] = []
        modules: list[tuple[str, int]] = []
        kwargs: list[list[Any]] = []
        for name, spec in self.given:
            if "tokens" in spec:
                shape = [named[axis] for axis in spec["tokens"]]
                kwargs.append([name, {"tensor": len(tensors)}])
                tensors.append(torch.randint(0, vocabulary, shape, generator=generator))
            elif "model" in spec:
                modules.append((name, spec["model"]))
            elif "length" in spec or "batch" in spec:
                kwargs.append([name, size.length if "length" in spec else size.batch])
            else:
                kwargs.append([name, spec.get("value", spec)])
        kwargs += [[name, {"tensor": first_module(len(tensors)) + place}] for name, place in modules]
        return {"dict": kwargs}, tensors


@dataclass(frozen=True)
class Function:
    """A function of the file, or a method of one of its classes."""

    name: str
    owner: str
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, index: FileIndex, qualified: str, cases: Sequence[Case]) -> Function | None:
        """`cases` are the models that a parameter may be, in the order in which `{"model": place}` counts them."""
        owner, _, name = qualified.rpartition(".")
        if owner:
            node = index.modules[owner].methods.get(name) if owner in index.modules else None
        else:
            found = index.functions.get(name)
            node = found.tree if found is not None and isinstance(found.tree, FunctionNode) else None
        if node is None:
            return None
        said = {} if owner else _said(index, name, node)
        return cls(name, owner, tuple(_slots(node, bool(owner), cases, said)))

    def calls(self) -> Iterator[Call]:
        """Ways to give what has to be given, and the lengths that may be."""
        slots = [slot for slot in self.slots if slot.required or {"length": 1} in slot.options]
        ranked = sorted(itertools.product(*(range(len(slot.options)) for slot in slots)), key=sum)
        for ranks in ranked[:_TRIES]:
            yield Call(tuple((slot.name, slot.options[rank]) for slot, rank in zip(slots, ranks, strict=True)))

    def variations(self) -> Iterator[dict[str, Any]]:
        """Other values for what has a default: switches turned, and numbers that tune the drawing."""
        for slot in self.slots:
            if slot.required and slot.options[:1] == ({"value": _ROOMY},):
                yield {slot.name: _NARROW}
        optional = [slot for slot in self.slots if not slot.required and slot.options and "value" in slot.options[0]]
        values = {slot.name: slot.options[0]["value"] for slot in optional}
        tuned = {name: value for name, value in values.items() if type(value) is not bool}
        switches = [{name: value} for name, value in values.items() if type(value) is bool]
        yield from [tuned] if tuned else []
        for switch in switches:
            yield switch
            yield from [{**tuned, **switch}] if tuned else []


def _slots(node: FunctionNode, method: bool, cases: Sequence[Case], said: dict[str, Spec]) -> Iterator[Slot]:
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    pairs = [*zip(positional, [*defaults, *spec.defaults], strict=True)][1 if method else 0 :]
    for arg, default in [*pairs, *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]:
        note = ast.unparse(arg.annotation).strip("\"'") if arg.annotation else ""
        if default is None:
            options = _required(arg.arg, note, cases)
            options += [said[arg.arg]] if arg.arg in said else []
            yield Slot(arg.arg, True, tuple(options))
        else:
            yield Slot(arg.arg, False, tuple(_optional(arg.arg, default)))


def _required(name: str, note: str, cases: Sequence[Case]) -> list[Spec]:
    lower = name.lower()
    named: list[Spec] = [{"model": place} for place, case in enumerate(cases) if case.symbol == note]
    if named:
        return named
    if cases and (note in _MODULES or (not note and _MODEL.search(lower))):
        return [{"model": place} for place in range(len(cases))]
    if "device" in lower or note.endswith("device"):
        return [{"device": "cpu"}]
    if note == "bool":
        return [{"value": False}, {"value": True}]
    if note == "float" or _TUNING[2][0].search(lower):
        return [{"value": 0.8}]
    if _WINDOWS.search(lower) and "Tensor" not in note:
        return [{"value": _ROOMY}, {"length": 1}]
    tokens: list[Spec] = [{"tokens": ["B", "P"]}, {"tokens": ["P"]}]
    counts: list[Spec] = [{"length": 1}, {"batch": 1}]
    if note == "int" or (_BATCH.search(lower) and "Tensor" not in note):
        return counts[::-1] if _BATCH.search(lower) else counts
    counted = lower.startswith(("max", "num", "n_")) or _COUNTS.search(lower)  # context_size is no context
    if note.endswith("Tensor") or (_TOKENS.search(lower) and not counted):
        return tokens
    return [*counts, *tokens] if _LENGTH.search(lower) else [*tokens, *counts]


def _optional(name: str, default: ast.expr) -> list[Spec]:
    value = default.value if isinstance(default, ast.Constant) else ...
    if type(value) is bool:
        return [{"value": not value}]
    for pattern, other in _TUNING:
        if pattern.search(name.lower()):
            return [{"value": other}]
    if type(value) is int and not _BATCH.search(name.lower()) and _LENGTH.search(name.lower()):
        return [{"length": 1}]
    return []


def _said(index: FileIndex, name: str, node: FunctionNode) -> dict[str, Spec]:
    """Literals and names of the module that a call in the file gives."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    found: dict[str, Spec] = {}
    for site in index.calls.get(name, []):
        given = [*zip(names, site.call.args, strict=False), *((k.arg, k.value) for k in site.call.keywords if k.arg)]
        for parameter, value in given:
            if isinstance(value, ast.Constant) and isinstance(value.value, str | int | float | None):
                found.setdefault(parameter, {"value": value.value})
            elif isinstance(value, ast.Name):
                found.setdefault(parameter, {"name": value.id})
    return found
