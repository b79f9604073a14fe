"""Sampling: the same seed gives the same tokens, drawn from the same distributions, and with less work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from migrator.codemod import CachedGeneration
from migrator.prove.bench import Bench
from migrator.prove.codec import shape_of
from migrator.prove.comparing import relative, spelled
from migrator.prove.ledger import Tally
from migrator.prove.parity import Pair, loaded_pairs
from migrator.prove.protocol import dtype_name
from migrator.prove.remote import Box, BoxError, Model, Pending, both
from migrator.prove.sampling import Call, Function, Size
from migrator.recognise.index import FileIndex
from migrator.rewrite.plan import Stage

_SIZES = (Size(1, 3, 7), Size(3, 3, 19))
_SEEDS = (1, 2, 3)
_WINDOW = range(4, 161)
_SECONDS, _ATTEMPT = 20.0, 3.0


@dataclass(frozen=True)
class Sampled:
    """What one call gave: result, distributions that were drawn from, random stream, modes of its models.

    `queries` is how many positions went through its `attentions` calls of attention.
    """

    form: Any
    outputs: list[Tensor]
    draws: list[Tensor]
    stream: Tensor
    modes: list[bool]
    queries: int
    attentions: int


@dataclass(frozen=True)
class _Side:
    """One of the two texts, with its models."""

    box: Box
    models: list[Model]

    def ask(
        self, function: Function, call: Call, size: Size, *, seed: int = 1, train: bool = False,
        vocabulary: int = 4, seconds: float = _SECONDS,
    ) -> Pending:  # fmt: skip
        bound = bool(function.owner)
        kwargs, tensors = call.realised(size, vocabulary, lambda count: count)
        default = self.models[0].default if self.models else torch.float32
        return self.box.ask(
            "sample", tensors, modules=[[model.handle, model.path] for model in self.models], bound=bound,
            function=function.name, args=[], kwargs=kwargs, seed=seed, train=train, default=dtype_name(default),
            seconds=seconds,
        )  # fmt: skip


def _read(pending: Pending) -> Sampled:
    reply, tensors = pending.get()
    try:
        first, count = int(reply["outputs"]), int(reply["draws"])
        return Sampled(
            shape_of(reply["tree"]), tensors[:first], tensors[first : first + count], tensors[first + count],
            list(reply["modes"]), int(reply["queries"]), int(reply["attentions"]),
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BoxError("its process gave an answer that makes no sense") from error


def check_generation(bench: Bench, stage: Stage, ability: CachedGeneration) -> None:
    """The function of the text before and that of the text after, under the same seeds and with the same weights."""
    bench.tick(f"{ability.function}: sampling")
    before, after = bench.box("the legacy code", stage.before), bench.box("the migrated code", stage.after)
    owner = ability.function.rpartition(".")[0]
    pairs = list(_models(bench, before, after, [owner] if owner else [*bench.probes.roots, *bench.probes.cases]))
    function = Function.of(FileIndex(stage.before), ability.function, [] if owner else [pair.case for pair in pairs])
    limit = (bench.float64 if pairs else bench.float32).limit  # models that the file itself makes are as they are
    old, new = _Side(before, [pair.before for pair in pairs]), _Side(after, [pair.after for pair in pairs])
    with bench.ledger.tally("generation", ability.function, limit) as tally:
        if function is None:
            tally.cannot("there is no such function")
        elif owner and not pairs:
            tally.cannot(bench.probes.missing.get(owner, "its model could not be built"))
        else:
            trial = _Trial(tally, function, old, new)
            trial.all()
    if tally.failure is None and tally.count:
        bench.ledger.write("generation work", ability.function, trial.work)


def _models(bench: Bench, before: Box, after: Box, symbols: list[str]) -> Iterator[Pair]:
    """The models that a function may be called with, whole ones first."""
    for symbol in dict.fromkeys(symbols):
        for case in bench.probes.of([symbol], ("root", "inner"))[:1]:
            yield from loaded_pairs(bench, before, after, case, Tally())


@dataclass
class _Trial:
    tally: Tally
    function: Function
    old: _Side
    new: _Side
    work: Tally = field(default_factory=Tally)
    vocabulary: int = 4
    calls: int = 0
    draws: int = 0

    def all(self) -> None:
        windows = self.sizes()
        call = self.call()
        if call is None:
            return
        for varied, size, seed, train in self.variants(call):
            self.compared(varied, size, seed, train)
        past = [
            window for window in windows[:1] for size in (Size(2, 3, window + 4), Size(1, window + 3, 3))
            if self.compared(call, size, 1, False, quiet=True)
        ]  # fmt: skip
        self.compare_work(call, min([_SIZES[-1].length, *(window - _SIZES[-1].prompt for window in windows)]))
        words = [f"the same tokens in {self.calls} calls", *(f"past the window of {w}" for w in past[:1])]
        words.append(f"drawn from the same {self.draws} distributions" if self.draws else "distributions not seen")
        self.tally.words = ", ".join(words)

    def sizes(self) -> list[int]:
        """Windows of the models that are short enough to go past; on the way, which tokens all embeddings take."""
        replies = [side.box.call("windows", handle=model.handle)[0] for side in [self.old] for model in side.models]
        vocabularies = [int(size) for reply in replies for size in reply["vocabularies"]]
        self.vocabulary = min(vocabularies, default=self.vocabulary)
        return sorted({int(size) for reply in replies for size in reply["windows"]} & set(_WINDOW))

    def call(self) -> Call | None:
        """The first way to call it that the text before runs with, and gives something."""
        why = "no way to call it is known"
        for call in self.function.calls():
            for size in (Size(3, 3, 7), Size(1, 3, 7)):
                try:
                    if _read(self.ask(self.old, call, size, seconds=_ATTEMPT)).outputs:
                        return call
                except BoxError as error:
                    why = str(error)
        self.tally.cannot(f"no call was found that the code before the change runs with ({why})")
        return None

    def variants(self, call: Call) -> Iterator[tuple[Call, Size, int, bool]]:
        """What is compared: seeds, sizes, train mode (without dropout), and other ways to draw."""
        yield from ((call, size, seed, False) for size in _SIZES for seed in _SEEDS)
        yield call, _SIZES[0], 1, True
        for values in self.function.variations():
            yield from (
                (call.with_values(values), size, seed, False) for size, seed in zip(_SIZES, _SEEDS, strict=False)
            )

    def ask(self, side: _Side, call: Call, size: Size, **options: Any) -> Pending:
        return side.ask(self.function, call, size, vocabulary=self.vocabulary, **options)

    def both(self, call: Call, size: Size, **options: Any) -> tuple[Sampled | BoxError, Sampled | BoxError]:
        return both(self.ask(self.old, call, size, **options), self.ask(self.new, call, size, **options), _read)

    def compared(self, call: Call, size: Size, seed: int, train: bool, *, quiet: bool = False) -> bool:
        """Compare one call; whether the text before could do it. `quiet`: it need not."""
        old, new = self.both(call, size, seed=seed, train=train)
        where = f"{size.words}, seed {seed}{', train' if train else ''}{call.words}"
        if isinstance(old, BoxError):
            if not quiet:
                self.tally.cannot(f"the code before the change failed: {old} ({where})")
            return False
        if isinstance(new, BoxError):
            self.tally.fail(f"the migrated code failed: {new} ({where})")
        elif (problem := _problem(old, new)) is not None:
            self.tally.fail(f"{problem} ({where})")
        else:
            self.measured(old, new, where)
        return True

    def measured(self, old: Sampled, new: Sampled, where: str) -> None:
        self.calls += 1
        if [draw.shape for draw in old.draws] == [draw.shape for draw in new.draws]:
            self.draws += len(old.draws)
            for number, (a, b) in enumerate(zip(old.draws, new.draws, strict=True)):
                self.tally.measured(relative(a, b), f"what draw {number} is made from ({where})")
        for a, b in zip(old.outputs, new.outputs, strict=True):
            if not (a.is_floating_point() or a.is_complex()) and not torch.equal(a, b):
                count = int((a != b).sum().item())
                self.tally.fail(f"{count} of {a.numel()} tokens differ ({where})")
            else:
                self.tally.measured(relative(a, b), f"the result ({where})")
        if not torch.equal(old.stream, new.stream):
            self.tally.fail(f"it draws another number of random values ({where})")

    def compare_work(self, call: Call, length: int) -> None:
        """More tokens cost one query each in each attention; `length` is the most that the window has room for."""
        batch, prompt = _SIZES[-1].batch, _SIZES[-1].prompt
        sizes = Size(batch, prompt, max(length // 2, 1)), Size(batch, prompt, max(length, 2))
        try:
            short, long = (_read(self.ask(self.new, call, size)) for size in sizes)
            before = _read(self.ask(self.old, call, sizes[1]))
        except BoxError as error:
            self.work.cannot(str(error))
            return
        queries, attentions = long.queries - short.queries, long.attentions - short.attentions
        more = sizes[1].length - sizes[0].length
        if not attentions:
            self.work.cannot("no attention of torch was seen at work for further tokens")
        elif queries != attentions:
            self.work.fail(
                f"{more} more tokens cost {queries} queries in {attentions} calls of attention: "
                f"positions are computed again ({sizes[1].words})"
            )
        else:
            self.work.ok()
            instead = f" instead of {before.queries}" if before.queries else ""
            self.work.words = f"one query for each token: {long.queries}{instead} ({sizes[1].words})"


def _problem(old: Sampled, new: Sampled) -> str | None:
    """What is wrong with the form of the result, or with what the call leaves behind."""
    if old.form != new.form or len(old.outputs) != len(new.outputs):
        return f"it returns {spelled(new.form)} instead of {spelled(old.form)}"
    for a, b in zip(old.outputs, new.outputs, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"it returns {b.dtype} {tuple(b.shape)} instead of {a.dtype} {tuple(a.shape)}"
    return None if old.modes == new.modes else "it leaves the model in another mode than before"
