"""What a box does to train a model, and to look at the data sets of its text."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from migrator.prove import building, trials
from migrator.prove.alarm import limited
from migrator.prove.codec import encode
from migrator.validate import tasks
from migrator.validate.trials import Operation, constructed

if TYPE_CHECKING:
    from migrator.prove.box import Reply, _Box

_UNSEEN = 1 << 20  # numbers of batches that training does not reach
_EVALUATED = 4


def trained(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Losses of some steps, up to the first that is not finite, and afterwards those on batches of each data set."""
    module, _ = constructed(box, message, tensors)
    sources = [_source(box, message, build) for build in message["data"]]
    optimizer = building.AdamW(module.train(), message["rate"])
    losses: list[float] = []
    began = time.perf_counter()
    with limited(message["patience"]):
        for step in range(message["steps"]):
            loss = _loss(box, module, sources[0], message, message["length"], step)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            module.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds = time.perf_counter() - began
        module.eval()
        later = [
            _evaluated(box, module, source, message, length)
            for source, length in zip(sources, message["lengths"], strict=True)
        ]
    return {"losses": losses, "seconds": seconds, "later": later}, []


def _source(box: _Box, message: dict[str, Any], build: dict[str, Any] | None) -> tasks.Source:
    """The data set that is built so, or, for None, the task that is made here."""
    if build is None:
        return tasks.made(message["specs"])
    return tasks.own(building.evaluated(build, [], box.space), len(message["specs"]))


def _loss(
    box: _Box, module: nn.Module, source: tasks.Source, message: dict[str, Any], length: int, number: int
) -> Tensor:
    from migrator.prove.box import seed_all

    seed_all(message["seed"] * 7919 + number)
    batch = source(message["batch"], length, message["seed"] * 7919 + number)
    out: list[Tensor] = []
    encode(module(*batch.args), out, box.space, strict=False)
    return tasks.loss_of(out, batch)


def _evaluated(box: _Box, module: nn.Module, source: tasks.Source, message: dict[str, Any], length: int) -> float | str:
    """The mean loss on a few batches; or why there is none."""
    try:
        losses = [_loss(box, module, source, message, length, _UNSEEN + n).item() for n in range(_EVALUATED)]
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return sum(losses) / len(losses)


def data_set(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """The length of the sequences of a data set whose batches the model takes."""
    dataset = building.evaluated(message["dataset"], [], box.space)
    if not isinstance(dataset, torch.utils.data.Dataset):
        raise TypeError("it is no data set")
    module, _ = constructed(box, message, tensors)
    with limited(message["patience"]):
        batch = tasks.own(dataset, len(message["specs"]))(2, 0, 0)
        kinds = [
            ("tokens" in spec, tensor.is_floating_point())
            for spec, tensor in zip(message["specs"], batch.args, strict=True)
        ]
        if any(tokens == floating for tokens, floating in kinds):
            raise TypeError("its items are no arguments of the model")
        module(*batch.args)
    return {"length": batch.args[0].size(1)}, []


OPERATIONS: dict[str, Operation] = {"trained": trained, "data_set": data_set}


def install() -> None:
    """Let boxes answer these requests too; before the nursery forks any."""
    trials.OPERATIONS.update(OPERATIONS)
