"""What a box does to be looked into: gradients of a model's blocks, and the weights of its attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from migrator.prove import switches, trials
from migrator.prove.alarm import limited
from migrator.prove.building import AdamW
from migrator.validate.trials import Operation, constructed, loss_of

if TYPE_CHECKING:
    from migrator.prove.box import Reply, _Box


def gradients(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """Gradients of the loss after some steps of AdamW, by block; the stack may be made `times` as deep before."""
    from runtime import GradientFlow

    module, rest = constructed(box, message, tensors)
    if message["times"] > 1:
        _deepen(box, module, message, tensors)
    module.train()
    optimizer = AdamW(module)
    with switches.dropout_set(False), limited(message["patience"]):
        for _ in range(message["steps"]):
            _backward(box, module, message, rest)
            optimizer.step()
        _backward(box, module, message, rest)
    flow = GradientFlow.of(module, ((n, p.grad) for n, p in module.named_parameters() if p.requires_grad))
    return {"norms": list(flow.norms.values()), "missing": flow.missing, "nonfinite": flow.nonfinite}, []


def _backward(box: _Box, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> None:
    module.zero_grad()
    loss_of(box, module, message, tensors).backward()  # type: ignore[no-untyped-call]


def _deepen(box: _Box, module: nn.Module, message: dict[str, Any], tensors: list[Tensor]) -> None:
    """Put the blocks of models that are built under other seeds behind those of the longest stack."""
    from runtime.inspection import blocks_of

    first = blocks_of(module)[0].rpartition(".")[0]
    stack = module.get_submodule(first)
    assert isinstance(stack, nn.ModuleList | nn.Sequential)
    for number in range(1, message["times"]):
        other, _ = constructed(box, {**message, "seed": message["seed"] + 1000 * number}, tensors)
        for block in list(other.get_submodule(first).children()):
            stack.append(block)


def attention_weights(box: _Box, message: dict[str, Any], tensors: list[Tensor]) -> Reply:
    """The weights of each attention that runs in one call, in order."""
    from runtime import AttentionRecorder

    module, rest = constructed(box, message, tensors)
    with torch.no_grad(), limited(message["patience"]), AttentionRecorder(message["most"]) as recorder:
        box.call(module.eval(), message, rest)
    weights = [one.float() for one in recorder.weights if math.prod(one.shape)]
    return {"count": len(weights)}, weights


OPERATIONS: dict[str, Operation] = {"gradients": gradients, "attention_weights": attention_weights}


def install() -> None:
    """Let boxes answer these requests too; before the nursery forks any."""
    trials.OPERATIONS.update(OPERATIONS)
