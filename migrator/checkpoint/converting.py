"""One conversion: find the model that a checkpoint is of, give its tensors their places, and write the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from migrator.checkpoint import storing
from migrator.checkpoint.containers import Names, Place, dictionaries, is_optimizer, is_state, put
from migrator.checkpoint.layout import Builder, Layout
from migrator.checkpoint.matching import (
    Entry,
    Misfit,
    NotInvertible,
    match,
    match_back,
    rows,
    sources,
    values,
)
from migrator.checkpoint.optimizing import Parameters, Unclear, follow
from migrator.checkpoint.request import Conversion, ModelFile, Request
from migrator.checkpoint.starts import starts_of, unknown
from migrator.errors import MigrateError
from migrator.prove.nursery import Nursery
from migrator.prove.states import State


@dataclass(frozen=True)
class Weights:
    """A state dict in the checkpoint: where it is, its names without wrappers, and its tensors by them."""

    place: Place
    names: Names
    state: State


@dataclass(frozen=True)
class Matched:
    """The weights that a layout fits, and what becomes of them."""

    weights: Weights
    layout: Layout
    legacy: Layout | None
    entries: list[Entry]
    made: State

    @property
    def followed(self) -> dict[str, str]:
        """Old name -> new name of what was reused."""
        return {e.source: e.name for e in self.entries if e.status == "reused" and e.source is not None}


def convert(request: Request, nursery: Nursery, deadline: float) -> Conversion:
    """Read, match, and write to `request.out`.

    Raises:
        MigrateError: with the one thing that is wrong.
    """
    stored = storing.read(request.old)
    places = list(dictionaries(stored.tree))
    states = [place for place in places if is_state(place.content)]
    if not states:
        cause = "it holds no state dict: no names with tensors"
        raise MigrateError("no-weights", cause, "save model.state_dict()", path=request.old)
    matched = _matched(request, nursery, deadline, states)
    notes: list[str] = []
    lost: list[str] = []
    converted: set[tuple[Any, ...]] = set()
    for other in _same(matched, states, request):
        converted.add(other.weights.place.path[:1])
        stored.tree = put(stored.tree, other.weights.place.path, _content(other))
        if other.weights.place.path:
            notes.append(f"weights in {other.weights.place.words}: converted")
    for place in places:
        if is_optimizer(place.content):
            ok, text = _optimizer(stored, place, matched)
            (notes if ok else lost).append(text)
    handled = {place.path[:1] for place in places if is_optimizer(place.content)} | converted
    others = [key for key in _keys(stored.tree) if (key,) not in handled] if () not in converted else []
    notes += [f"kept as they were: {', '.join(map(str, others))}"] if others else []
    storing.write(stored, request.out, safetensors=request.safetensors)
    return _conversion(matched, request, notes, lost)


def _keys(tree: Any) -> list[Any]:
    return list(tree) if isinstance(tree, dict) else list(range(len(tree)))


def _conversion(matched: Matched, request: Request, notes: list[str], lost: list[str]) -> Conversion:
    old = matched.weights.state
    before = _parameters(matched)
    size = sum(old[name].numel() for name in before)
    how = f"{matched.layout.how} of {request.target.path.name}, seed {request.seed}"
    found = rows(matched.entries, old, matched.made)
    return Conversion(how, tuple(found), (size, matched.layout.size), tuple(notes), tuple(lost))


# --- which model ----------------------------------------------------------------------------------------------------


def _matched(request: Request, nursery: Nursery, deadline: float, states: Sequence[Place]) -> Matched:
    """The first way to build the model that one of the state dicts fits."""
    legacy = None
    if request.legacy is not None and not request.back:
        legacy = _fitting(request, request.legacy, nursery, deadline, states, None).layout
    return _fitting(request, request.target, nursery, deadline, states, legacy)


def _fitting(
    request: Request, file: ModelFile, nursery: Nursery, deadline: float, states: Sequence[Place],
    legacy: Layout | None,
) -> Matched:  # fmt: skip
    builder = Builder(nursery, file, deadline, request.seed)
    reasons: list[tuple[int, str]] = []
    try:
        for layout in builder.layouts(request.symbol, request.build):
            for weights in _weights(states, layout):
                try:
                    return _match(request, file, weights, layout, legacy)
                except Misfit as misfit:
                    reasons.append((_common(weights, layout), f"as {layout.how}: {misfit}"))
    finally:
        builder.close()
    remedy = "say how the model is built: --build 'Model(vocab=11, dim=16)'"
    if reasons:
        nearest = max(reasons, key=lambda reason: reason[0])[1]
        cause = f"the checkpoint is of no model of this file; {nearest}"
        raise MigrateError("no-fit", cause, remedy, path=file.path)
    first = builder.failures[0] if builder.failures else "it has no module class"
    raise MigrateError("not-built", f"no model of the file could be built; {first}", remedy, path=file.path)


def _weights(states: Sequence[Place], layout: Layout) -> Iterator[Weights]:
    """The state dicts, those with the most names of the layout first."""
    found = []
    for place in states:
        names = Names(place.content, layout.state)
        if names.unambiguous:
            found.append(Weights(place, names, {name: place.content[key] for name, key in names.old.items()}))
    yield from sorted(found, key=lambda one: -_common(one, layout))


def _common(weights: Weights, layout: Layout) -> int:
    return len(set(weights.state) & set(layout.state))


def _match(request: Request, file: ModelFile, weights: Weights, layout: Layout, legacy: Layout | None) -> Matched:
    if file is not request.target:
        return Matched(weights, layout, None, _whole(weights, layout), {})
    starts = starts_of(request, layout)
    if request.back:
        origin = sources(layout.state, layout, request.renamed)
        try:
            entries, made = match_back(weights.state, layout, origin, starts)
        except NotInvertible as error:
            remedy = "only exact changes and an untrained warm start lead back"
            raise MigrateError("not-invertible", str(error), remedy, path=request.old) from error
        return Matched(weights, layout, None, entries, made)
    origin = sources(weights.state, legacy, request.renamed)
    entries = match(weights.state, layout, origin, starts)
    gate = unknown(weights.state, layout, origin, starts)
    if gate is not None:
        cause = f"{gate.gate} is a gate, and only the legacy file says which weights and which activation stood there"
        raise MigrateError("legacy-needed", cause, "add --legacy FILE.py, the file as it was", path=file.path)
    return Matched(weights, layout, legacy, entries, values(entries, weights.state, layout, starts))


def _whole(weights: Weights, layout: Layout) -> list[Entry]:
    """Entries of the legacy model itself, which the checkpoint has to have all parameters of."""
    entries = match(weights.state, layout, {}, [])
    lacking = next((e.name for e in entries if e.status == "new" and e.name in layout.parameters), None)
    if lacking is not None:
        raise Misfit(f"the checkpoint has no {lacking}")
    return entries


# --- what else the file holds ---------------------------------------------------------------------------------------


def _same(matched: Matched, states: Sequence[Place], request: Request) -> Iterator[Matched]:
    """The weights, and whatever has the same names and shapes: averages of the weights, for one."""
    for weights in _weights(states, matched.layout):
        if {n: v.shape for n, v in weights.state.items()} == {n: v.shape for n, v in matched.weights.state.items()}:
            first = weights.place.path == matched.weights.place.path
            yield matched if first else _match(request, request.target, weights, matched.layout, matched.legacy)


def _content(matched: Matched) -> dict[Any, Any]:
    """The dictionary with new tensors, in the spelling of the old one; what is no tensor stays."""
    old = matched.weights.place.content
    new = type(old)()
    if hasattr(old, "__dict__"):  # the `_metadata` of a state dict
        new.__dict__.update(old.__dict__)
    keys = {name: matched.weights.names.key(name) for name in matched.made}
    new.update({keys[name]: value for name, value in matched.made.items()})
    new.update({key: value for key, value in old.items() if not isinstance(value, Tensor)})
    return new


def _optimizer(stored: storing.Stored, place: Place, matched: Matched) -> tuple[bool, str]:
    """Put the optimizer's state into its new form, or leave it out: whether it is there, and what to say."""
    state, layout = matched.weights.state, matched.layout
    old = Parameters(_parameters(matched), {name: value.shape for name, value in state.items()})
    new = Parameters(layout.parameters, {name: value.shape for name, value in matched.made.items()})
    try:
        followed = follow(place.content, old, new, matched.followed)
    except Unclear as error:
        stored.tree = put(stored.tree, place.path, None)
        return False, f"{place.words}: the optimizer's state is dropped: {error}"
    stored.tree = put(stored.tree, place.path, followed)
    count, total = len(followed["state"]), len(new.order)
    rest = "; the rest start anew" if count < total else ""
    return True, f"{place.words}: state of {count} of {total} parameters{rest}"


def _parameters(matched: Matched) -> list[str]:
    """The legacy model's parameters in its order: as it was built, else as the state dict has them."""
    state = matched.weights.state
    if matched.legacy is not None:
        return [name for name in matched.legacy.parameters if name in state]
    layout = matched.layout
    followed = {entry.source: entry.name for entry in matched.entries if entry.source is not None}
    repeated = {other for group in layout.tied for other in group if other not in layout.parameters}
    return [
        name for name, value in state.items()
        if (followed.get(name, "") in layout.parameters or (name not in followed and value.is_floating_point()))
        and name not in repeated
    ]  # fmt: skip
