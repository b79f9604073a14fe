"""Gradient checkpointing behind a switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_Result = TypeVar("_Result")


class GradientCheckpointing:
    """Base, beside `nn.Module`, of models that can give up the activations inside their blocks to save memory.

    `model.gradient_checkpointing_enable()` has the blocks of `model` and of all modules below it computed a second
    time in the backward pass; the model calls them as `self.checkpointed(block, x)`. It takes about a third more
    time, and the memory of one block instead of all. It has no effect in evaluation, without gradients, or while
    decoding with a cache.

    Args: none; a subclass needs no call of its `__init__`.

    Shape: as those of the blocks that are called.

    State dict: none of its own.

    Parity: outputs, gradients and random numbers are those without checkpointing; both passes of a block draw the
    same ones.

    Raises:
        TypeError: if it is switched on something that is no `nn.Module`.

    Reference: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
    """

    gradient_checkpointing = False

    def gradient_checkpointing_enable(self) -> None:
        """Switches it on for this module and those below it."""
        self._switch(True)

    def gradient_checkpointing_disable(self) -> None:
        """Switches it off again."""
        self._switch(False)

    def _switch(self, on: bool) -> None:
        if not isinstance(self, nn.Module):
            raise TypeError(f"gradient checkpointing is for modules, {type(self).__name__} is none")
        for module in self.modules():
            if isinstance(module, GradientCheckpointing):
                module.gradient_checkpointing = on

    def checkpointed(
        self, block: Callable[..., _Result], /, *args: object, past_kv: object = None, **named: Any
    ) -> _Result:
        """`block(*args, **named)`, its activations dropped and computed again in the backward pass if so switched.

        With a cache this is `block(*args, past_kv=past_kv, **named)`, and nothing is dropped.
        """
        if past_kv is not None:
            return block(*args, past_kv=past_kv, **named)
        if self.gradient_checkpointing and getattr(self, "training", False) and torch.is_grad_enabled():
            result: _Result = checkpoint(block, *args, use_reentrant=False, **named)
            return result
        return block(*args, **named)
