"""What torchrun starts: one of several processes that train a model together, and alone, and write down the losses.

`python -m torch.distributed.run --standalone --nproc-per-node 2 -m migrator.validate.ranks JOB.json ANSWER.json`

There are two references, both of a single process: one takes each batch as a whole, the other each share of it with a
model of its own, and gives all models the mean of their gradients. They are the same for a loss that is a mean over
sequences; else the second is what processes in parallel compute, unless the model itself asks the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]

from migrator.prove import building, loading, switches
from migrator.prove.box import seed_all
from migrator.prove.codec import encode
from migrator.prove.confinement import end_with_parent
from migrator.validate import tasks
from migrator.validate.initialising import initialise
from runtime.inspection import blocks_of

Job = dict[str, Any]
Wrap = Callable[[nn.Module], nn.Module]
_RATE = 1e-3
_PATIENCE = timedelta(seconds=60)  # with a process that does not come to where the others wait for it


class Trainer:
    """Builds the model anew for each run, and trains it on its share of the batches."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        cuda = torch.cuda.is_available() and torch.cuda.device_count() >= self.world
        self.backend = "nccl" if cuda else "gloo"
        self.device = torch.device("cuda", self.rank) if cuda else torch.device("cpu")
        self.space, _ = loading.load(job["text"], Path(job["path"]), definitions_only=job["definitions_only"])
        self.source = tasks.made(job["specs"])

    def model(self) -> nn.Module:
        seed_all(self.job["seed"])
        module = building.construct(self.job["build"], [], self.space)
        initialise(module, self.job["initialiser"], self.space)
        return module.to(self.device).train()

    def alone(self, shares: int) -> tuple[list[float], list[str]]:
        """Losses of one process that takes all `shares` of each batch, and the parameters that got no gradient."""
        models = [self.model() for _ in range(shares)]
        optimizers = [torch.optim.AdamW(module.parameters(), lr=_RATE) for module in models]
        losses = []
        for step in range(self.job["steps"]):
            total = 0.0
            for share, module in enumerate(models):
                module.zero_grad()
                loss = self.loss(module, step, range(self.world) if shares == 1 else range(share, share + 1))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item() / shares
            _average(models)
            for optimizer in optimizers:
                optimizer.step()
            losses.append(total)
        unused = [name for name, p in models[0].named_parameters() if p.requires_grad and p.grad is None]
        return losses, unused

    def together(self, wrap: Wrap) -> list[float]:
        """Losses of all processes, each with its shard: their means."""
        module = wrap(self.model())
        optimizer = torch.optim.AdamW(module.parameters(), lr=_RATE)
        losses = []
        for step in range(self.job["steps"]):
            optimizer.zero_grad()
            loss = self.loss(module, step, range(self.rank, self.rank + 1))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            losses.append(mean.item() / self.world)
        return losses

    def loss(self, module: nn.Module, step: int, shares: range) -> Tensor:
        """Of some shares of a batch; what the model draws depends on the first of them."""
        size, first = self.job["batch"] // self.world, step * self.world
        parts = [self.source(size, self.job["length"], first + share) for share in shares]
        args = [self.joined([part.args[place] for part in parts]) for place in range(len(parts[0].args))]
        target = None if parts[0].target is None else self.joined([part.target for part in parts])
        seed_all(first + shares.start)
        out: list[Tensor] = []
        encode(module(*args), out, self.space, strict=False)
        return tasks.loss_of(out, tasks.Batch(args, target))

    def joined(self, values: list[Any]) -> Any:
        """Tensors of several shares one behind the other; anything else is the same in each."""
        first = values[0]
        if not isinstance(first, Tensor):
            return first
        whole = torch.cat(values) if first.ndim and len(values) > 1 else first
        return whole.to(self.device)


def _average(models: list[nn.Module]) -> None:
    """Give all models the mean of their gradients."""
    if len(models) == 1:
        return
    for parameters in zip(*(module.parameters() for module in models), strict=True):
        grads = [p.grad for p in parameters if p.grad is not None]
        if grads:
            mean = torch.stack(grads).sum(0) / len(models)
            for parameter in parameters:
                parameter.grad = mean.clone()


# --- how processes share the work ---------------------------------------------------------------------------------


