"""What the model did before a change of architecture, and therefore still has to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from migrator.prove.bench import Bench
from migrator.prove.comparing import form_problem
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError, Model, Ran, Run, both, ran
from migrator.prove.states import matched, renaming
from migrator.rewrite.plan import Stage

_DIFFERENT = 1e-7

Holds = Callable[[Model, Run, float], bool | None]


def check_invariants(bench: Bench, stage: Stage, cases: Sequence[Case]) -> None:
    """Each invariant that holds before has to hold after, unless a claim gives it up and says why."""
    before, after = bench.box("the code before the change", stage.before), bench.box("the migrated code", stage.after)
    changes = {name: reason for claim in stage.claims for name, reason in claim.changes}
    for symbol in dict.fromkeys(case.symbol for case in cases):
        bench.tick(f"{symbol}: invariants")
        chosen = [case for case in cases if case.symbol == symbol and case.kind in ("root", "inner", "flip")]
        pairs = []
        for case in chosen:
            try:
                pairs.append((case, *_loaded(stage, bench.model(before, case), bench.model(after, case))))
            except BoxError as error:
                bench.ledger.cannot("invariants", symbol, str(error))
        _forms(bench, symbol, pairs)
        _invariants(bench, symbol, pairs, changes)
    for name, reason in changes.items():
        if name not in INVARIANTS:
            bench.ledger.note(f"CHANGED: {name}: {reason}")


Pairs = list[tuple[Case, Model, Model]]


def _loaded(stage: Stage, old: Model, new: Model) -> tuple[Model, Model]:
    rename = renaming(old, [entry for claim in stage.claims for entry in claim.renamed])
    states = matched(old, new, rename)
    old.load(states.before)
    new.load(states.after)
    return old, new


def _forms(bench: Bench, symbol: str, pairs: Pairs) -> None:
    """Types, shapes and dtypes of results, and which weights are tied."""
    with bench.ledger.tally("shapes, dtypes, tied weights", symbol) as tally:
        for case, before, after in pairs:
            for run in dict.fromkeys(run for run, _ in case.calls):
                old, new = both(before.ask(run, grads=False), after.ask(run, grads=False), ran)
                if isinstance(old, BoxError):
                    tally.cannot(str(old))
                elif isinstance(new, BoxError):
                    tally.fail(f"the migrated code failed: {new} ({run.words})")
                else:
                    problem = form_problem(old, new)
                    tally.fail(f"{problem} ({run.words})") if problem else tally.ok()
                    if old.finite and not new.finite:
                        tally.fail(f"it gives NaN or infinity ({run.words})")
            shared = [group for group in before.tied if all(name in after.state for name in group)]
            if any(group not in after.tied for group in shared):
                tally.fail("weights that were tied are no longer")
        tally.words = f"as before, {tally.count} calls"


def _invariants(bench: Bench, symbol: str, pairs: Pairs, changes: dict[str, str]) -> None:
    """One line for all that still hold, one for each that was given up, one for each that was lost."""
    kept: list[str] = []
    for name, holds in INVARIANTS.items():
        held, lost = 0, ""
        for case, before, after in pairs:
            for run in _telling(case):
                if _known(bench, name, holds, before, case, run):
                    held += 1
                    lost = lost or _lost(bench, name, holds, after, case, run)
        if lost and name in changes:
            bench.ledger.add(name, symbol, True, f"CHANGED: {changes[name]}")
        elif lost:
            bench.ledger.add(name, symbol, False, f"held before the change and no longer does ({lost})")
        elif held:
            kept.append(name)
    if kept:
        bench.ledger.add("invariants", symbol, True, f"kept: {', '.join(kept)}")


def _known(bench: Bench, name: str, holds: Holds, model: Model, case: Case, run: Run) -> bool:
    """Whether an invariant holds; an earlier stage may have found that out of the same text."""
    key = (model.box.key, name, case.symbol, repr(case.build), case.path, run.method)
    if key not in bench.known:
        try:
            bench.known[key] = bool(holds(model, run, bench.tolerances.invariants))
        except BoxError:
            bench.known[key] = False
    return bench.known[key]


def _lost(bench: Bench, name: str, holds: Holds, model: Model, case: Case, run: Run) -> str:
    return "" if _known(bench, name, holds, model, case, run) else run.words


def _telling(case: Case) -> list[Run]:
    """For each method, the largest call with different batch size and length."""
    chosen: dict[str, Run] = {}
    for run in case.runs:
        batch, length = run.size
        if 1 < batch < length and (run.method not in chosen or length > chosen[run.method].size[1]):
            chosen[run.method] = run
    return list(chosen.values())


# --- axes ---------------------------------------------------------------------------------------------------------


def _time_axis(tensor: Tensor, run: Run) -> int | None:
    """The axis of positions of an input: one axis has their number, and another one that of the batch."""
    if tensor.dtype == torch.bool or tuple(tensor.shape).count(run.size[1]) != 1 or run.size[0] not in tensor.shape[:2]:
        return None
    return tuple(tensor.shape).index(run.size[1])


def _batch_axis(tensor: Tensor, run: Run) -> int | None:
    head = tuple(tensor.shape[:2])
    return head.index(run.size[0]) if run.size[0] in head else None


def _per_position(found: Ran, run: Run) -> list[Tensor]:
    """Outputs as (batch, position, ...), for those that have a value at each position."""
    batch, length = run.size
    result = []
    for tensor in found.outputs:
        if not tensor.is_floating_point() or tensor.ndim < 1:
            continue
        if tensor.shape[0] == batch * length:
            tensor = tensor.reshape(batch, length, *tensor.shape[1:])
        if tensor.ndim >= 2 and tuple(tensor.shape[:2]) == (length, batch):
            tensor = tensor.transpose(0, 1)
        if tensor.ndim >= 2 and tuple(tensor.shape[:2]) == (batch, length):
            result.append(tensor)
    return result


def _other(tensor: Tensor, axis: int, where: Sequence[int]) -> Tensor:
    """The input with other content at some places of an axis; integers stay within their range."""
    generator = torch.Generator().manual_seed(3)
    index = torch.tensor(list(where))
    old = tensor.index_select(axis, index)
    if tensor.is_floating_point():
        new = old + torch.randn(old.shape, generator=generator, dtype=torch.float64).to(old.dtype)
    else:
        top = int(tensor.max().item()) + 1
        new = (old + torch.randint(1, max(top, 2), old.shape, generator=generator).to(old.dtype)) % max(top, 2)
    return tensor.index_copy(axis, index, new)


def _apart(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0


def _run(model: Model, run: Run, **options: int) -> Ran:
    return model.run(run, grads=False, **options)


# --- invariants ---------------------------------------------------------------------------------------------------


def causality(model: Model, run: Run, same: float) -> bool | None:
    """Other content at later positions leaves the outputs of earlier ones alone."""
    length = run.size[1]
    cut = length // 2
    axes = [_time_axis(tensor, run) for tensor in run.tensors]
    if all(axis is None for axis in axes):
        return None
    later = [t if a is None else _other(t, a, range(cut, length)) for t, a in zip(run.tensors, axes, strict=True)]
    old, new = (_per_position(_run(model, r), run) for r in (run, run.with_tensors(later)))
    if not old or max(_apart(a[:, cut:], b[:, cut:]) for a, b in zip(old, new, strict=True)) < _DIFFERENT:
        return None
    return all(_apart(a[:, :cut], b[:, :cut]) < same for a, b in zip(old, new, strict=True))


def batch_independence(model: Model, run: Run, same: float) -> bool | None:
    """Other content in other rows of the batch leaves the outputs of the first row alone."""
    axes = [_batch_axis(tensor, run) for tensor in run.tensors]
    if all(axis is None for axis in axes):
        return None
    rows = range(1, run.size[0])
    other = [
        t if a is None or t.dtype == torch.bool else _other(t, a, rows) for t, a in zip(run.tensors, axes, strict=True)
    ]
    old, new = (_by_row(_run(model, r), run) for r in (run, run.with_tensors(other)))
    if not old:
        return None
    return all(_apart(a[0], b[0]) < same for a, b in zip(old, new, strict=True))


def _by_row(found: Ran, run: Run) -> list[Tensor]:
    batch = run.size[0]
    per_position = _per_position(found, run)
    rest = [t for t in found.outputs if t.is_floating_point() and t.ndim and t.shape[0] == batch]
    return per_position or rest


def eval_determinism(model: Model, run: Run, same: float) -> bool | None:
    """Two calls in eval mode give the same, whatever the seed."""
    first, second = (model.run(run, grads=False, seed=seed, dropout=True) for seed in (1, 2))
    return all(torch.equal(a, b) for a, b in zip(first.outputs, second.outputs, strict=True))


def position_sensitivity(model: Model, run: Run, same: float) -> bool | None:
    """Another order of the same inputs gives more than another order of the same outputs."""
    order = torch.randperm(run.size[1], generator=torch.Generator().manual_seed(1))
    axes = [_time_axis(tensor, run) for tensor in run.tensors]
    if all(axis is None for axis in axes):
        return None
    moved = [t if a is None else t.index_select(a, order) for t, a in zip(run.tensors, axes, strict=True)]
    old, new = (_per_position(_run(model, r), run) for r in (run, run.with_tensors(moved)))
    if not old:
        return None
    return any(_apart(a[:, order], b) > _DIFFERENT for a, b in zip(old, new, strict=True))


def absolute_position(model: Model, run: Run, same: float) -> bool | None:
    """The same input at every position gives different outputs."""
    axes = [_time_axis(tensor, run) for tensor in run.tensors]
    if all(axis is None for axis in axes):
        return None
    constant = [t if a is None else t.narrow(a, 0, 1).expand_as(t) for t, a in zip(run.tensors, axes, strict=True)]
    found = _per_position(_run(model, run.with_tensors(constant)), run)
    if not found:
        return None
    return any(_apart(tensor, tensor[:, :1].expand_as(tensor)) > _DIFFERENT for tensor in found)


INVARIANTS: dict[str, Holds] = {
    "causality": causality,
    "batch independence": batch_independence,
    "eval determinism": eval_determinism,
    "position sensitivity": position_sensitivity,
    "absolute position": absolute_position,
}
