"""Stages that promise `exact`: same function, same weights, same training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from migrator.prove.bench import Bench
from migrator.prove.comparing import Scale, compare, form_problem, relative
from migrator.prove.inputs import random_mask
from migrator.prove.ledger import Tally
from migrator.prove.probe import Case
from migrator.prove.remote import Box, BoxError, Model, Ran, Run, both, ran
from migrator.prove.states import perturbed
from migrator.rewrite.plan import Stage

_KINDS = ("root", "inner", "even", "odd", "flip")
_STEPS, _REPEATS = 32, 64
_ROUNDINGS = 2.0**-48  # 16 units in the last place of a float64
_MOST_DRIFT = 1e-8  # outputs and gradients have been compared closer than that already


@dataclass(frozen=True)
class Pair:
    """The same case in the text before and in the text after, with the same weights."""

    case: Case
    before: Model
    after: Model
    exact: Model | None = None  # the text before in float64, where the two others are in float32

    def exactly(self, run: Run, train: bool) -> Ran | None:
        """The results of the text before in float64, if there are any."""
        try:
            return self.exact.run(run, train=train) if self.exact is not None else None
        except BoxError:
            return None


def prove_exact(bench: Bench, stage: Stage, symbols: Sequence[str], roots: Sequence[str]) -> None:
    """All checks of an exact stage, class by class, and on the whole models last."""
    before, after = bench.box("the legacy code", stage.before), bench.box("the migrated code", stage.after)
    for symbol in dict.fromkeys([*symbols, *roots]):
        cases = [case for case in bench.probes.of([symbol], _KINDS) if _buildable(bench, before, case)]
        if not cases:
            continue
        bench.tick(f"{symbol}: parity")
        initial_values(bench, before, after, symbol, cases, [one for claim in stage.claims for one in claim.dropped])
        pairs = strict_load(bench, before, after, symbol, cases)
        parity(bench, symbol, pairs, "parity float64", bench.float64)
        if bench.ledger.failed:
            return  # what follows would only repeat it
        parity(bench, symbol, _in_float32(bench, before, after, cases[:3]), "parity float32", bench.float32)
        for case in bench.probes.of([symbol], ("dropout",))[:1]:
            dropout(bench, symbol, before, after, case)
        if symbol in roots:
            bench.tick(f"{symbol}: {_STEPS} steps of training")
            training(bench, symbol, pairs)


def _buildable(bench: Bench, box: Box, case: Case) -> bool:
    """Whether the text before still has a variation; an earlier stage may have given it up, and said so."""
    if case.kind in ("root", "inner"):
        return True
    try:
        bench.model(box, case)
    except BoxError:
        return False
    return True


# --- weights ------------------------------------------------------------------------------------------------------


def initial_values(
    bench: Bench, before: Box, after: Box, symbol: str, cases: Sequence[Case],
    dropped: Sequence[tuple[str, str]] = (),
) -> None:  # fmt: skip
    """The same seed gives bit-equal state dicts in the same order, and leaves the random stream where it was left.

    Args:
        dropped: (class, attribute) that may be gone, being without state.
    """
    with bench.ledger.tally("initial values", symbol) as tally:
        for case in cases:
            try:
                old = bench.model(before, case, torch.float32)
            except BoxError as error:
                tally.cannot(str(error))
                continue
            try:
                new = bench.model(after, case, torch.float32)
            except BoxError as error:
                tally.fail(f"it can no longer be constructed: {error}")
                continue
            problem = _initial_problem(old, new, dropped)
            tally.fail(problem) if problem else tally.ok()
        tally.words = f"same seed, bit-equal state dict ({_plural(tally.count, 'way')} to build it)"


def _initial_problem(old: Model, new: Model, dropped: Sequence[tuple[str, str]]) -> str | None:
    if list(old.state) != list(new.state):
        gone, added = set(old.state) - set(new.state), set(new.state) - set(old.state)
        if gone or added:
            return f"its state dict {_listed('lost', gone)}{' and ' if gone and added else ''}{_listed('got', added)}"
        return "the order of its state dict changed"
    for key, value in old.state.items():
        other = new.state[key]
        if value.dtype != other.dtype or value.shape != other.shape:
            return f"{key} became {other.dtype} {tuple(other.shape)}, from {value.dtype} {tuple(value.shape)}"
        if not torch.equal(value, other):
            return f"{key} starts with other values under the same seed"
    if old.parameters != new.parameters:
        return "its parameters are no longer the same"
    if old.tied != new.tied:
        return "other weights are tied"
    if not torch.equal(old.stream, new.stream):
        return "its constructor draws another number of random values"
    return _attribute_problem(old, new, dropped)


def _attribute_problem(old: Model, new: Model, dropped: Sequence[tuple[str, str]]) -> str | None:
    """Public attributes are part of a class's interface, and so are their types."""
    gone = {
        f"{path}.{attribute}".lstrip(".")
        for path, module in old.modules.items()
        for name, attribute in dropped
        if name in module["classes"]
    }
    for path, attributes in old.attributes.items():
        for name, kind in attributes.items():
            found = new.attributes.get(path, {}).get(name)
            where = f"{path}.{name}" if path else name
            if found != kind and not any(f"{where}.".startswith(f"{place}.") for place in gone):
                return f"its attribute {where} is gone" if found is None else f"its attribute {where} became a {found}"
    return None


