"""The subject of a validation: one model in two texts, how it is built, and inputs of any size for it."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from migrator.prove import probe
from migrator.prove.bench import Bench
from migrator.prove.guesses import Guess, guesses
from migrator.prove.nursery import Nursery
from migrator.prove.probe import Case
from migrator.prove.remote import Box, BoxError, Pending, Run
from migrator.recognise.index import FileIndex
from migrator.validate.initialising import initialiser
from migrator.validate.request import Request, Text
from migrator.validate.result import SIDES, SideName
from migrator.validate.result import Subject as Described

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
_LARGEST = 40_000_000  # parameters; a larger model is measured in small
_SLOWEST = 4.0  # seconds of one call; beyond that a length is left out
_BATCH = 2


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


def find(request: Request, nursery: Nursery, deadline: float, progress: Callable[[str], None]) -> Subject:
    """The model to measure.

    Raises:
        CannotMeasure: a text cannot be run, or none of its models can be built in both.
    """
    progress("importing both files")
    sides: dict[SideName, Text] = {"legacy": request.legacy, "migrated": request.migrated}
    benches = {side: Bench(nursery, text.path, deadline, progress) for side, text in sides.items()}
    boxes: dict[SideName, Box] = {}
    for side, text in sides.items():
        try:
            boxes[side] = benches[side].open_first(text.text)
        except BoxError as error:
            raise CannotMeasure(f"{text.path.name} cannot be run: {error}") from error

    def reopen(side: SideName) -> Box:
        return benches[side].scratch(sides[side].text)

    def separate() -> Box:
        return Bench(nursery, request.migrated.path, deadline, progress).open_first(request.migrated.text)

    errors: list[str] = []
    for symbol in _candidates(request):
        progress(f"looking for a way to build {symbol}")
        try:
            return _subject(request, symbol, Subject(symbol, "", False, {}, (), [], sides, boxes, reopen, separate))
        except (BoxError, CannotMeasure) as error:
            errors.append(f"{symbol}: {error}")
    raise CannotMeasure("; ".join(errors) or "no model class differs between the two texts")


def _candidates(request: Request) -> list[str]:
    """Whole models with anything that differs inside, those that hold the most first."""
    if request.symbol:
        return [request.symbol]
    old, new = FileIndex(request.legacy.text), FileIndex(request.migrated.text)
    functions = {name for name, found in old.functions.items() if _differs(found.tree, new.functions.get(name))}
    changed = [
        name for name, info in old.modules.items()
        if name in new.modules and ast.dump(info.node) != ast.dump(new.modules[name].node)
    ]  # fmt: skip
    changed += [user for name in functions for user in probe.users_of(old, name) if user not in changed]
    roots = [root for root in probe.roots_of(old, changed) if root in new.modules]
    return sorted(roots, key=lambda root: len(probe.held_by(old, root) & set(changed)), reverse=True)


def _differs(tree: ast.AST, other: Any) -> bool:
    return other is None or ast.dump(tree) != ast.dump(other.tree)


def _subject(request: Request, symbol: str, empty: Subject) -> Subject:
    errors: list[str] = []
    for source, build, full in _ways(request, symbol):
        subject = replace(empty, source=source, full_size=full, build=build)
        try:
            if _fits(subject, full):
                subject.specs = _specs(subject)
                _initialise(subject)
                subject.seconds = _seconds(subject)
                return subject
        except (BoxError, CannotMeasure) as error:
            errors.append(str(error))
    raise CannotMeasure(errors[0] if errors else "no way to build it is known; --build says one")


def _ways(request: Request, symbol: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """How the model may be built, with whether that is its full size: as the user says, as its file does, in small."""
    said = [("--build", request.build)] if request.build else []
    said += [("[tool.migrate.probe]", text) for name, text in request.legacy.probes if name == symbol]
    yield from ((source, {"cls": symbol, "setup": [], "call": text}, True) for source, text in said)
    if request.build:
        return
    found = list(guesses(FileIndex(request.legacy.text), symbol))[:20]
    yield from ((guess.source, guess.full, True) for guess in _different(found))
    yield from ((guess.source, guess.build, guess.build == guess.full) for guess in found)


def _different(found: Sequence[Guess]) -> list[Guess]:
    return [guess for i, guess in enumerate(found) if all(guess.full != other.full for other in found[:i])]


def _fits(subject: Subject, full: bool) -> bool:
    """Build it on both sides and count; whether that is small enough to be measured here."""
    for side in SIDES:
        reply, _ = subject.ask(side, "anatomy", limit=20.0).get()
        subject.parameters[side], subject.blocks = int(reply["parameters"]), int(reply["blocks"])
    return not full or max(subject.parameters.values()) <= _LARGEST


def _initialise(subject: Subject) -> None:
    """Let the model start as the file's script starts it, if its function can be run by itself."""
    subject.initialiser = initialiser(subject.index("legacy"))
    try:
        for side in SIDES:
            subject.ask(side, "anatomy", limit=20.0).get()
    except BoxError:
        subject.initialiser = ""


def _specs(subject: Subject) -> list[dict[str, Any]]:
    reply, _ = subject.boxes["legacy"].call(
        "discover", cls=subject.symbol, wanted=[], builds=[subject.build], methods=[], limit=30.0
    )
    if "forward" not in reply.get("methods", ()):
        raise CannotMeasure(reply.get("errors", ["its forward was not seen to run"])[0])
    return list(reply["methods"]["forward"])


def _seconds(subject: Subject) -> dict[int, float]:
    """Lengths that both sides run at, up to the first that is too much for one of them."""
    found: dict[int, float] = {}
    shapes: list[Any] = []
    for length in LENGTHS:
        run = subject.run(_BATCH, length)
        if [tensor.shape for tensor in run.tensors] in shapes:
            break  # no input of it depends on a length
        try:
            pairs = [subject.ask(side, "runs", run, limit=_SLOWEST).get() for side in SIDES]
        except BoxError:
            if found:
                break
            continue
        shapes.append([tensor.shape for tensor in run.tensors])
        found[length] = max(float(reply["seconds"]) for reply, _ in pairs)
        if found[length] > _SLOWEST / 2:
            break
    if not found:
        raise CannotMeasure(f"its forward runs with none of the lengths {LENGTHS[0]} to {LENGTHS[-1]}")
    return found
