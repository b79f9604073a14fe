"""Stages that promise `warm`: what `new` owes, and with the old weights a difference within the printed bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from migrator.codemod import SwiGLUPart
from migrator.prove.bench import Bench, parts_of
from migrator.prove.comparing import relative
from migrator.prove.ledger import Tally
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError, Model, Ran
from migrator.prove.stages import prove_new
from migrator.prove.states import State, perturbed, renaming
from migrator.rewrite.plan import Stage

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "tanh GELU": lambda z: functional.gelu(z, approximate="tanh"),
}


def prove_warm(bench: Bench, stage: Stage, symbols: Sequence[str], roots: Sequence[str]) -> None:
    """The gate is a gate as in `new`; the bound holds for each pair of numbers; and it holds in the models."""
    prove_new(bench, stage, symbols, roots)
    if bench.ledger.failed:
        return
    everything = list(dict.fromkeys([*symbols, *roots]))
    cases = bench.probes.of(everything, ("root", "inner"))
    for part in parts_of(stage.claims):
        if isinstance(part, SwiGLUPart):
            bench.tick(f"{part.owner}: warm start")
            if _check_bound(bench, part):
                _check_start(
                    bench, stage, [case for case in cases if case.symbol == part.owner or case.kind == "root"], part
                )


# --- the start ------------------------------------------------------------------------------------------------------


def started(state: State, gate: str, up: str, sharpness: float) -> State:
    """The entries of a gate and its `up`, from a state that has the first product's tensors under the gate's name.

    silu(k z) * (1/k) = z sigmoid(k z), with z what the first product gave, is close to relu(z) and gelu(z).
    """
    weight, bias = state[f"{gate}.weight"], state.get(f"{gate}.bias")
    scale = torch.full(weight.shape[:1], 1 / sharpness, dtype=weight.dtype)
    made = {
        f"{gate}.weight": weight * sharpness, f"{up}.weight": torch.zeros_like(weight), f"{up}.bias": scale,
    }  # fmt: skip
    return made if bias is None else {**made, f"{gate}.bias": bias * sharpness}


def undone(state: State, gate: str, up: str, sharpness: float) -> State | None:
    """The first product's tensors under the gate's name, or None where `up` is no longer as it started."""
    start = started(state, gate, up, sharpness)
    if not all(torch.equal(state[name], start[name]) for name in (f"{up}.weight", f"{up}.bias")):
        return None
    return {name: state[name] / sharpness for name in (f"{gate}.weight", f"{gate}.bias") if name in state}


# --- its checks -----------------------------------------------------------------------------------------------------


def _check_bound(bench: Bench, part: SwiGLUPart) -> bool:
    """The bound against the two functions, number by number; no wider than it has to be."""
    with bench.ledger.tally("warm bound", part.owner, part.bound) as tally:
        if part.activation not in _ACTIVATIONS or not part.sharpness > 0:
            tally.fail(f"no start is known for {part.activation or 'this activation'}")
            return False
        z = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
        start = functional.silu(part.sharpness * z) / part.sharpness
        far = (_ACTIVATIONS[part.activation](z) - start).abs().max().item()
        tally.measured(far, f"{part.activation} from silu({part.sharpness:g} z) / {part.sharpness:g}")
        if far < 0.9 * part.bound:
            tally.fail(f"the bound is {part.bound}, but the largest difference only {far:.4f}")
        tally.words = f"{part.activation} against silu(k z) / k, k = {part.sharpness:g}"
    return tally.failure is None


def _check_start(bench: Bench, stage: Stage, cases: Sequence[Case], part: SwiGLUPart) -> None:
    """With the old weights, hidden units are off by at most the bound, and outputs by as much as `down` makes of it."""
    before, after = bench.box("the code before the change", stage.before), bench.box("the migrated code", stage.after)
    renamed = [entry for claim in stage.claims for entry in claim.renamed]
    with (
        bench.ledger.tally("warm outputs", part.owner, 1.0) as sums,
        bench.ledger.tally("warm hidden units", part.owner, part.bound) as units,
    ):
        for case in cases:
            try:
                pair = _Pair(case, bench.model(before, case), bench.model(after, case), part, renamed)
                _compare(pair, units, sums, bench.float64.limit)
            except (BoxError, KeyError) as error:
                units.fail(f"the old weights can't start it: {error}")
        units.words = "hidden units from old weights, old against new"
        sums.words = "outputs from old weights, as a share of what the bound allows"


class _Pair:
    """A case before and after, with the same weights, the gates of the second started from the first's products."""

    def __init__(self, case: Case, old: Model, new: Model, part: SwiGLUPart, renamed: Sequence[tuple[str, str, str]]):
        self.case, self.old, self.new = case, old, new
        rename = renaming(old, renamed)
        old.load(perturbed(old))
        self.names = {rename(key): key for key in old.state}
        state = {name: old.state[self.names[name]] for name in new.state if name in self.names}
        self.paths = []
        for path in new.owners(part.owner):
            prefix = f"{path}." if path else ""
            gate, up, down = (prefix + name for name in (part.gate, part.up, part.down))
            state |= started(state, gate, up, part.sharpness)
            self.paths.append((gate, down))
        new.load(state)

    def run(self, gate: str, down: str) -> tuple[list[_Call], list[_Call]]:
        """What went into the first product and the gate, and into and out of the last, on both sides."""
        was = [self.names[f"{name}.weight"].rpartition(".")[0] for name in (gate, down)]
        old = self.old.run(self.case.largest, grads=False, watch=was)
        new = self.new.run(self.case.largest, grads=False, watch=[gate, down])
        return _calls(old, *was), _calls(new, gate, down)

    def weight(self, down: str) -> Tensor:
        return self.new.state[f"{down}.weight"]


_Call = tuple[Tensor, Tensor, Tensor]


def _calls(ran: Ran, first: str, last: str) -> list[_Call]:
    """(input, hidden units, output) of each call of a feed-forward."""
    inputs = [into for path, into, _ in ran.watched if path == first and into is not None]
    ends = [(into, out) for path, into, out in ran.watched if path == last and into is not None and out is not None]
    return [(x, hidden, y) for x, (hidden, y) in zip(inputs, ends, strict=False)]


def _compare(pair: _Pair, units: Tally, sums: Tally, same: float) -> None:
    """The feed-forwards that are given the same on both sides: what comes after the first one is off already."""
    for gate, down in pair.paths:
        before, after = pair.run(gate, down)
        for (x, old, y), (other, new, z) in zip(before, after, strict=True):
            if relative(x, other) > same:
                continue
            units.measured((old - new).abs().max().item(), f"a hidden unit of {gate}")
            assert units.limit is not None
            allowed = units.limit * pair.weight(down).abs().sum(1)
            sums.measured(((y - z).abs() / allowed).max().item(), f"the output of {down}")