def _listed(verb: str, names: set[str]) -> str:
    return f"{verb} {', '.join(sorted(names)[:3])}" if names else ""


def strict_load(bench: Bench, before: Box, after: Box, symbol: str, cases: Sequence[Case]) -> list[Pair]:
    """A state dict of the text before loads with strict=True in the text after; gives the pairs it was loaded in."""
    pairs: list[Pair] = []
    with bench.ledger.tally("strict load", symbol) as tally:
        for case in cases:
            try:
                old = bench.legacy(before, case)
                state = perturbed(old)
                old.load(state)
            except BoxError as error:
                tally.cannot(str(error))
                continue
            try:
                new = bench.model(after, case, default=old.default)
                new.load(state)
            except BoxError as error:
                tally.fail(str(error))
                continue
            tally.ok()
            pairs.append(Pair(case, old, new))
        tally.words = "a legacy state dict loads with strict=True"
    return pairs


def _in_float32(bench: Bench, before: Box, after: Box, cases: Sequence[Case]) -> list[Pair]:
    pairs: list[Pair] = []
    for case in cases:
        try:
            old, new = (bench.model(box, case, torch.float32) for box in (before, after))
            state = perturbed(old)
            old.load(state)
            new.load(state)
            exact = bench.model(before, case)
            exact.load(state)
        except BoxError:
            continue  # `strict load` has said so
        pairs.append(Pair(case, old, new, exact))
    return pairs


# --- function -----------------------------------------------------------------------------------------------------


def parity(bench: Bench, symbol: str, pairs: Sequence[Pair], name: str, scale: Scale) -> None:
    """Outputs and all gradients, in eval and in train mode, without dropout."""
    with bench.ledger.tally(name, symbol, scale.limit) as tally:
        for pair in pairs:
            calls = pair.case.calls
            if scale == bench.float64:
                calls = [*calls, *((run, False) for run in other_masks([run for run, train in calls if not train]))]
            for run, train in calls:
                where = f"{run.words}, {'train' if train else 'eval'}{_built(pair.case)}"
                compare_runs(tally, pair, run, scale, where, train=train)
        if not pairs:
            tally.cannot("it could not be run in both texts")
        tally.words = f"outputs and gradients, {_plural(tally.count, 'comparison')}"


