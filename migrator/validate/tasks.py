"""What models are trained on: the data set of their own file, or a small task that is made here. Runs in a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from migrator.prove import building, inputs

Spec = dict[str, Any]
PERIODIC = "next-token prediction on sequences that repeat a random pattern of 3 to 8 symbols, 5 % of them wrong"
MOVED = "each vector of noise is to be given out one position later"
_SYMBOLS = 16
_PERIODS = (3, 9)
_WRONG = 0.05


@dataclass(frozen=True)
class Batch:
    """Arguments of the model, and what it should give: a number for each position, or a tensor like its output."""

    args: list[Any]
    target: Tensor | None


Source = Callable[[int, int, int], Batch]  # of (batch size, length, number of the batch)


def made(specs: Sequence[Spec]) -> Source:
    """The task that fits the arguments of the model."""
    tokens = next((spec for spec in specs if "tokens" in spec and len(spec["shape"]) == 2), None)

    def batch(size: int, length: int, number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        if tokens is None:
            return _moved(specs, size, length, generator)
        whole = _periodic(size, length + 1, min(tokens["tokens"], _SYMBOLS), generator)
        sequence, following = whole[:, :-1], whole[:, 1:]
        given = iter([sequence, following])  # a second argument of the same kind is what should come out
        same = [spec == tokens for spec in specs]
        args = [
            next(given, sequence) if alike else _visible(spec, size, length, generator)
            for spec, alike in zip(specs, same, strict=True)
        ]
        return Batch(args, following)

    return batch


def _periodic(size: int, length: int, symbols: int, generator: torch.Generator) -> Tensor:
    """(size, length) numbers below `symbols`."""
    periods = torch.randint(*_PERIODS, (size, 1), generator=generator)
    pattern = torch.randint(symbols, (size, _PERIODS[1]), generator=generator)
    clean = pattern.gather(1, torch.arange(length).expand(size, -1) % periods)
    wrong = torch.rand(size, length, generator=generator) < _WRONG
    return torch.where(wrong, torch.randint(symbols, (size, length), generator=generator), clean)


def _moved(specs: Sequence[Spec], size: int, length: int, generator: torch.Generator) -> Batch:
    args = [_visible(spec, size, length, generator) for spec in specs]
    first = next((arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point() and arg.ndim == 3), None)
    return Batch(args, None if first is None else first.roll(1, dims=1))


def _visible(spec: Spec, size: int, length: int, generator: torch.Generator) -> Any:
    """An argument; of masks one that hides nothing."""
    value = inputs.make(spec, size, length, generator)
    if "bool" in spec:
        return torch.full_like(value, not spec["inverted"])
    return torch.zeros_like(value) if "additive" in spec else value


# --- the file's own data ------------------------------------------------------------------------------------------


def own(dataset: Any, count: int) -> Source:
    """Batches of the file's data set; its items bring the first `count` arguments, and perhaps a label behind them."""
    length = len(dataset) if hasattr(dataset, "__len__") else 1 << 30

    def batch(size: int, _: int, number: int) -> Batch:
        items = [dataset[(number * size + place) % length] for place in range(size)]
        rows = [item if isinstance(item, tuple | list) else (item,) for item in items]
        columns = [_stacked([row[place] for row in rows]) for place in range(len(rows[0]))]
        label = columns[count] if len(columns) > count else None
        return Batch(columns[:count], label)

    return batch


def _stacked(values: list[Any]) -> Tensor:
    return torch.stack([value if isinstance(value, Tensor) else torch.as_tensor(value) for value in values])


# --- losses -------------------------------------------------------------------------------------------------------


def loss_of(outputs: list[Tensor], batch: Batch) -> Tensor:
    """The model's own loss where it gives one; else cross-entropy, or a square distance, to the target."""
    floats = [one for one in outputs if one.is_floating_point() and one.requires_grad]
    scalar = next((one for one in floats if one.ndim == 0), None)
    if scalar is not None or batch.target is None or not floats:
        return building.loss_of(outputs) if scalar is None else scalar
    out, target = floats[0], batch.target
    if target.is_floating_point():
        return functional.mse_loss(out, target) if out.shape == target.shape else building.loss_of(outputs)
    classes = out.size(-1)
    if out.shape[:-1] == target.shape:
        return functional.cross_entropy(out.flatten(0, -2), target.flatten() % classes)
    if out.ndim == 2 and out.size(0) == target.size(0):  # one answer for a whole sequence
        return functional.cross_entropy(out, target.reshape(target.size(0), -1)[:, 0] % classes)
    return building.loss_of(outputs)
