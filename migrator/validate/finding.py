"""Finding the subject: which model to measure, how it is built, and how long its sequences may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from migrator.prove import probe
from migrator.prove.bench import Bench
from migrator.prove.guesses import Guess, guesses
from migrator.prove.nursery import Nursery
from migrator.prove.remote import Box, BoxError
from migrator.recognise.index import FileIndex
from migrator.validate.initialising import initialiser
from migrator.validate.request import Request, Text
from migrator.validate.result import SIDES, SideName
from migrator.validate.sizes import multiplied
from migrator.validate.subject import CannotMeasure, Subject

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
_LARGEST = 40_000_000  # parameters; a larger model is measured in small
_SLOWEST = 4.0  # seconds of one call; beyond that a length is left out
_QUICK = 0.01  # seconds of a short call, up to which a small model is made larger
_BATCH = 2
_INVENTED = ("what it reads from its configuration", "names of its parameters")  # whose sizes are ours
_LARGER = (
    (re.compile(r"block_?size|context|ctx|max_?(seq_?)?len|max_?pos|window|seq_?len"), 16),
    (re.compile(r"n_embd|d_?model|embed|hidden|width|^dim$"), 8),
)


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
            empty = Subject(symbol, "", False, {}, (), [], sides, boxes, reopen, separate)
            return _subject(request, symbol, replace(empty, definitions_only=benches["migrated"].definitions_only))
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
            if _settled(subject):
                return subject if full else _roomier(subject)
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
    stated = [guess for guess in found if guess.source not in _INVENTED]
    yield from ((guess.source, guess.full, True) for guess in _different(stated))
    yield from ((guess.source, guess.build, False) for guess in found)


def _different(found: Sequence[Guess]) -> list[Guess]:
    return [guess for i, guess in enumerate(found) if all(guess.full != other.full for other in found[:i])]


def _settled(subject: Subject) -> bool:
    """Build it on both sides, count, and see what it runs with; whether it is small enough to be measured here."""
    subject.parameters = {}
    for side in SIDES:
        reply, _ = subject.ask(side, "anatomy", limit=20.0).get()
        subject.parameters[side], subject.blocks = int(reply["parameters"]), int(reply["blocks"])
    if max(subject.parameters.values()) > _LARGEST:
        return False
    subject.specs = _specs(subject)
    _initialise(subject)
    subject.seconds = _seconds(subject)
    return True


def _roomier(small: Subject) -> Subject:
    """A model that can only be built in small, with a longer window and wider, as far as both sides run with it."""
    subject = small
    for pattern, times in _LARGER:
        for name, build in multiplied(subject.index("legacy"), subject.symbol, subject.build, times):
            if pattern.search(name.lower()) and (larger := _tried(replace(subject, build=build))) is not None:
                subject = larger
                break
    return subject


def _tried(subject: Subject) -> Subject | None:
    try:
        return subject if _settled(subject) and min(subject.seconds.values()) < _QUICK else None
    except (BoxError, CannotMeasure):
        return None


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