def compare_runs(tally: Tally, pair: Pair, run: Run, scale: Scale, where: str, *, train: bool) -> None:
    old, new = both(pair.before.ask(run, train=train), pair.after.ask(run, train=train), ran)
    if isinstance(old, BoxError):
        tally.cannot(f"the code before the change failed: {old}")
    elif isinstance(new, BoxError):
        tally.fail(f"the migrated code failed: {new} ({where})")
    elif not old.outputs:
        tally.cannot("it returns no tensor")
    elif not _any_finite(old):
        tally.cannot(f"the code before the change gives no finite number ({where})")
    else:
        compare(tally, old, new, scale, where, exact=lambda: pair.exactly(run, train))


def _any_finite(found: Ran) -> bool:
    floats = [tensor for tensor in found.outputs if tensor.is_floating_point()]
    return not floats or any(bool(tensor.isfinite().all()) for tensor in floats)


def other_masks(runs: Sequence[Run]) -> list[Run]:
    """The same calls with other boolean masks: neither full nor triangular, of both polarities."""
    found: list[Run] = []
    for run in runs:
        generator = torch.Generator().manual_seed(len(found))
        for inverted in (False, True):
            changed = [_other_mask(tensor, inverted, generator) for tensor in run.tensors]
            if any(a is not b for a, b in zip(changed, run.tensors, strict=True)):
                found.append(run.with_tensors(changed))
    return found


def _other_mask(tensor: Tensor, inverted: bool, generator: torch.Generator) -> Tensor:
    binary = tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())
    if not binary or tensor.ndim < 2:
        return tensor
    mask = random_mask(list(tensor.shape), generator)
    return (~mask if inverted else mask).to(tensor.dtype)


def _built(case: Case) -> str:
    """How a variation was built, for messages."""
    if case.kind in ("root", "inner"):
        return ""
    return ", " + ", ".join(
        f"{name}={value}" for name, value in case.build["kwargs"]["dict"] if type(value) in (int, bool, float)
    )


def training(bench: Bench, symbol: str, pairs: Sequence[Pair]) -> None:
    """The same losses over 32 steps of AdamW, in float64."""
    roots = [pair for pair in pairs if pair.case.kind == "root"]
    if roots and not any(_trainable(pair.before, pair.case.largest) for pair in roots):
        bench.ledger.note(f"{symbol}: there is nothing in it that could be trained")
        return
    with bench.ledger.tally("training", symbol, bench.float64.limit) as tally:
        for pair in pairs:
            run = pair.case.largest
            if pair.case.kind != "root" or not _trainable(pair.before, run):
                continue
            old, new = both(
                pair.before.ask_train(run, _STEPS),
                pair.after.ask_train(run, _STEPS),
                lambda pending: pending.get()[1][0],
            )
            if isinstance(old, BoxError):
                tally.cannot(f"the code before the change can't be trained: {old}")
            elif isinstance(new, BoxError):
                tally.fail(f"the migrated code can't be trained: {new}")
            else:
                apart = relative(old, new)
                own = 0.0 if apart <= bench.float64.limit else _own_drift(bench, symbol, pair.before, run, old)
                tally.measured(apart, f"the loss over {_STEPS} steps", own)
        tally.words = f"same losses over {_STEPS} steps of AdamW"


def _own_drift(bench: Bench, symbol: str, model: Model, run: Run, losses: Tensor) -> float:
    """How far the code before drifts from itself in training if its parameters are off by as much as rounding does.

    Adam divides by the size of a gradient, and where there is none but rounding (the bias of keys has none) by that.
    """
    seen = [c.figure for c in bench.ledger.checks if (c.name, c.symbol) == ("parity float64", symbol) and c.figure]
    try:
        noisy = model.ask_train(run, _STEPS, noise=max(_ROUNDINGS, *seen, 0.0)).get()[1][0]
    except BoxError:
        return 0.0
    return min(relative(losses, noisy), _MOST_DRIFT)


def _trainable(model: Model, run: Run) -> bool:
    """Whether any parameter gets a gradient; if a run fails, training will say why."""
    try:
        grads = model.run(run, train=True).grads
    except BoxError:
        return True
    return any(grads.get(name) is not None for name in model.parameters)


