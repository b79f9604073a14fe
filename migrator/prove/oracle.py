"""Each new part, active, against a reference of our own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from migrator.codemod import AlibiPart, DepthInitPart, MovedNormPart, NormPart, Part, RotaryPart, SwiGLUPart
from migrator.prove.bench import Bench, parts_of
from migrator.prove.comparing import relative
from migrator.prove.depth import check_depth_init
from migrator.prove.isolation import off_text, same_run, twins, unpaired
from migrator.prove.ledger import Tally
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError, Model, Ran
from migrator.prove.states import perturbed, under
from migrator.prove.switches import reference_norm
from migrator.rewrite.plan import Stage


def check_parts(bench: Bench, stage: Stage, cases: Sequence[Case]) -> None:
    """One check for each part of the stage's claims."""
    parts = parts_of(stage.claims)
    positions = [part for part in parts if isinstance(part, RotaryPart | AlibiPart)]
    if positions:
        check_positions(bench, stage, cases, positions)
    moved = [part for part in parts if isinstance(part, MovedNormPart)]
    for owner in dict.fromkeys(part.owner for part in moved):
        check_moved_norms(bench, stage, cases, owner, [part.attribute for part in moved if part.owner == owner])
    for part in parts:
        bench.tick(f"{part.owner}: reference")
        if isinstance(part, NormPart):
            check_norm(bench, stage, cases, part)
        elif isinstance(part, SwiGLUPart):
            check_swiglu(bench, stage, cases, part)
        elif isinstance(part, DepthInitPart):
            check_depth_init(bench, stage, cases, part)


def _holding(cases: Sequence[Case], owner: str) -> list[Case]:
    """Cases of the owner itself and of whole models, which may hold it."""
    return [case for case in cases if case.symbol == owner or case.kind == "root"]


# --- positions ----------------------------------------------------------------------------------------------------


def check_positions(bench: Bench, stage: Stage, cases: Sequence[Case], parts: Sequence[Part]) -> None:
    """The text before, its positions off and its attention given reference positions, equals the text after."""
    first = bench.box("the reference", off_text(stage), reference=parts)
    second = bench.box("the migrated code", stage.after)
    name = "rotary reference" if isinstance(parts[0], RotaryPart) else "ALiBi reference"
    for symbol in dict.fromkeys(case.symbol for case in cases):
        bench.tick(f"{symbol}: {name}")
        calls = first.call("calls")[0]["calls"]
        with bench.ledger.tally(name, symbol, bench.float64.limit) as tally:
            for case in (case for case in cases if case.symbol == symbol):
                try:
                    pair = twins(bench, first, second, case, stage.claims)
                except BoxError as error:
                    unpaired(tally, error)
                    continue
                for run, train in case.calls:
                    same_run(tally, pair, run, f"{run.words}, against the reference", train=train)
            if symbol in {part.owner for part in parts} and first.call("calls")[0]["calls"] == calls:
                tally.cannot("its attention never reached the runtime, so there is no reference")
                tally.count = 0
            tally.words = _positions_said(parts)


def _positions_said(parts: Sequence[Part]) -> str:
    first = parts[0]
    if isinstance(first, RotaryPart):
        return f"queries and keys turn by position * {first.base:g}**(-2i/D), {first.layout}; values do not"
    return "scores get -slope * distance, with the paper's slopes"


# --- norms --------------------------------------------------------------------------------------------------------


def check_norm(bench: Bench, stage: Stage, cases: Sequence[Case], part: NormPart) -> None:
    first = bench.box("the reference", off_text(stage))
    second = bench.box("the migrated code", stage.after)
    with bench.ledger.tally("norm reference", part.owner, bench.float64.limit) as tally:
        for case in _holding(cases, part.owner):
            try:
                pair = twins(bench, first, second, case, stage.claims)
                found = _norms(pair.after, part)
                if not found:
                    continue
                _fresh(tally, bench.model(second, case), part)
                lasts = _last_of_pairs(pair.after, part)
                if lasts:
                    _behind_pairs(tally, pair.after, case, part, found, lasts)
                    _effect(tally, pair.after, case, found, pair.states.after)
                    continue
                for other in (other for other in parts_of(stage.claims) if isinstance(other, NormPart)):
                    _dress(pair.before, pair.states.after, other, _norms(pair.after, other))
            except BoxError as error:
                tally.fail(f"the norm can't be compared with a reference: {error}")
                continue
            for run, train in case.calls:
                where = f"{run.words}, against {part.source} followed by a layer norm"
                same_run(tally, pair, run, where, train=train)
            _effect(tally, pair.after, case, found, pair.states.after)
        tally.words = f"layer norm of the output of {part.source}, fresh weight 1 and bias 0, and its result is used"


