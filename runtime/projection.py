"""Queries, keys and values from one matmul, without a change to the parameters that make them."""

from __future__ import annotations

from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

Projection = Union[nn.Module, Tensor]

# Copying the weights side by side costs as much as multiplying a few hundred rows by them. On one CPU thread, one
# matmul instead of three took these shares of their time (without gradients, training step):
#   rows      width 128     width 512     width 1024
#   1         1.10, 0.93    2.55, 1.38    2.75, 1.48
#   64        0.95, 0.93    1.29, 1.08    1.29, 1.11
#   2048      0.97, 1.01    0.98, 1.01    1.03, 1.10
_MANY_ROWS = 1024
_SMALL_WEIGHTS = 1 << 16


class FusedProjection(nn.Module):
    """Several projections of one input as one matmul: `x [W_q; W_k; W_v]^T + [b_q; b_k; b_v]`, split again.

    The projections are handed to each call and stay where they are. So the names, shapes and order of parameters,
    checkpoints in both directions, optimizer state, weight decay groups and initialisation are what they were without
    this module.

    Weights are concatenated anew in each call, and autograd splits their gradient; in training that copy lives until
    the backward pass. A copy kept from call to call would be faster for one token, but it could not be kept right:
    `weight.data.copy_(...)`, by which averaged weights are swapped in, changes neither version nor address of the
    weight.

    Args:
        x: what all projections see.
        projections: each an `nn.Linear`, or the bare weight of one product per head.

    They are called one by one where one matmul would not pay (few rows and large weights), and where it would pass
    something by: subclasses and wrappers of `nn.Linear`, hooks, parametrizations, quantised or distributed weights,
    weights of different widths, dtypes or devices.

    Shape:
        - x: `(..., seq_len, in_features)`
        - weight of a Linear: `(out_features, in_features)`; its output: `(..., seq_len, out_features)`
        - bare weight: `(num_heads, head_dim, in_features)`; its output: `(..., num_heads, seq_len, head_dim)`
        - output: a tuple with one tensor for each projection, views of one tensor where one matmul was made. Autograd
          lets no such view be changed in place.

    State dict: empty.

    Parity: equal to the projections one by one, up to rounding, gradients included.

    Raises:
        ValueError: if a bare weight has not three axes.

    Reference: Shoeybi et al. 2019, "Megatron-LM", section 3, arXiv 1909.08053.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, *projections: Projection) -> tuple[Tensor, ...]:
        for weight in projections:
            if isinstance(weight, Tensor) and weight.ndim != 3:
                raise ValueError(f"a weight must be (num_heads, head_dim, in_features), got {tuple(weight.shape)}")
        if not all(_is_plain(projection) for projection in projections):
            return tuple(_project(x, projection) for projection in projections)
        weights = [_weight(projection) for projection in projections]
        if not _match(weights) or not _pays(x, weights):
            return tuple(_project(x, projection) for projection in projections)
        y = F.linear(x, torch.cat(weights), _bias(projections, weights))
        parts = torch.split(y, [weight.size(0) for weight in weights], dim=-1)
        return tuple(_in_shape(part, projection) for part, projection in zip(parts, projections, strict=True))


def _is_plain(projection: Projection) -> bool:
    """Whether calling the projection does nothing but multiply by its weight and add its bias."""
    if isinstance(projection, Tensor):
        return type(projection) in (Tensor, nn.Parameter)
    if type(projection) is not nn.Linear or "forward" in projection.__dict__ or _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    forward_hooks = projection._forward_hooks or projection._forward_pre_hooks
    backward_hooks = projection._backward_hooks or projection._backward_pre_hooks
    return not (forward_hooks or backward_hooks) and type(projection.weight) in (Tensor, nn.Parameter)


def _weight(projection: Projection) -> Tensor:
    if isinstance(projection, Tensor):
        return projection.flatten(0, 1)
    assert isinstance(projection, nn.Linear)
    return projection.weight


def _match(weights: list[Tensor]) -> bool:
    return len({(weight.size(-1), weight.dtype, weight.device) for weight in weights}) == 1


def _pays(x: Tensor, weights: list[Tensor]) -> bool:
    rows = x.numel() // x.size(-1)
    return rows >= _MANY_ROWS or sum(weight.numel() for weight in weights) <= _SMALL_WEIGHTS


def _bias(projections: tuple[Projection, ...], weights: list[Tensor]) -> Tensor | None:
    """The biases side by side; zeros for a projection that has none."""
    biases = [projection.bias if isinstance(projection, nn.Linear) else None for projection in projections]
    if all(bias is None for bias in biases):
        return None
    pairs = zip(biases, weights, strict=True)
    return torch.cat([weight.new_zeros(weight.size(0)) if bias is None else bias for bias, weight in pairs])


def _in_shape(y: Tensor, projection: Projection) -> Tensor:
    if isinstance(projection, Tensor):
        return y.view(*y.shape[:-1], *projection.shape[:2]).transpose(-3, -2)
    return y


def _project(x: Tensor, projection: Projection) -> Tensor:
    if isinstance(projection, Tensor):
        return torch.einsum("...tc,hdc->...htd", x, projection)
    y: Tensor = projection(x)
    return y
