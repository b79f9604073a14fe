"""What a box does to be measured. It only reports; each request builds its model anew.

Timings come from the box itself, whose code is the user's: unlike a proof, a validation trusts the code it measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from migrator.prove import building, switches, trials
from migrator.prove.alarm import limited
from migrator.prove.codec import decode, encode
from migrator.validate.initialising import initialise

if TYPE_CHECKING:
    from migrator.prove.box import Reply, _Box

Operation = Callable[["_Box", dict[str, Any], list[Tensor]], "Reply"]


def constructed(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> tuple[nn.Module, list[Tensor]]:
    """The model, built under the seed of the message, and the tensors of the call."""
    torch.set_default_dtype(torch.float32)
    count = message["given"]
    module = box.construct(message["build"], tensors[:count], message["seed"], torch.float32)
    initialise(module, message["initialiser"], box.space)
    return module, tensors[count:]


def outputs_of(box: _Box, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> list[Tensor]:
    """All tensors that a call gives; their graph is kept."""
    out: list[Tensor] = []
    encode(box.call(module, message, tensors), out, box.space, strict=False)
    return out


def loss_of(box: _Box, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> Tensor:
    """The loss that a call gives, or a distance to fixed targets in its place."""
    return building.loss_of(outputs_of(box, module, message, [tensor.clone() for tensor in tensors]))


def _activity(box: _Box, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> Callable[[], object]:
    """One call, or one whole step of training with AdamW."""
    if message["activity"] == "forward":
        module.eval()

        def forward() -> None:
            with torch.no_grad():
                box.call(module, message, tensors)

        return forward
    optimizer = building.AdamW(module.train())

    def step() -> None:
        module.zero_grad()
        loss_of(box, module, message, tensors).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def timed(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Seconds of some calls after one to warm up: as many as fit into `seconds`, but one at least."""
    module, rest = constructed(box, message, tensors)
    act = _activity(box, module, message, rest)
    found: list[float] = []
    with limited(message["patience"]):
        act()
        until = time.perf_counter() + message["seconds"]
        while not found or (time.perf_counter() < until and len(found) < message["most"]):
            began = time.perf_counter()
            act()
            found.append(time.perf_counter() - began)
    return {"seconds": found}, []


def peak(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """The most bytes that torch's allocator had handed out during a call, beyond what there was before it."""
    from torch.profiler import ProfilerActivity, profile

    module, rest = constructed(box, message, tensors)
    act = _activity(box, module, message, rest)
    with limited(message["patience"]):
        act()  # tables, gradients and the optimizer's state are there from now on
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            act()
    assert recorded.profiler is not None
    held = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return {"bytes": highest}, []


def runs(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Whether a call works, and how long it takes: the quicker of two, because the first one warms up."""
    module, rest = constructed(box, message, tensors)
    module.eval()
    found: list[float] = []
    with torch.no_grad(), limited(message["patience"]):
        for _ in range(2):
            began = time.perf_counter()
            box.call(module, message, rest)
            found.append(time.perf_counter() - began)
    return {"seconds": min(found)}, []


def anatomy(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """How many parameters the model has, and how many blocks its longest stack."""
    from runtime.inspection import blocks_of

    module, _ = constructed(box, message, tensors)
    count = sum(parameter.numel() for parameter in module.parameters())
    return {"parameters": count, "blocks": len(blocks_of(module))}, []


def generated(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Seconds of one call of a function that generates, after `warm` ones, and how many tokens all embeddings take."""
    module, rest = constructed(box, message, tensors)
    values: list[Any] = [*rest, module.eval()]
    kwargs = decode(message["kwargs"], values, box.space)
    function = getattr(module if message["bound"] else box.space, message["function"])
    with switches.dropout_set(False), torch.no_grad(), limited(message["patience"]):
        torch.manual_seed(0)
        began = time.perf_counter()
        function(**kwargs)
        return {"seconds": time.perf_counter() - began}, []


def uncached(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """From here on, functions of the text that ask for a new cache get none, and compute every prefix again."""
    import runtime

    names = [name for name, value in vars(box.space).items() if value is runtime.KVCache]
    for name in names:
        setattr(box.space, name, lambda *args, **kwargs: None)
    return {"caches": len(names)}, []


def vocabulary(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """The size of each embedding, in order."""
    module, _ = constructed(box, message, tensors)
    return {"sizes": sorted(m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding))}, []


OPERATIONS: dict[str, Operation] = {
    "timed": timed, "peak": peak, "runs": runs, "anatomy": anatomy, "generated": generated, "uncached": uncached,
    "vocabulary": vocabulary,
}  # fmt: skip


def install() -> None:
    """Let boxes answer these requests too; before the nursery forks any."""
    trials.OPERATIONS.update(OPERATIONS)