def _norms(model: Model, part: NormPart) -> dict[str, dict[str, float]]:
    """The new norm of each instance of its owner, with what its formula needs."""
    found: dict[str, dict[str, float]] = {}
    for path in model.owners(part.owner):
        name = f"{path}.{part.attribute}" if path else part.attribute
        module = model.modules.get(name, {})
        if "norm" not in module:
            raise BoxError(f"{name} is neither nn.LayerNorm nor nn.RMSNorm")
        found[name] = module["norm"]
    return found


def _last_of_pairs(model: Model, part: NormPart) -> dict[str, str]:
    """For each new norm the module that runs last before it, if the blocks are ModuleLists, which nobody calls."""
    lasts: dict[str, str] = {}
    for path in model.owners(part.owner):
        prefix = f"{path}." if path else ""
        pairs = f"{prefix}{part.source}"
        pair = f"{pairs}.{model.modules.get(pairs, {}).get('length', 0) - 1}"
        found = model.modules.get(pair, {})
        if "ModuleList" in found.get("classes", ()) and found.get("length"):
            lasts[prefix + part.attribute] = f"{pair}.{found['length'] - 1}"
    return lasts


def _behind_pairs(
    tally: Tally, model: Model, case: Case, part: NormPart, found: dict[str, dict[str, float]], lasts: dict[str, str]
) -> None:
    """Each norm sees what the last member of the last pair gives out, or its sum with what that was given."""
    for run, train in case.calls:
        seen = model.run(run, grads=False, train=train, watch=[*found, *lasts.values()])
        for name, last in lasts.items():
            norms, ends = ([one[1:] for one in seen.watched if one[0] == path] for path in (name, last))
            if len(norms) != len(ends):
                tally.fail(f"{name} is not called once after each run of {part.source}")
                continue
            for (given, result), (into, out) in zip(norms, ends, strict=True):
                if given is None or result is None or into is None or out is None:
                    tally.fail(f"{name} or {last} is called with something else than a tensor")
                    continue
                error = min(relative(given, out), relative(given, into + out) if into.shape == out.shape else 1.0)
                tally.measured(error, f"the input of {name}, which should be the output of {part.source},")
                tally.measured(relative(_reference(model, name, found[name], given), result), f"the result of {name}")


def _reference(model: Model, name: str, norm: dict[str, float], x: Tensor) -> Tensor:
    weight, bias = (model.state.get(f"{name}.{key}") for key in ("weight", "bias"))
    return reference_norm(x, weight, bias, norm["eps"], int(norm["axes"]), bool(norm["centred"]))


def _fresh(tally: Tally, model: Model, part: NormPart) -> None:
    for name in _norms(model, part):
        for key, value in (("weight", 1.0), ("bias", 0.0)):
            tensor = model.state.get(f"{name}.{key}")
            if tensor is not None and not bool((tensor == value).all()):
                tally.fail(f"the {key} of {name} does not start at {value:g}")


def _dress(before: Model, state: dict[str, Tensor], part: NormPart, found: dict[str, dict[str, float]]) -> None:
    if not found:
        return
    norm = next(iter(found.values()))
    keys = [f"{name}.{key}" for name in found for key in ("weight", "bias") if norm[key]]
    before.box.call(
        "dress", [state[key] for key in keys], handle=before.handle, owner=part.owner, source=part.source,
        place=part.place, **{name: norm[name] for name in ("weight", "bias", "eps", "axes", "centred")},
    )  # fmt: skip


def _effect(
    tally: Tally, model: Model, case: Case, found: dict[str, dict[str, float]], state: dict[str, Tensor]
) -> None:
    """Another weight gives another output, so the norm's result is used."""
    old = model.run(case.largest, grads=False)
    keys = [f"{name}.weight" for name in found if found[name]["weight"]]
    model.load({**state, **{key: state[key] * 1.5 + 0.1 for key in keys}})
    new = model.run(case.largest, grads=False)
    model.load(state)
    if keys and old.outputs and all(relative(a, b) == 0 for a, b in zip(old.outputs, new.outputs, strict=True)):
        tally.fail(f"{keys[0]} has no effect: the norm's result is not used")


