"""The judge's side of a box: requests, answers, and modules that live there."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from migrator.prove.codec import shape_of
from migrator.prove.nursery import Nursery
from migrator.prove.protocol import ProtocolError, dtype_name, receive, send

T = TypeVar("T")
Part = dict[str, Any]
_PRINTED = 4000


class BoxError(Exception):
    """The code in a box raised, or the box is gone. The message is for the reader of the report."""


class OutOfTime(Exception):
    """The time for the whole proof is over."""


@dataclass(frozen=True, eq=False)
class Run:
    """One call: a method of the submodule at `path` and its arguments, with their tensors.

    `size` is the batch size and length it was made for.
    """

    method: str
    args: Any
    kwargs: Any
    tensors: tuple[Tensor, ...]
    size: tuple[int, int]

    def cast(self, dtype: torch.dtype) -> Run:
        moved = tuple(t.to(dtype) if t.is_floating_point() else t for t in self.tensors)
        return replace(self, tensors=moved)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Run:
        return replace(self, tensors=tuple(tensors))

    @property
    def words(self) -> str:
        name = "" if self.method == "forward" else f"{self.method}, "
        return f"{name}batch {self.size[0]}, length {self.size[1]}"


@dataclass
class Ran:
    """What one call gave: outputs in order, their form, and gradients by name (None where there is none)."""

    form: Any
    outputs: list[Tensor]
    grads: dict[str, Tensor | None]
    watched: list[tuple[str, Tensor | None, Tensor | None]]

    @property
    def finite(self) -> bool:
        tensors = [*self.outputs, *(grad for grad in self.grads.values() if grad is not None)]
        return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


@dataclass(frozen=True)
class Pending:
    """An answer that is under way, so that two boxes can work at the same time."""

    take: Callable[[], tuple[dict[str, Any], list[Tensor]]]

    def get(self) -> tuple[dict[str, Any], list[Tensor]]:
        return self.take()


class Box:
    """One process with one text. `label` is what messages call the text."""

    def __init__(self, nursery: Nursery, label: str, deadline: float) -> None:
        self.label, self.deadline, self.key = label, deadline, ""
        self._nursery = nursery
        self._pid, self._connection, self._output = nursery.spawn(max(deadline - time.monotonic(), 1))
        self._printed = b""
        self._gone: str | None = None

    @property
    def gone(self) -> bool:
        return self._gone is not None

    def ask(self, op: str, tensors: Sequence[Tensor] = (), *, limit: float = 30.0, **values: Any) -> Pending:
        """Send a request; the answer comes by `get`. `limit` is in seconds."""
        until = time.monotonic() + limit
        if self._gone is None:
            # What can't be sent can't be answered either, and `get` says why.
            with contextlib.suppress(OSError):
                self._connection.settimeout(limit)
                send(self._connection, {"op": op, **values}, tensors)
        return Pending(lambda: self._answer(until))

    def call(self, op: str, tensors: Sequence[Tensor] = (), **values: Any) -> tuple[dict[str, Any], list[Tensor]]:
        return self.ask(op, tensors, **values).get()

    def _answer(self, until: float) -> tuple[dict[str, Any], list[Tensor]]:
        if self._gone is not None:
            raise BoxError(self._gone)
        self._wait(until)
        try:
            self._connection.settimeout(max(until - time.monotonic(), 1.0))
            reply, tensors = receive(self._connection)
        except (ProtocolError, OSError) as error:
            self._lost(error)
        if not isinstance(reply, dict):
            self._lost(None)
        if "error" in reply:
            raise BoxError(str(reply["error"]))
        return reply, tensors

    def _wait(self, until: float) -> None:
        """Wait for an answer, and take up what is printed meanwhile, so that no pipe fills."""
        end = min(until, self.deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(self._output, selectors.EVENT_READ)
            while True:
                left = end - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(left)] if left > 0 else []
                if self._connection in ready:
                    return
                if not ready:
                    self._late(end == self.deadline)
                if not self._drain():
                    selector.unregister(self._output)

    def _drain(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._output, 1 << 16)
            self._printed = (self._printed + data)[-_PRINTED:]
            return bool(data)
        return True

    def _late(self, over: bool) -> None:
        self.close("its code did not come to an end in the time it had")
        if over:
            raise OutOfTime
        assert self._gone is not None
        raise BoxError(self._gone)

    def _lost(self, error: Exception | None) -> None:
        """The connection ended: the code ended its own process, or closed what is not its own."""
        ended = self._nursery.end(self._pid, patient=True)
        self._drain()
        printed = self._printed.decode(errors="backslashreplace").strip().splitlines()
        last = f"; it printed last: {printed[-1][:160]}" if printed else ""
        self.close(f"its process did not answer ({ended}){last}", ended=True)
        assert self._gone is not None
        raise BoxError(self._gone) from error

    def close(self, why: str = "it was closed", *, ended: bool = False) -> None:
        if self._gone is None:
            self._gone = why
            if not ended:
                self._nursery.end(self._pid)
            self._connection.close()
            os.close(self._output)


@dataclass
class Model:
    """A module in a box."""

    box: Box
    handle: int
    dtype: torch.dtype
    state: dict[str, Tensor]
    stream: Tensor
    parameters: list[str]
    tied: list[list[str]]
    modules: dict[str, dict[str, Any]]
    attributes: dict[str, dict[str, str]]
    neutralised: int
    path: str = ""
    default: torch.dtype = field(default=torch.float32)

    def at(self, path: str) -> Model:
        return replace(self, path=path)

    def load(self, state: dict[str, Tensor]) -> None:
        """Load strictly; raises `BoxError` with torch's own words."""
        self.box.call("adopt", list(state.values()), handle=self.handle, keys=list(state))
        self.state = state

    def owners(self, name: str) -> list[str]:
        """Paths of the instances of a class."""
        return [path for path, found in self.modules.items() if name in found["classes"]]

    def ask(
        self, run: Run, *, train: bool = False, seed: int = 7, grads: bool = True, dropout: bool = False,
        watch: Sequence[str] = (),
    ) -> Pending:  # fmt: skip
        return self.box.ask(
            "run", run.cast(self.dtype).tensors, handle=self.handle, path=self.path, method=run.method, args=run.args,
            kwargs=run.kwargs, train=train, seed=seed, grads=grads, dropout=dropout, default=dtype_name(self.default),
            watch=list(watch),
        )  # fmt: skip

    def run(self, run: Run, **options: Any) -> Ran:
        return ran(self.ask(run, **options))

    def ask_train(self, run: Run, steps: int, *, noise: float = 0.0) -> Pending:
        """Losses of some steps; with `noise`, from parameters that are off by this fraction of themselves."""
        return self.box.ask(
            "train", run.cast(self.dtype).tensors, handle=self.handle, path=self.path, method=run.method, args=run.args,
            kwargs=run.kwargs, steps=steps, seed=100, noise=noise, default=dtype_name(self.default), limit=60.0,
        )  # fmt: skip

    def ask_spread(self, run: Run, repeats: int, *, train: bool) -> Pending:
        return self.box.ask(
            "spread", run.cast(self.dtype).tensors, handle=self.handle, path=self.path, method=run.method,
            args=run.args, kwargs=run.kwargs, repeats=repeats, train=train, default=dtype_name(self.default),
        )  # fmt: skip


