"""The subject of a validation: one model in two texts, how it is built, and inputs of any size for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from migrator.prove import probe
from migrator.prove.probe import Case
from migrator.prove.remote import Box, Pending, Run
from migrator.recognise.index import FileIndex
from migrator.validate.request import Text
from migrator.validate.result import SideName
from migrator.validate.result import Subject as Described


class CannotMeasure(Exception):
    """A section, or all of them, has nothing to measure; the message says why."""


@dataclass
class Budget:
    """How long a section may take, and who is told how far it is."""

    until: float
    progress: Callable[[str], None]

    @property
    def left(self) -> float:
        return max(self.until - time.monotonic(), 0.0)

    def tick(self, doing: str) -> None:
        self.progress(doing)


@dataclass
class Subject:
    """The model on both sides.

    `specs` are the arguments of its forward as `prove.inputs` describes them.
    """

    symbol: str
    source: str
    full_size: bool
    build: dict[str, Any]
    tensors: tuple[Tensor, ...]
    specs: list[dict[str, Any]]
    texts: dict[SideName, Text]
    boxes: dict[SideName, Box]
    reopen: Callable[[SideName], Box]
    separate: Callable[[], Box]  # one more box of the migrated text
    parameters: dict[SideName, int] = field(default_factory=dict)
    blocks: int = 0
    deepened: bool = False
    definitions_only: bool = False
    initialiser: str = ""
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Those that both sides run at; `seconds` says how long the slower one takes for a call at each."""
        return tuple(self.seconds)

    def index(self, side: SideName) -> FileIndex:
        return FileIndex(self.texts[side].text)

    @property
    def case(self) -> Case:
        return Case(self.symbol, "root", self.build, self.tensors, (self.run(1, self.lengths[0]),))

    @property
    def described(self) -> Described:
        how = self.source + (" and the function that the file applies to it" if self.initialiser else "")
        return Described(self.symbol, how, self.full_size, self.blocks, self.parameters)

    def run(self, batch: int, length: int) -> Run:
        """A call of its forward, with random inputs that are the same every time."""
        return probe.runs_of({"forward": self.specs}, {"forward": [[batch, length]]})[0]

    def without_cache(self) -> Subject | None:
        """The same, but the migrated side in a new box where no cache is ever made; None if it makes none anyway."""
        opened = replace(self, boxes={**self.boxes, "migrated": self.separate()})
        if not opened.ask("migrated", "uncached").get()[0]["caches"]:
            return None
        return opened

    def ask(
        self, side: SideName, op: str, run: Run | None = None, *, tensors: Sequence[Tensor] = (), seed: int = 0,
        limit: float = 30.0, **values: Any,
    ) -> Pending:  # fmt: skip
        """A request to one side. The model is built for it under `seed`; `limit` is in seconds.

        What is called gets `tensors`, those of `run` where there is one.
        """
        box = self.boxes[side]
        if box.gone:
            box = self.boxes[side] = self.reopen(side)
        call: dict[str, Any] = {}
        if run is not None:
            call = {"method": run.method, "args": run.args, "kwargs": run.kwargs, "path": ""}
            tensors = run.tensors
        return box.ask(
            op, [*self.tensors, *tensors], limit=limit + 2,
            **{"build": self.build, "given": len(self.tensors), "seed": seed, "patience": limit,
               "initialiser": self.initialiser, **call, **values},
        )  # fmt: skip