# --- moved norms ---------------------------------------------------------------------------------------------------


def check_moved_norms(bench: Bench, stage: Stage, cases: Sequence[Case], owner: str, names: Sequence[str]) -> None:
    """Pre-norm: with norms that give zero, a change of the input reaches the output, and each norm, unchanged."""
    box = bench.box("the migrated code", stage.after)
    with bench.ledger.tally("pre-norm reference", owner, bench.float64.limit) as tally:
        for case in (case for case in cases if case.symbol == owner):
            try:
                model = bench.model(box, case)
                prefix = f"{case.path}." if case.path else ""
                paths = [prefix + name for name in names]
                state = perturbed(model)
                model.load({key: torch.zeros_like(t) if under(key, paths) else t for key, t in state.items()})
                _raw_residual(tally, model, case, paths)
            except BoxError as error:
                tally.fail(f"its norms can't be watched: {error}")
        tally.words = f"sublayers see {' and '.join(names)} of the residual alone, which itself stays raw"


def _raw_residual(tally: Tally, model: Model, case: Case, paths: list[str]) -> None:
    run = case.largest
    place = next((i for i, t in enumerate(run.tensors) if t.is_floating_point() and t.ndim >= 2), None)
    if place is None:
        tally.cannot("its input is no tensor of floats")
        return
    step = torch.cos(torch.arange(run.tensors[place].numel(), dtype=torch.float64)).reshape(run.tensors[place].shape)
    other = [t + step.to(t.dtype) if i == place else t for i, t in enumerate(run.tensors)]
    old, new = (model.run(r, grads=False, watch=paths) for r in (run, run.with_tensors(other)))
    ends = [("the block", old.outputs[0], new.outputs[0])]
    if any(sorted(name for name, _, _ in found.watched) != sorted(paths) for found in (old, new)):
        tally.fail(f"not each of {', '.join(paths)} is called once")
        return
    for (name, before, _), (_, after, _) in zip(old.watched, new.watched, strict=True):
        if before is not None and after is not None:
            ends.append((name, before, after))
    for name, a, b in ends:
        # The inputs were rounded to float32 when they were drawn; their difference is what the block was given.
        given = other[place].double() - run.tensors[place].double()
        tally.measured(relative(given, b - a), f"how a change of the residual reaches {name}")


# --- feed-forwards ------------------------------------------------------------------------------------------------


def check_swiglu(bench: Bench, stage: Stage, cases: Sequence[Case], part: SwiGLUPart) -> None:
    """down's input is silu(gate's output) * up's output, and gate and up see the same input."""
    box = bench.box("the migrated code", stage.after)
    with bench.ledger.tally("SwiGLU reference", part.owner, bench.float64.limit) as tally:
        for case in _holding(cases, part.owner):
            try:
                model = bench.model(box, case)
                model.load(perturbed(model))
                prefixes = [f"{path}." if path else "" for path in model.owners(part.owner)]
                paths = [prefix + name for prefix in prefixes for name in (part.gate, part.up, part.down)]
                found = model.run(case.largest, watch=paths)
            except BoxError as error:
                tally.fail(f"the feed-forward can't be watched: {error}")
                continue
            for prefix in prefixes:
                _gated(tally, found, [prefix + name for name in (part.gate, part.up, part.down)])
        tally.words = f"{part.down}(silu({part.gate}(x)) * {part.up}(x))"


def _gated(tally: Tally, found: Ran, names: list[str]) -> None:
    calls = [[(into, out) for path, into, out in found.watched if path == name] for name in names]
    if not calls[0] and not calls[2]:
        return
    if not len(calls[0]) == len(calls[1]) == len(calls[2]):
        tally.fail(f"{names[0]}, {names[1]} and {names[2]} are not called equally often")
        return
    for (gate_in, gate_out), (up_in, up_out), (down_in, _) in zip(*calls, strict=True):
        if any(tensor is None for tensor in (gate_in, up_in, down_in, gate_out, up_out)):
            tally.fail(f"{names[0]} is called with something else than a tensor")
            continue
        assert gate_in is not None and up_in is not None and down_in is not None
        assert gate_out is not None and up_out is not None
        if not torch.equal(gate_in, up_in):
            tally.fail(f"{names[0]} and {names[1]} see different inputs")
        tally.measured(relative(functional.silu(gate_out) * up_out, down_in), f"the input of {names[2]}")
