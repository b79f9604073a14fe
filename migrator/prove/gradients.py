"""Gradient health: who gets one, how large they are by depth, and whether they are the derivative of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from migrator.prove.bench import Bench
from migrator.prove.building import weighted_sum
from migrator.prove.isolation import Twins, twins
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError, Model, Ran, Run
from migrator.rewrite.plan import Stage

_STEPS = (1e-5, 1e-6, 1e-7)


def check_gradients(bench: Bench, stage: Stage, cases: Sequence[Case]) -> None:
    before, after = bench.box("the code before the change", stage.before), bench.box("the migrated code", stage.after)
    claimed = {name for claim in stage.claims for name in claim.models}
    for symbol in dict.fromkeys(case.symbol for case in cases):
        bench.tick(f"{symbol}: gradients")
        chosen = [case for case in cases if case.symbol == symbol and case.kind in ("root", "inner")]
        pairs: list[Twins] = []
        for case in chosen[:2]:
            try:
                pairs.append(twins(bench, before, after, case, stage.claims))
            except BoxError as error:
                bench.ledger.cannot("gradients", symbol, str(error))
        _sets_and_sizes(bench, symbol, pairs)
        if symbol in claimed:
            _derivative(bench, symbol, [pair for pair in pairs if pair.case.kind == "inner"] or pairs)


def _sets_and_sizes(bench: Bench, symbol: str, pairs: Sequence[Twins]) -> None:
    with bench.ledger.tally("gradients", symbol, bench.tolerances.gradient_ratio) as tally:
        for pair in pairs:
            try:
                old = pair.before.run(pair.case.largest, train=True)
                new = pair.after.run(pair.case.largest, train=True)
            except BoxError as error:
                tally.fail(f"there are no gradients: {error}")
                continue
            problem = _set_problem(pair, old, new)
            if problem is not None:
                tally.fail(problem)
                continue
            tally.ok()
            for stack in (stack for stack in _stacks(pair.after) if _reached(pair, stack[0])):
                ratio = _by_depth(new, stack) / _by_depth(old, stack)
                tally.measured(
                    max(ratio, 1 / ratio) if ratio > 0 else math.inf, f"the ratio of first to last block of {stack[0]}"
                )
        tally.words = "every parameter that had one has one, every new one has one, all finite"


def _has(found: Ran, name: str) -> bool:
    grad = found.grads.get(name)
    return grad is not None and bool((grad != 0).any())


def _set_problem(pair: Twins, old: Ran, new: Ran) -> str | None:
    names = {pair.rename(name): name for name in pair.before.parameters}
    for name in pair.after.parameters:
        grad = new.grads.get(name)
        if grad is not None and not bool(grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
        had = name not in names or _has(old, names[name])
        if had and not _has(new, name) and _reached(pair, name):
            return f"{name} has no gradient{', and is new' if name not in names else ', and had one'}"
    return None


def _reached(pair: Twins, name: str) -> bool:
    """Whether a parameter is below the module that was run; what stands beside it gets no gradient on either side."""
    return not pair.case.path or name.startswith(pair.case.path)


def _stacks(model: Model) -> list[tuple[str, int]]:
    """Containers of at least two modules of one class that have matrices; norms in a list are no depth."""
    found = []
    matrices = [name for name in model.parameters if model.state[name].ndim > 1]
    for path, module in model.modules.items():
        length = module.get("length", 0)
        names = [tuple(model.modules[f"{path}.{i}" if path else str(i)]["classes"]) for i in range(length)]
        first = f"{path}.0." if path else "0."
        if length >= 2 and len(set(names)) == 1 and any(name.startswith(first) for name in matrices):
            found.append((path, length))
    return found


def _by_depth(found: Ran, stack: tuple[str, int]) -> float:
    """Norm of the gradient of the first block, relative to the last."""
    path, length = stack
    first, last = (_norm(found, f"{path}.{i}." if path else f"{i}.") for i in (0, length - 1))
    return first / last if last else math.nan if first else 1.0


def _norm(found: Ran, prefix: str) -> float:
    squares = [
        (grad * grad).sum().item() for name, grad in found.grads.items() if grad is not None and name.startswith(prefix)
    ]
    return math.sqrt(sum(squares))


# --- derivative -----------------------------------------------------------------------------------------------------


def _derivative(bench: Bench, symbol: str, pairs: Sequence[Twins]) -> None:
    """Gradients against central differences along a random direction of all parameters, in float64."""
    with bench.ledger.tally("gradcheck", symbol, bench.tolerances.gradcheck) as tally:
        for pair in pairs:
            run = min(
                (r for r in pair.case.runs if r.method == "forward"),
                key=lambda r: _suited(r),
                default=pair.case.runs[0],
            )
            try:
                figure = _closest(pair.after, run, bench.tolerances.gradcheck)
            except BoxError as error:
                tally.cannot(str(error))
                continue
            if figure is None:
                tally.cannot("its parameters don't reach an output")
            else:
                tally.measured(figure, f"the derivative ({run.words})")
        tally.words = "gradients equal central differences"


def _suited(run: Run) -> int:
    """Small, but with more than one position, where attention has something to do."""
    return run.size[0] * run.size[1] if run.size[1] > 2 else 10_000


def _closest(model: Model, run: Run, near: float) -> float | None:
    """The best of some steps: a step over a kink, as of a ReLU, is off; a wrong gradient is off with every step."""
    best: float | None = None
    for step in _STEPS:
        figure = _central(model, run, step)
        if figure is None or figure <= near:
            return figure
        best = figure if best is None else min(best, figure)
    return best


def _central(model: Model, run: Run, step: float) -> float | None:
    found = model.run(run)
    generator = torch.Generator().manual_seed(2)
    state, names = model.state, [name for name in model.parameters if found.grads.get(name) is not None]
    if not names:
        return None
    direction = {name: torch.randn(state[name].shape, generator=generator, dtype=torch.float64) for name in names}
    shifts = {other: direction[group[0]] for group in _groups(model) for other in group if group[0] in direction}
    grads = {name: grad for name in names if (grad := found.grads[name]) is not None}
    slope = sum((grad * direction[name]).sum().item() for name, grad in grads.items())
    values = []
    for sign in (1, -1):
        model.load({**state, **{name: state[name] + sign * step * shift for name, shift in shifts.items()}})
        values.append(_value(model.run(run)))
    model.load(state)
    size = math.sqrt(sum((grad * grad).sum().item() for grad in grads.values()))
    return abs((values[0] - values[1]) / (2 * step) - slope) / max(abs(slope), size, 1e-12)


def _groups(model: Model) -> list[list[str]]:
    """Parameters by name, each with the other names of the same tensor behind it."""
    others = {name: [n for n in group if n != name] for group in model.tied for name in group}
    return [[name, *others.get(name, [])] for name in model.parameters]


def _value(found: Ran) -> float:
    outputs = [tensor.requires_grad_() for tensor in found.outputs if tensor.is_floating_point()]
    total = weighted_sum(outputs)
    return 0.0 if total is None else total.item()