def runs(job: Job, unused: list[str]) -> Iterator[tuple[str, str, Wrap]]:
    """Every mode with every option that the model has: (mode, option, how the model is wrapped)."""
    modes: dict[str, Wrap] = {"DDP": lambda module: _replicated(module, bool(unused)), "FSDP2": _sharded}
    options: dict[str, Wrap] = {"": lambda module: module, "checkpointing": _checkpointed}
    for mode, spread in modes.items():
        for option, prepare in options.items():
            yield mode, option, _both(prepare, spread)
        yield mode, f"torch.compile ({job['compiler']})", _both(spread, partial(_compiled, job["compiler"]))


def _both(first: Wrap, second: Wrap) -> Wrap:
    return lambda module: second(first(module))


def _replicated(module: nn.Module, unused: bool) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module, find_unused_parameters=unused)


def _sharded(module: nn.Module) -> nn.Module:
    """Each block of the longest stack by itself, then what is left."""
    from torch.distributed.fsdp import fully_shard

    for path in blocks_of(module):
        fully_shard(module.get_submodule(path))
    fully_shard(module)
    return module


def _checkpointed(module: nn.Module) -> nn.Module:
    if not hasattr(module, "gradient_checkpointing_enable"):
        raise _Without("the model has no gradient_checkpointing_enable()")
    module.gradient_checkpointing_enable()  # type: ignore[operator]
    return module


def _compiled(backend: str, module: nn.Module) -> nn.Module:
    module.compile(backend=backend)
    return module


class _Without(Exception):
    """The model lacks what an option asks for."""


# --- the process --------------------------------------------------------------------------------------------------


def main(job_file: str, answer: str) -> None:
    """Run all modes, and let one of the processes write what came of them."""
    end_with_parent()
    job: Job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    switches.install()
    torch.set_num_threads(1)
    with switches.dropout_set(False):
        trainer = Trainer(job)
        if trainer.device.type == "cuda":
            torch.cuda.set_device(trainer.device)
        whole, unused = trainer.alone(1)
        shares, _ = trainer.alone(trainer.world)
        store = FileStore(str(Path(answer).with_name("store")), trainer.world)
        rows, lost = _rows(trainer, store, unused)
    if trainer.rank == 0 or lost:
        found = {"backend": trainer.backend, "whole": whole, "shares": shares, "unused": unused, "rows": rows}
        written = Path(f"{answer}.{trainer.rank}")
        written.write_text(json.dumps(found), encoding="utf-8")
        written.replace(answer)
    if lost:
        os._exit(1)  # and torchrun ends the others, which wait for this one


def _rows(trainer: Trainer, store: Store, unused: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """What came of each run, and whether the other processes are lost: not where this one, which failed, is."""
    rows = []
    for number, (mode, option, wrap) in enumerate(runs(trainer.job, unused)):
        row: dict[str, Any] = {"mode": mode, "options": option, "losses": [], "left_out": ""}
        own, moment, failed = PrefixStore(str(number), store), 0.0, ""
        try:
            with _group(trainer, own):
                row["losses"] = trainer.together(wrap)
        except _Without as without:
            row["left_out"] = str(without)
        except Exception as error:
            moment, failed = time.time(), loading.described(error, Path(trainer.job["path"]))
        first = _first_failure(trainer, own, moment, failed)
        rows.append({**row, "error": f"process {trainer.rank}: {failed}" if first is None else first})
        if first is None:
            return rows, True
    return rows, False


@contextlib.contextmanager
def _group(trainer: Trainer, store: Store) -> Iterator[None]:
    """One for each run, so that a run that fails in all processes is not in the way of the next one."""
    dist.init_process_group(
        trainer.backend, timeout=_PATIENCE, store=store, rank=trainer.rank, world_size=trainer.world
    )  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()


def _first_failure(trainer: Trainer, store: Store, moment: float, failed: str) -> str | None:
    """Why that process failed which failed first; "" if none did, None if others do not come to say."""
    store.set_timeout(_PATIENCE / 4 if failed else _PATIENCE * 2)
    store.set(f"end of {trainer.rank}", json.dumps([moment, trainer.rank, failed]))
    try:
        said = [json.loads(store.get(f"end of {rank}")) for rank in range(trainer.world)]
    except RuntimeError:
        return None
    if all(text == failed for _, _, text in said):
        return failed
    _, rank, text = min(one for one in said if one[2])
    return f"process {rank}: {text}"


if __name__ == "__main__":
    main(*sys.argv[1:])
