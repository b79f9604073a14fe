"""Gradient checkpointing: each block runs twice, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migrator.codemod import Checkpointing
from migrator.prove.bench import Bench
from migrator.prove.comparing import Scale, compare
from migrator.prove.ledger import Tally
from migrator.prove.probe import Case
from migrator.prove.protocol import dtype_name
from migrator.prove.remote import Box, BoxError, Model, Ran, Run, ran_of
from migrator.prove.states import perturbed
from migrator.rewrite.plan import Stage

_CASES = 4
_ON, _OFF_AGAIN = ("enable",), ("enable", "disable")


@dataclass(frozen=True)
class _Tried:
    """One call: its results, how often each block ran, and whether re-entrant checkpointing was at work."""

    ran: Ran
    counts: list[int]
    reentrant: bool


def check_checkpointing(bench: Bench, stage: Stage, ability: Checkpointing) -> None:
    """The owner itself, and the models around it that can switch it on."""
    symbol = ability.owner
    bench.tick(f"{symbol}: gradient checkpointing")
    box = bench.box("the migrated code", stage.after)
    switched = [name for claim in stage.claims for name, _ in claim.bases]
    with bench.ledger.tally("checkpointing", symbol, bench.float64.limit) as tally:
        for case in bench.probes.of([symbol, *switched], ("root", "inner", "dropout"))[:_CASES]:
            _check_case(bench, box, case, ability, tally)
        tally.words = "each block runs twice, with the same random numbers, outputs and gradients; off in eval"


def _check_case(bench: Bench, box: Box, case: Case, ability: Checkpointing, tally: Tally) -> None:
    try:
        model = bench.model(box, case)
        model.load(perturbed(model))
        blocks = _blocks(model, ability)
        if not blocks:
            return
        _Trial(tally, model, case.largest, blocks, bench.float64).all()
    except BoxError as error:
        tally.fail(f"it fails with gradient checkpointing: {error}")


def _blocks(model: Model, ability: Checkpointing) -> list[str]:
    """Paths of the blocks in each instance of the owner that the model, or its part that is meant, holds."""
    found: list[str] = []
    for path in model.owners(ability.owner):
        stack = f"{path}.{ability.attribute}" if path else ability.attribute
        if stack not in model.modules or not (
            stack == model.path or stack.startswith(f"{model.path}.") or not model.path
        ):
            continue
        length = model.modules[stack].get("length")
        found += [stack] if length is None else [f"{stack}.{number}" for number in range(length)]
    return found


@dataclass(frozen=True)
class _Trial:
    tally: Tally
    model: Model
    run: Run
    blocks: Sequence[str]
    scale: Scale

    def all(self) -> None:
        plain, on = self.ask(()), self.ask(_ON)
        where = f"{self.run.words}, train"
        if on.reentrant:
            self.tally.fail("it uses re-entrant checkpointing, which loses gradients of inputs that need none")
        self.counted(plain, 1, f"{where}, switched off")
        self.counted(on, 2, where)
        compare(self.tally, plain.ran, on.ran, self.scale, f"{where}, with and without checkpointing")
        self.counted(self.ask(_OFF_AGAIN), 1, f"{where}, switched off again")
        self.counted(self.ask(_ON, train=False), 1, f"{self.run.words}, eval")
        self.counted(self.ask(_ON, grads=False), 1, f"{where}, without gradients")

    def counted(self, tried: _Tried, times: int, where: str) -> None:
        wrong = [path for path, count in zip(self.blocks, tried.counts, strict=True) if count != times]
        if not wrong:
            self.tally.ok()
            return
        count = tried.counts[self.blocks.index(wrong[0])]
        self.tally.fail(f"{wrong[0]} runs {count} times, and should run {times} times ({where})")

    def ask(self, switches: Sequence[str], *, train: bool = True, grads: bool = True) -> _Tried:
        run = self.run.cast(self.model.dtype)
        reply, out = self.model.box.call(
            "checkpoint", run.tensors, handle=self.model.handle, path=self.model.path, method=run.method, args=run.args,
            kwargs=run.kwargs, train=train, grads=grads, seed=7, switches=list(switches), blocks=list(self.blocks),
            default=dtype_name(self.model.default),
        )  # fmt: skip
        try:
            counts = [int(count) for count in reply["counts"]]
            assert len(counts) == len(self.blocks)
            return _Tried(ran_of(reply, out), counts, bool(reply["reentrant"]))
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise BoxError("its process gave an answer that makes no sense") from error
