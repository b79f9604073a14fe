"""Models as a file builds them, in a box: names and shapes of their tensors, and initial values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from migrator.checkpoint.request import ModelFile
from migrator.errors import MigrateError
from migrator.prove.guesses import guesses
from migrator.prove.nursery import Nursery
from migrator.prove.probe import roots_of
from migrator.prove.remote import Box, BoxError, Model, build, open_box
from migrator.prove.states import owners
from migrator.recognise.index import FileIndex

_TRIES = 40
Build = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What a model's state dict and its parameters look like, in their order; `how` says how it was built."""

    state: dict[str, Tensor]
    parameters: list[str]
    tied: list[list[str]]
    classes: dict[str, list[str]]
    how: str

    def paths(self, owner: str) -> list[str]:
        """What the names of everything in an instance of a class begin with."""
        return [f"{path}." if path else "" for path in owners(self.classes, owner)]

    def others(self, name: str) -> list[str]:
        """Further names of the same tensor."""
        return [other for group in self.tied if name in group for other in group if other != name]

    @property
    def size(self) -> int:
        return sum(self.state[name].numel() for name in self.parameters if name in self.state)


class Builder:
    """Builds the models of one file, one after another."""

    def __init__(self, nursery: Nursery, file: ModelFile, deadline: float, seed: int) -> None:
        self.file, self.seed = file, seed
        self.index = FileIndex(file.text)
        self.failures: list[str] = []
        self._nursery, self._deadline = nursery, deadline
        self._box: Box | None = None

    def layouts(self, symbol: str, expression: str) -> Iterator[Layout]:
        """Each way to build a model: as the user says, as the project or the file says, then by guessing.

        Raises:
            MigrateError: the file has no such class, or cannot be run.
        """
        known = self.index.modules
        if symbol and symbol not in known:
            cause = f"the file has no module class {symbol}"
            raise MigrateError("no-model", cause, f"there are: {', '.join(known)}", path=self.file.path)
        if expression:
            yield from self._built([(_call(symbol, expression), [])])
            return
        names = [symbol] if symbol else roots_of(self.index, list(known))
        given, tensors = self._given()
        for name in [*names, *(other for other in known if not symbol and other not in names)]:
            said = [_call(name, text) for cls, text in self.file.probes if cls == name]
            said += [given[name]] if name in given else []
            guessed = [guess.full for guess in guesses(self.index, name)]
            yield from self._built([*((one, tensors) for one in said), *((one, []) for one in guessed)])

    def close(self) -> None:
        if self._box is not None:
            self._box.close()

    def _built(self, ways: Iterable[tuple[Build, list[Tensor]]]) -> Iterator[Layout]:
        different = {json.dumps(way): (way, tensors) for way, tensors in ways}
        for way, tensors in list(different.values())[:_TRIES]:
            try:
                model = build(self._open(), way, tensors, dtype=torch.float32, seed=self.seed)
            except BoxError as error:
                self.failures.append(f"{_words(way)}: {error}")
                continue
            yield _layout(model, _words(way))

    def _given(self) -> tuple[dict[str, Build], list[Tensor]]:
        try:
            reply, tensors = self._open().call("probes")
        except BoxError:
            return {}, []
        return reply["builds"], tensors

    def _open(self) -> Box:
        if self._box is None or self._box.gone:
            self._box = self._run_file()
        return self._box

    def _run_file(self) -> Box:
        """A box with the file's text; should that fail as a whole, with its definitions."""
        failures = []
        for definitions_only in (False, True):
            try:
                box, _ = open_box(
                    self._nursery, "the model's file", self.file.text, self.file.path, self._deadline,
                    definitions_only=definitions_only,
                )  # fmt: skip
                return box
            except BoxError as error:
                failures.append(str(error))
        raise MigrateError("not-runnable", f"the file cannot be run: {failures[0]}", path=self.file.path)


def _layout(model: Model, how: str) -> Layout:
    classes = {path: found["classes"] for path, found in model.modules.items()}
    return Layout(model.state, model.parameters, model.tied, classes, how)


def _call(symbol: str, expression: str) -> Build:
    return {"cls": symbol or expression.partition("(")[0], "setup": [], "call": expression}


def _words(way: Build) -> str:
    """How a model was built, as a line of code."""
    if "call" in way:
        return " ".join(str(way["call"]).split())
    given = [repr(value) for value in way["args"]]
    given += [f"{name}={value!r}" for name, value in way["kwargs"]["dict"]]
    return f"{way['cls']}({', '.join(given)})"