def ran(pending: Pending) -> Ran:
    """The answer to a run, checked for being one."""
    return ran_of(*pending.get())


def ran_of(reply: dict[str, Any], tensors: list[Tensor]) -> Ran:
    try:
        grads = {str(name): None if place is None else tensors[place] for name, place in dict(reply["grads"]).items()}
        first = int(reply["from"])
        watched = [
            (str(path), *(None if place is None else tensors[first + place] for place in places))
            for path, *places in reply["watched"]
        ]
        return Ran(shape_of(reply["tree"]), tensors[: int(reply["outputs"])], grads, watched)  # type: ignore[arg-type]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BoxError("its process gave an answer that makes no sense") from error


def build(
    box: Box, spec: dict[str, Any], tensors: Sequence[Tensor], *, dtype: torch.dtype, seed: int = 0,
    init_seed: int | None = None, default: torch.dtype | None = None,
) -> Model:  # fmt: skip
    """Have a module constructed in a box, with parameters of `dtype`, where `default` is torch's default dtype."""
    default = default or dtype
    pending = box.ask(
        "build",
        tensors,
        build=spec,
        seed=seed,
        init_seed=init_seed,
        dtype=dtype_name(dtype),
        default=dtype_name(default),
    )
    return built(box, pending, dtype, default)


def built(box: Box, pending: Pending, dtype: torch.dtype, default: torch.dtype) -> Model:
    reply, values = pending.get()
    try:
        state = dict(zip(reply["keys"], values[:-1], strict=True))
        names = ("handle", "parameters", "tied", "modules", "attributes", "neutralised")
        told = {name: reply[name] for name in names}
        return Model(box=box, dtype=dtype, state=state, stream=values[-1], default=default, **told)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BoxError("its process gave an answer that makes no sense") from error


def both(first: Pending, second: Pending, read: Callable[[Pending], T]) -> tuple[T | BoxError, T | BoxError]:
    """Both answers, each or why there is none."""

    def one(pending: Pending) -> T | BoxError:
        try:
            return read(pending)
        except BoxError as error:
            return error

    return one(first), one(second)


def open_box(
    nursery: Nursery, label: str, text: str, path: Path, deadline: float, *, definitions_only: bool = False,
    neutral: Sequence[Part] = (), reference: Sequence[Part] = (), isolated_draws: bool = False, limit: float = 20.0,
) -> tuple[Box, list[str]]:  # fmt: skip
    """A box in which `text` was executed, and notes on what had to be left out."""
    box = Box(nursery, label, deadline)
    try:
        reply, _ = box.call(
            "load", text=text, path=str(path), definitions_only=definitions_only, neutral=list(neutral),
            reference=list(reference), isolated_draws=isolated_draws, limit=limit,
        )  # fmt: skip
    except BoxError:
        box.close()
        raise
    return box, list(reply["notes"])
