"""Decoding with a cache: what comes out for the new positions is what the whole prefix gives there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from migrator.codemod import CachedDecoding
from migrator.prove.bench import Bench
from migrator.prove.codec import renumbered, shape_of
from migrator.prove.comparing import relative, spelled
from migrator.prove.ledger import Tally
from migrator.prove.parity import Pair, loaded_pairs
from migrator.prove.probe import Case, with_method
from migrator.prove.protocol import dtype_name
from migrator.prove.remote import BoxError, Model, Run
from migrator.recognise.index import FileIndex
from migrator.rewrite.plan import Stage

_KINDS = ("root", "inner", "even")
_CASES = 3
_CACHE = {"object": "KVCache", "fields": {}}


@dataclass(frozen=True)
class Step:
    """What one call gave: its form, its tensors, and how many queries each attention of it had."""

    form: Any
    outputs: list[Tensor]
    rows: list[int]


@dataclass(frozen=True)
class Session:
    """Calls with longer and longer prefixes; see `trials.decoded` for the kinds of `cache`."""

    words: str
    run: Run
    cache: str
    ends: tuple[int, ...]


def check_decoding(bench: Bench, stage: Stage, ability: CachedDecoding) -> None:
    """All sessions of all cases, each step against the text before, which gets the same prefix and knows no cache."""
    symbol = f"{ability.owner}.{ability.method}"
    bench.tick(f"{symbol}: decoding with a cache")
    before, after = bench.box("the legacy code", stage.before), bench.box("the migrated code", stage.after)
    index = FileIndex(stage.before)
    switch = any(name == ability.owner for claim in stage.claims for name, _ in claim.bases)
    work = Tally()
    with bench.ledger.tally("cached decoding", symbol, bench.float64.limit) as tally:
        for case in bench.probes.of([ability.owner], _KINDS)[:_CASES]:
            case = with_method(index, bench.scratch(stage.before), case, ability.method)
            # A variation that an earlier stage gave up is none that has to run.
            for pair in loaded_pairs(bench, before, after, case, Tally() if case.kind == "even" else tally):
                for run in _runs(case, ability.method):
                    _Trial(tally, work, pair, index, ability, switch).sessions(run)
        tally.words = f"equal to the whole prefix at every position: {tally.count} comparisons"
    if tally.failure is None or work.failure is not None:
        work.words = "only positions that are not cached yet are computed"
        bench.ledger.write("cached work", symbol, work)


def _runs(case: Case, method: str) -> list[Run]:
    """The longest call of one sequence, and the longest of several."""
    runs = sorted((run for run in case.runs if run.method == method), key=lambda run: run.size[1], reverse=True)
    several, one = ([run for run in runs if (run.size[0] > 1) == many] for many in (True, False))
    return [*several[:1], *one[:1]]


@dataclass(frozen=True)
class _Trial:
    tally: Tally
    work: Tally
    pair: Pair
    index: FileIndex
    ability: CachedDecoding
    switch: bool

    def sessions(self, run: Run) -> None:
        try:
            cuts = self.cuts(run)
        except ValueError as error:
            self.tally.cannot(str(error))
            return
        length = min(run.tensors[place].size(axis) for place, axis in cuts)
        if length < 2:
            self.tally.cannot("it was only seen to run with one position")
            return
        other = run.with_tensors(_others(run.tensors, cuts))
        sessions = _sessions(run, other, length)
        truths = {id(r): self.truth(r, cuts, length) for r in (run, other)}
        self.compared(sessions, cuts, truths, enable=False)
        if self.switch and self.tally.failure is None:
            self.compared(sessions[:2], cuts, truths, enable=True)

    def cuts(self, run: Run) -> list[tuple[int, int]]:
        """Which of the run's tensors hold the prefix, each with its axis of positions."""
        method = self.index.modules[self.ability.owner].methods.get(self.ability.method)
        if method is None:
            raise ValueError("it is not defined in its class")
        names = [arg.arg for arg in (*method.args.posonlyargs, *method.args.args)][1:]
        given = {**dict(zip(names, run.args, strict=False)), **dict(run.kwargs["dict"])}
        found = []
        for name, axis in self.ability.sequences:
            if name not in given or given[name] is None:
                continue
            if not isinstance(given[name], dict) or "tensor" not in given[name]:
                raise ValueError(f"its argument {name} is no tensor")
            found.append((given[name]["tensor"], axis))
        if not found:
            raise ValueError("no call of it was seen that gets a sequence")
        return found

    def truth(self, run: Run, cuts: list[tuple[int, int]], length: int) -> list[Step] | None:
        """What the text before gives for each prefix; None if it can't."""
        session = Session("", run, "none", tuple(range(1, length + 1)))
        try:
            steps = self.ask(self.pair.before, [session], cuts)[0]
        except BoxError as error:
            self.tally.cannot(f"the code before the change failed: {error}")
            return None
        if not all(bool(t.isfinite().all()) for step in steps for t in step.outputs if t.is_floating_point()):
            self.tally.cannot("the code before the change gives no finite numbers")
            return None
        if any((step.form, len(step.outputs)) != (steps[-1].form, len(steps[-1].outputs)) for step in steps):
            self.tally.cannot("the form of its result depends on the length")
            return None
        return steps

    def compared(
        self,
        sessions: list[Session],
        cuts: list[tuple[int, int]],
        truths: dict[int, list[Step] | None],
        *,
        enable: bool,
    ) -> None:
        if any(truth is None for truth in truths.values()):
            return
        try:
            found = self.ask(self.pair.after, sessions, cuts, enable=enable)
        except BoxError as error:
            self.tally.fail(f"the migrated code failed with a cache: {error} ({sessions[0].run.words})")
            return
        for session, steps in zip(sessions, found, strict=True):
            truth = truths[id(session.run)]
            assert truth is not None
            start = 0
            for end, step in zip(session.ends, steps, strict=True):
                where = f"{session.words}, positions {start} to {end - 1}, {session.run.words}"
                self.step(truth, step, session.cache, start, end, where + (", checkpointing" if enable else ""))
                start = end if session.cache != "none" else 0

    def step(self, truth: list[Step], found: Step, cache: str, start: int, end: int, where: str) -> None:
        problem = _form_problem(truth[end - 1].form, found.form, cache)
        if problem is None and len(found.outputs) != len(truth[-1].outputs):
            problem = f"it returns {len(found.outputs)} tensors instead of {len(truth[-1].outputs)}"
        if problem is not None:
            self.tally.fail(f"{problem} ({where})")
            return
        if cache != "none":
            self.computed(found.rows, end - start, where)
        for number, new in enumerate(found.outputs):
            name = "the output" if len(found.outputs) == 1 else f"output {number}"
            expected = _new_rows(truth, number, start, end)
            if expected is None:
                self.tally.cannot(f"{name} has no axis of its own for positions")
            elif expected.shape != new.shape:
                shapes = f"{tuple(new.shape)} instead of {tuple(expected.shape)}"
                self.tally.fail(f"{name} for the new positions has shape {shapes} ({where})")
            else:
                self.tally.measured(relative(expected, new), f"{name} ({where})")

    def computed(self, rows: list[int], new: int, where: str) -> None:
        if not rows:
            self.work.cannot("no attention of torch was seen at work")
        elif max(rows) > new:
            self.work.fail(f"it computes {max(rows)} positions where {new} {'is' if new == 1 else 'are'} new ({where})")
        else:
            self.work.ok()

    def ask(
        self, model: Model, sessions: Sequence[Session], cuts: list[tuple[int, int]], *, enable: bool = False
    ) -> list[list[Step]]:
        tensors: list[Tensor] = []
        told = []
        for session in sessions:
            run = session.run.cast(model.dtype)
            told.append({
                "args": renumbered(run.args, len(tensors)), "kwargs": renumbered(run.kwargs, len(tensors)),
                "cuts": [[place + len(tensors), axis] for place, axis in cuts],
                "ends": list(session.ends), "cache": session.cache,
            })  # fmt: skip
            tensors += run.tensors
        reply, out = model.box.call(
            "decode", tensors, handle=model.handle, path=model.path, method=self.ability.method, sessions=told,
            default=dtype_name(model.default), train=enable, enable=enable,
        )  # fmt: skip
        try:
            return [
                [
                    Step(shape_of(s["tree"]), out[int(s["from"]) : int(s["to"])], [int(n) for n in s["rows"]])
                    for s in steps
                ]
                for steps in reply["sessions"]
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BoxError("its process gave an answer that makes no sense") from error


def _new_rows(truth: list[Step], number: int, start: int, end: int) -> Tensor | None:
    """What one output is for the positions from `start` to `end`, if the prefix ends there.

    Which axis positions have, is seen from how its size grows. Without one, it is an output for the last position.
    """
    whole, longer, shorter = (step.outputs[number] for step in (truth[end - 1], truth[-1], truth[-2]))
    if longer.ndim != shorter.ndim:
        return None
    axes = [axis for axis in range(longer.ndim) if longer.size(axis) != shorter.size(axis)]
    if not axes:
        return whole
    return whole.narrow(axes[0], start, end - start) if len(axes) == 1 and whole.size(axes[0]) == end else None


def _others(tensors: Sequence[Tensor], cuts: list[tuple[int, int]]) -> list[Tensor]:
    """A second sequence: the first one backwards."""
    axes = dict(cuts)
    return [tensor.flip(axes[place]) if place in axes else tensor for place, tensor in enumerate(tensors)]


def _sessions(run: Run, other: Run, length: int) -> list[Session]:
    """One position at a time; a chunk, then one at a time; two chunks; and last a call as ever, to the same module."""
    every, first = tuple(range(1, length + 1)), min(5, length - 1)
    halves = ((length + 1) // 2, length)
    return [
        Session("one position at a time", run, "returned", every),
        Session(f"another sequence, {first} positions and then one at a time", other, "given", every[first - 1 :]),
        Session("two chunks, after reset()", run, "reset", halves),
        Session("two chunks with a cache of its own", other, "returned", halves),
        Session("without a cache, after all that", run, "none", (length,)),
    ]


def _form_problem(old: Any, new: Any, cache: str) -> str | None:
    """With its own cache the method returns (old result, cache), or the old tuple with the cache at its end."""
    if cache in ("none", "given"):
        return None if old == new else f"it returns {spelled(new)} instead of {spelled(old)}"
    old_items = old["tuple"] if isinstance(old, dict) and old.get("type") == "tuple" else [old]
    if new != {"tuple": [*old_items, _CACHE], "type": "tuple"}:
        return f"with use_cache=True it returns {spelled(new)}, and not the old result and the cache"
    return None
