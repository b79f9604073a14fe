"""State dicts that both sides load: random enough that no parameter can hide, the same where the two have the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from migrator.prove.remote import Model

State = dict[str, Tensor]


def perturbed(model: Model, seed: int = 0) -> State:
    """The state of a model with noise on its parameters: norms are no longer 1 and biases no longer 0."""
    generator = torch.Generator().manual_seed(seed)
    names = set(model.parameters) | {name for group in model.tied for name in group}
    state = {key: _noisy(value, generator) if key in names else value for key, value in model.state.items()}
    for group in model.tied:
        for name in group[1:]:
            if name in state and group[0] in state:
                state[name] = state[group[0]]
    return state


def _noisy(value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point() or not value.numel():
        return value
    spread = value.std().item() if value.numel() > 1 else 0.0
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return value + (max(spread, 0.3) * 0.3 * noise).to(value.dtype)


def renaming(model: Model, renamed: Iterable[tuple[str, str, str]]) -> Callable[[str], str]:
    """New names of state-dict entries, wherever in `model` the class of each renaming stands."""
    return renaming_of({path: found["classes"] for path, found in model.modules.items()}, renamed)


def renaming_of(classes: Mapping[str, Sequence[str]], renamed: Iterable[tuple[str, str, str]]) -> Callable[[str], str]:
    table: dict[str, str] = {}
    for owner, old, new in renamed:
        for path in owners(classes, owner):
            prefix = f"{path}." if path else ""
            table[prefix + old] = prefix + new
    return lambda name: table.get(name, name)


def owners(classes: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """Paths of the instances of a class."""
    return [path for path, found in classes.items() if name in found]


@dataclass(frozen=True)
class Matched:
    """States that make two models agree, if nothing but the switched-off parts differs."""

    before: State
    after: State
    dropped: tuple[str, ...]
    new: tuple[str, ...]
    resized: tuple[str, ...]


def matched(before: Model, after: Model, rename: Callable[[str], str]) -> Matched:
    """Tensors of one name get the same values; where sizes differ, what lies outside of the overlap is zero."""
    old, new = perturbed(before), perturbed(after, seed=1)
    sources = {rename(key): key for key in old}
    dropped = tuple(key for name, key in sources.items() if name not in new)
    resized: list[str] = []
    for name, value in new.items():
        key = sources.get(name)
        if key is None:
            continue
        if old[key].shape == value.shape:
            new[name] = old[key]
        elif old[key].ndim == value.ndim:
            resized.append(name)
            old[key], new[name] = _common(old[key], value)
    return Matched(old, new, dropped, tuple(name for name in new if name not in sources), tuple(resized))


def _common(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    overlap = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
    left, right = torch.zeros_like(old), torch.zeros_like(new)
    left[overlap] = old[overlap]
    right[overlap] = old[overlap]
    return left, right


def under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def paths_of(model: Model, owner: str, attributes: Sequence[str]) -> list[str]:
    """Where the attributes of each instance of `owner` stand in a model."""
    return [f"{path}.{attribute}" if path else attribute for path in model.owners(owner) for attribute in attributes]


def counts(parameters: Mapping[str, int], prefixes: Iterable[str]) -> int:
    chosen = list(prefixes)
    return sum(count for name, count in parameters.items() if under(name, chosen))
