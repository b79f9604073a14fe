"""Speed: calls, steps of training and generation, the two sides in turn so that a busy machine hits both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from migrator.prove.remote import BoxError
from migrator.prove.sampling import Call, Function, Size
from migrator.validate.memory import said
from migrator.validate.result import SIDES, Activity, SideName, Speed, SpeedRow, Spread, Verdict
from migrator.validate.subject import Budget, CannotMeasure, Subject

_ACTIVITIES: tuple[Activity, ...] = ("forward", "training step")
_BATCH, _PROMPT = 2, 3
_ROUNDS, _MOST = 5, 4  # rounds of both sides, and calls of one side in a round
_CALLS = 90  # what one length takes at least, in calls: a step of training is three or four
_LENGTHS = 3
_TOKENS = (16, 32, 64, 128, 256)
_SLOW = 6.0  # seconds of one generation, after which none longer is tried
_CLEARLY = 1.15


def measure(subject: Subject, budget: Budget, samplers: Sequence[str]) -> Speed:
    """`samplers` are the functions of the text that generate; the first that can be called is timed."""
    rows: list[SpeedRow] = []
    share = budget.left / 2 / _LENGTHS
    fitting = [length for length, seconds in subject.seconds.items() if seconds * _CALLS < share]
    for length in fitting[-_LENGTHS:] or subject.lengths[:1]:
        for activity in _ACTIVITIES:
            budget.tick(f"{activity}, length {length}")
            rows += _calls(subject, activity, length, share / len(_ACTIVITIES) / _ROUNDS / len(SIDES))
    note = ""
    try:
        rows += _generation(subject, budget, samplers)
    except CannotMeasure as error:
        note = f"generation was not measured: {error}"
    if not rows:
        raise CannotMeasure("no call came to an end in the time there is")
    return Speed(tuple(rows), tuple(_verdicts(rows)), note)


def _calls(subject: Subject, activity: Activity, length: int, share: float) -> Iterator[SpeedRow]:
    """One row for each side, or none: some rounds, in each of which both sides have their turn."""
    run = subject.run(_BATCH, length)
    seconds: dict[SideName, list[float]] = {side: [] for side in SIDES}
    try:
        for _ in range(_ROUNDS):
            for side in SIDES:
                pending = subject.ask(side, "timed", run, activity=activity, seconds=share, most=_MOST, limit=30.0)
                seconds[side] += [float(value) for value in pending.get()[0]["seconds"]]
    except BoxError:
        return
    for side in SIDES:
        spread = Spread.of(seconds[side])
        yield SpeedRow(side, activity, "", _BATCH, length, spread, _BATCH * length / spread.median)


# --- generation ---------------------------------------------------------------------------------------------------


@dataclass
class _Generator:
    """One function that generates, on one side; `variant` tells apart how."""

    subject: Subject
    side: SideName
    variant: str
    function: Function
    call: Call
    vocabulary: int
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def once(self, tokens: int, limit: float) -> float:
        kwargs, tensors = self.call.realised(Size(_BATCH, _PROMPT, tokens), self.vocabulary, lambda count: count)
        reply, _ = self.subject.ask(
            self.side, "generated", tensors=tensors, kwargs=kwargs, function=self.function.name,
            bound=bool(self.function.owner), limit=limit,
        ).get()  # fmt: skip
        seconds = float(reply["seconds"])
        self.seconds.setdefault(tokens, []).append(seconds)
        return seconds

    def rows(self) -> Iterator[SpeedRow]:
        for tokens, seconds in self.seconds.items():
            spread = Spread.of(seconds)
            yield SpeedRow(
                self.side, "generation", self.variant, _BATCH, tokens, spread, _BATCH * tokens / spread.median
            )


def _generation(subject: Subject, budget: Budget, samplers: Sequence[str]) -> list[SpeedRow]:
    """The legacy loop, the migrated one, and, in a box of its own, the migrated one with its cache taken away."""
    name, function, call, vocabulary = _callable(subject, samplers)
    generators = [_Generator(subject, side, "", function, call, vocabulary) for side in SIDES]
    plain = subject.without_cache()
    if plain is not None:
        generators[1].variant = "cached"
        generators.append(_Generator(plain, "migrated", "uncached", function, call, vocabulary))
    for generator in generators:
        generator.once(4, 20.0)  # warms up, and shows that it runs
        generator.seconds.clear()
    for tokens in _TOKENS:
        for number in range(_ROUNDS):
            budget.tick(f"{name}, {tokens} tokens, {number + 1} of {_ROUNDS}")
            slowest = max(generator.once(tokens, 60.0) for generator in generators)
            if slowest * len(generators) > budget.left:
                break
        if slowest > _SLOW or slowest * 2 * len(generators) > budget.left:
            break
    return [row for generator in generators for row in generator.rows()]


def _callable(subject: Subject, samplers: Sequence[str]) -> tuple[str, Function, Call, int]:
    """The first function that generates with the model that is measured, and how it is called."""
    if not samplers:
        raise CannotMeasure("no function of the legacy file that generates with a model was recognised")
    vocabulary = min(subject.ask("legacy", "vocabulary").get()[0]["sizes"], default=4)
    why = ""
    for name in samplers:
        owner = name.rpartition(".")[0]
        if owner and owner != subject.symbol:
            why = why or f"{name} belongs to another model than {subject.symbol}"
            continue
        function = Function.of(subject.index("legacy"), name, [] if owner else [subject.case])
        for call in function.calls() if function is not None else ():
            try:
                _Generator(subject, "legacy", "", function, call, vocabulary).once(4, 10.0)  # type: ignore[arg-type]
            except BoxError as error:
                why = why or str(error)
                continue
            assert function is not None
            return name, function, call, vocabulary
    raise CannotMeasure(why or "no way to call what generates is known")


# --- verdicts -----------------------------------------------------------------------------------------------------


def _verdicts(rows: list[SpeedRow]) -> Iterator[Verdict]:
    for activity in (*_ACTIVITIES, "generation"):
        found = [row for row in rows if row.activity == activity]
        old = [row for row in found if row.side == "legacy"][-1:]
        new = [row for row in found if row.side == "migrated" and row.variant != "uncached"][-1:]
        if old and new:
            yield _compared(activity, old[0], new[0])


def _compared(activity: str, old: SpeedRow, new: SpeedRow) -> Verdict:
    """Only a difference beyond the spread of both is one."""
    ratio = old.seconds.median / new.seconds.median
    at = f"at length {new.length} (median of {new.seconds.n})"
    apart = old.seconds.low > new.seconds.high or new.seconds.low > old.seconds.high
    if apart and ratio >= _CLEARLY:
        return Verdict("better", f"{said(activity)}: {ratio:.1f} times faster {at}")
    if apart and ratio <= 1 / _CLEARLY:
        return Verdict("worse", f"{said(activity)}: {1 / ratio:.1f} times slower {at}")
    return Verdict("same", f"{said(activity)}: as fast as before {at}, within the spread")