# --- dropout ------------------------------------------------------------------------------------------------------


def dropout(bench: Bench, symbol: str, before: Box, after: Box, case: Case) -> None:
    """With dropout on: the same numbers if both draw the same random ones, else the same mean and variance."""
    with bench.ledger.tally("dropout", symbol, bench.float64.limit) as tally:
        pairs = loaded_pairs(bench, before, after, case, tally)
        for pair in pairs:
            run = case.largest
            try:
                if _random_in_eval(pair.after, run) and not _random_in_eval(pair.before, run):
                    tally.fail("dropout is active in eval mode")
            except BoxError as error:
                tally.fail(f"it fails with dropout: {error}")
                continue
            old, new = both(
                pair.before.ask(run, dropout=True, train=True), pair.after.ask(run, dropout=True, train=True), ran
            )
            if isinstance(old, BoxError) or isinstance(new, BoxError):
                tally.fail(f"it fails with dropout in train mode: {new if isinstance(new, BoxError) else old}")
            elif (problem := form_problem(old, new)) is not None:
                tally.fail(problem)
            elif _same(old, new, bench.float64.limit):
                compare(tally, old, new, bench.float64, "train, dropout 0.25")
                tally.words = "same random numbers: outputs and gradients equal in train mode, off in eval"
            else:
                _statistics(bench, tally, pair, symbol)


def loaded_pairs(bench: Bench, before: Box, after: Box, case: Case, tally: Tally) -> list[Pair]:
    """The case in both texts with the same weights; none where `strict load` has said why."""
    try:
        old = bench.legacy(before, case)
        new = bench.model(after, case, default=old.default)
        state = perturbed(old)
        old.load(state)
        new.load(state)
    except BoxError as error:
        tally.cannot(str(error))
        return []
    return [Pair(case, old, new)]


def _random_in_eval(model: Model, run: Run) -> bool:
    """Whether two seeds give different outputs in eval mode."""
    first, second = (model.run(run, dropout=True, seed=seed, grads=False) for seed in (1, 2))
    return any(not torch.equal(a, b) for a, b in zip(first.outputs, second.outputs, strict=True))


def _same(old: Ran, new: Ran, limit: float) -> bool:
    return all(relative(a, b) <= limit for a, b in zip(old.outputs, new.outputs, strict=True))


def _statistics(bench: Bench, tally: Tally, pair: Pair, symbol: str) -> None:
    """Means over many seeds agree within their standard errors, and so do variances, roughly."""
    run = pair.case.largest
    old, new = both(
        pair.before.ask_spread(run, _REPEATS, train=True), pair.after.ask_spread(run, _REPEATS, train=True),
        lambda pending: pending.get()[1],
    )  # fmt: skip
    if isinstance(old, BoxError) or isinstance(new, BoxError):
        tally.cannot(f"dropout could not be sampled: {old if isinstance(old, BoxError) else new}")
        return
    half = len(old) // 2
    for mean_a, mean_b, var_a, var_b in zip(old[:half], new[:half], old[half:], new[half:], strict=True):
        spread = ((var_a.mean() + var_b.mean()) / _REPEATS).sqrt()
        if not bool(((mean_a - mean_b).abs() <= 8 * spread + 1e-12).all()):
            tally.fail("dropout changes the mean of the outputs in another way than before")
        elif not 0.5 <= ((var_b.mean() + 1e-12) / (var_a.mean() + 1e-12)).item() <= 2.0:
            tally.fail(
                f"dropout spreads the outputs {(var_b.mean() / var_a.mean()).sqrt().item():.2f} times as far as before"
            )
        else:
            tally.ok()
    bench.ledger.note(
        f"{symbol}: not checked: dropout > 0 draws other random numbers, so its mean and spread were compared"
    )
    tally.words = f"mean and spread over {_REPEATS} seeds agree in train mode, off in eval"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
