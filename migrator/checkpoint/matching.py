"""Which old tensor goes where in the new layout: by names and shapes, and by what a migration claims."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from migrator.checkpoint.layout import Layout
from migrator.checkpoint.request import Row, Status
from migrator.checkpoint.starts import Start
from migrator.prove.states import State, renaming_of, under
from migrator.prove.warm import started, undone


class Misfit(Exception):
    """The checkpoint is not one of this model."""


class NotInvertible(Exception):
    """The checkpoint has learnt what the legacy model has no place for."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the new layout, and the name of the old one that it comes from, if it comes from one."""

    name: str
    source: str | None
    status: Status
    how: str = ""


def sources(old: Iterable[str], legacy: Layout | None, renamed: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Name in the migrated layout -> name in the legacy one."""
    if legacy is None:
        return {name: name for name in old}
    rename = renaming_of(legacy.classes, renamed)
    return {rename(name): name for name in old}


def match(old: State, layout: Layout, origin: Mapping[str, str], starts: Iterable[Start]) -> list[Entry]:
    """An entry for each tensor of the layout.

    Raises:
        Misfit: names or shapes say that the checkpoint is of another model, or of one of another size.
    """
    starts = list(starts)
    origin = {name: origin.get(name, name) for name in layout.state}
    patterns = {_pattern(name) for name in old}
    entries = [_entry(name, value, old, layout, origin, starts, patterns) for name, value in layout.state.items()]
    used = {entry.source for entry in entries if entry.source is not None}
    left = set(old) - used
    if len(used) < max(len(left), 1) or len(used) < sum(entry.source is None for entry in entries):
        raise Misfit(f"only {len(used)} of the {len(old)} tensors of the checkpoint have a place in it")
    for name in sorted(left):
        if _pattern(name) in {_pattern(other) for other in layout.state}:
            raise Misfit(f"the checkpoint has {name}, and this model is built smaller")
    return entries


def _entry(
    name: str, value: Tensor, old: State, layout: Layout, origin: Mapping[str, str], starts: list[Start],
    patterns: set[str],
) -> Entry:  # fmt: skip
    source = next((origin[n] for n in (name, *layout.others(name)) if origin.get(n) in old), None)
    start = next((one for one in starts if under(name, [one.gate, one.up]) and one.begins(old, layout, origin)), None)
    if start is not None and start.part is not None and (source is not None or under(name, [start.up])):
        return Entry(name, source, "converted", start.spelled(name))
    if source is None:
        if _pattern(origin[name]) in patterns:
            raise Misfit(f"the checkpoint has no {name}, and this model is built larger")
        return Entry(name, None, "new")
    if old[source].shape == value.shape:
        return Entry(name, source, "reused")
    products = [path for one in starts for path in one.products]
    if under(name, products) and old[source].ndim == value.ndim:
        return Entry(name, source, "resized")
    raise Misfit(f"{name} is {_shape(old[source])} in the checkpoint and {_shape(value)} in this model")


def values(entries: Iterable[Entry], old: State, layout: Layout, starts: Iterable[Start]) -> State:
    """The tensors of the new state dict. Those that are reused are the old ones themselves, shared where they were."""
    made: State = {}
    dtype = _dtype(old)
    for entry in entries:
        if entry.status == "reused" and entry.source is not None:
            made[entry.name] = old[entry.source]
        else:
            initial = layout.state[entry.name].clone()
            made[entry.name] = initial.to(dtype) if initial.is_floating_point() and dtype else initial
    taken = {entry.name: old[entry.source] for entry in entries if entry.source is not None}
    converted = {entry.name for entry in entries if entry.status == "converted"}
    for start in starts:
        if start.part is not None and f"{start.gate}.weight" in converted:
            made |= started(taken, start.gate, start.up, start.part.sharpness)
    for name in converted:
        if not bool(made[name].isfinite().all()):
            raise Misfit(f"{name} leaves the range of {made[name].dtype} when it is scaled")
    return made


def _dtype(old: State) -> torch.dtype | None:
    """The floating dtype that most of a checkpoint is in."""
    sizes: dict[torch.dtype, int] = {}
    for value in old.values():
        if value.is_floating_point():
            sizes[value.dtype] = sizes.get(value.dtype, 0) + value.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


# --- the way back ---------------------------------------------------------------------------------------------------


def match_back(
    old: State, layout: Layout, origin: Mapping[str, str], starts: Iterable[Start]
) -> tuple[list[Entry], State]:
    """Entries and tensors of the legacy layout, from a migrated state that the legacy model can hold.

    Raises:
        Misfit: it has a tensor that the legacy model lacks, or lacks one.
        NotInvertible: it has learnt a gate.
    """
    migrated = {legacy: name for name, legacy in origin.items()}
    gates = [start for start in starts if start.part is not None and f"{start.up}.weight" in old]
    entries = [_entry_back(name, value, old, layout, migrated, gates) for name, value in layout.state.items()]
    used = {entry.source for entry in entries} | {
        f"{start.up}.{kind}" for start in gates for kind in ("weight", "bias")
    }
    left = sorted(set(old) - used)
    if left:
        raise Misfit(f"the legacy model has no place for {left[0]}")
    products = {origin.get(name, name): value for start in gates for name, value in _undone(old, start).items()}
    made = {e.name: layout.state[e.name].clone() if e.source is None else old[e.source] for e in entries}
    return entries, made | products


def _entry_back(
    name: str, value: Tensor, old: State, layout: Layout, migrated: Mapping[str, str], gates: list[Start]
) -> Entry:
    names = [known for one in (name, *layout.others(name)) for known in (migrated.get(one, one), one)]
    source = next((known for known in names if known in old), None)
    if source is None and name in layout.parameters:
        raise Misfit(f"the legacy model needs {name}, which the checkpoint lacks")
    if source is None:
        return Entry(name, None, "new", "a buffer, as the model builds it")
    if old[source].shape != value.shape:
        raise Misfit(f"{source} is {_shape(old[source])} in the checkpoint and {_shape(value)} in the legacy model")
    start = next((start for start in gates if under(source, [start.gate])), None)
    if start is None or start.part is None:
        return Entry(name, source, "reused")
    return Entry(name, source, "converted", f"old / {start.part.sharpness:g}; its gate had not been trained")


def _undone(old: State, start: Start) -> State:
    """The first product of one feed-forward, without its gate."""
    assert start.part is not None
    before = undone(old, start.gate, start.up, start.part.sharpness)
    if before is None:
        raise NotInvertible(f"{start.up} has been trained since it started at 0 and 1/{start.part.sharpness:g}")
    return before


# --- what is said of it ---------------------------------------------------------------------------------------------


def rows(entries: Iterable[Entry], old: State, made: State) -> list[Row]:
    """One row for each tensor of the new state dict, and for each old one that has no place in it."""
    entries = list(entries)
    found = [
        Row(
            entry.name if entry.source in (entry.name, None) else f"{entry.source} -> {entry.name}",
            entry.status,
            "" if entry.source is None else _shape(old[entry.source]),
            _shape(made[entry.name]),
            entry.how,
        )
        for entry in entries
    ]
    used = {entry.source for entry in entries}
    return [*found, *(Row(name, "dropped", _shape(value), "") for name, value in old.items() if name not in used)]


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))


def _pattern(name: str) -> str:
    """One name for the tensors of all blocks of a stack."""
    return re.sub(r"\.\d+(?=\.)|^\d+(?=\.)", ".*", name)
