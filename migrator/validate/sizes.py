"""Other sizes of a model: a number of its construction, multiplied, makes it deeper or its sequences longer."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from migrator.prove.remote import BoxError
from migrator.recognise.index import FileIndex
from migrator.validate.result import SIDES
from migrator.validate.subject import Subject

_MOST = 512  # a number above that counts neither blocks nor places
_TRIES = 24


def deeper(subject: Subject, times: int) -> tuple[Subject, str]:
    """The subject with `times` as many blocks, and what a reader has to know of how that came about."""
    builds = multiplied(subject.index("legacy"), subject.symbol, subject.build, times)
    for _, build in list(builds)[:_TRIES]:
        candidate = replace(subject, build=build, deepened=True)
        if all(_blocks(candidate, side) == subject.blocks * times for side in SIDES):
            return replace(candidate, blocks=subject.blocks * times), ""
    note = "no argument of the model sets its depth: blocks built under other seeds were put behind its own"
    return subject, f"{note}, with initial values that know of {subject.blocks} blocks"


def _blocks(subject: Subject, side: Any) -> int:
    try:
        return int(subject.ask(side, "anatomy", limit=20.0).get()[0]["blocks"])
    except BoxError:
        return 0


def multiplied(
    index: FileIndex, symbol: str, build: dict[str, Any], times: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Constructions with one number multiplied, and its name: as it is written, or a default that is not."""
    if "call" in build:
        for name, call in _calls(index, build["call"], times):
            yield name, {**build, "call": call}
        for place, statement in enumerate(build["setup"]):
            for name, text in _calls(index, statement, times):
                yield name, {**build, "setup": [*build["setup"][:place], text, *build["setup"][place + 1 :]]}
        return
    for name, changed in _encoded({k: build[k] for k in ("args", "kwargs")}, times, ""):
        yield name, {**build, **changed}
    given = {name for name, _ in build["kwargs"]["dict"]}
    for place, name, value in _defaults(index, symbol):
        if place >= len(build["args"]) and name not in given:
            kwargs = {**build["kwargs"], "dict": [*build["kwargs"]["dict"], [name, value * times]]}
            yield name, {**build, "kwargs": kwargs}


def _encoded(data: Any, times: int, name: str) -> Iterator[tuple[str, Any]]:
    """Copies of encoded arguments, each with one number multiplied."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    pair = isinstance(data, list) and len(data) == 2 and isinstance(data[0], str)  # of `dict`: [name, value]
    for key, value in items:
        inner = data[0] if pair else key if isinstance(key, str) else name
        for said, changed in [(inner, value * times)] if _counts(value) else _encoded(value, times, inner):
            altered = copy.copy(data)
            altered[key] = changed
            yield said, altered


def _counts(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _calls(index: FileIndex, text: str, times: int) -> Iterator[tuple[str, str]]:
    """The text, each time with one of its numbers multiplied, or with a default of one of its calls."""
    original = ast.parse(text)
    names = {id(node.value): node.arg or "" for node in ast.walk(original) if isinstance(node, ast.keyword)}
    for number, node in enumerate(ast.walk(original)):
        if isinstance(node, ast.Constant) and _counts(node.value):
            tree = ast.parse(text)
            twin = list(ast.walk(tree))[number]
            assert isinstance(twin, ast.Constant) and isinstance(twin.value, int)
            twin.value *= times
            yield names.get(id(node), ""), ast.unparse(tree)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = {keyword.arg for keyword in node.keywords}
            for place, name, value in _defaults(index, node.func.id):
                if place >= len(node.args) and name not in given:
                    tree = ast.parse(text)
                    twin = list(ast.walk(tree))[number]
                    assert isinstance(twin, ast.Call)
                    twin.keywords.append(ast.keyword(name, ast.Constant(value * times)))
                    yield name, ast.unparse(tree)


def _defaults(index: FileIndex, name: str) -> list[tuple[int, str, int]]:
    """Parameters of a class of the file, or fields of a configuration, with small numbers as their defaults.

    Each with its place among the positional arguments.
    """
    info = index.classes.get(name)
    if info is None:
        return []
    init = info.methods.get("__init__")
    if init is None:
        fields = [(i.target, i.value) for i in info.node.body if isinstance(i, ast.AnnAssign)]
        pairs = [(target.id, value) for target, value in fields if isinstance(target, ast.Name)]
    else:
        arguments = [*init.args.posonlyargs, *init.args.args][1:]
        values = [None] * (len(arguments) - len(init.args.defaults)) + list(init.args.defaults)
        pairs = [(arg.arg, value) for arg, value in zip(arguments, values, strict=True)]
    found = [(place, name, ast.literal_eval(v)) for place, (name, v) in enumerate(pairs) if isinstance(v, ast.Constant)]
    return [(place, name, value) for place, name, value in found if _counts(value)]
