"""Additive sinusoidal position encoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cache import KVCache, LayerCache
from .table import PositionTable


class SinusoidalPositionalEncoding(PositionTable):
    """Adds sines of the position to the embeddings.

    Position `u` and channel `j`, with `k = j mod 2` and `C = embed_dim`, give

        table[u, j] = sin(u / base**((j - k) / C) + k * pi / 2)

    that is, a sine in the even channels and a cosine of the same phase in the odd ones.

    Args:
        base: longest wavelength divided by 2 pi; positive.

    Shape:
        - x: `(..., seq_len, embed_dim)`, any `embed_dim`, odd ones included
        - offset: position of the first row of `x`; not negative
        - past_kv: cache of the positions before these; its length is added to `offset`
        - output: as `x`

    State dict: empty, so a checkpoint of a module that computed the encoding in its forward loads with `strict=True`.

    Parity: bit-equal to the formula above spelt out in the forward, in the same order of operations. The table has
    torch's default dtype and the sum is an ordinary one: half-precision embeddings come out in the default dtype, as
    they do there.

    Raises:
        ValueError: if `base` is not positive, or `offset` is negative.

    Reference: Vaswani et al. 2017, "Attention Is All You Need", section 3.5, arXiv 1706.03762.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        if not base > 0:
            raise ValueError(f"base must be positive, got {base}")
        self.base = base

    def compute(self, positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        # The order of these operations is the interface: another one rounds differently. Integers become floats of
        # the default dtype on their own, which is why `dtype` only keys the table.
        u = positions[:, None]  # (T, 1)
        j = torch.arange(width, device=positions.device)[None, :]  # (1, C)
        k = j % 2
        t = u / (self.base ** ((j - k) / width)) + math.pi / 2 * k
        return torch.sin(t)

    def forward(self, x: Tensor, offset: int = 0, past_kv: KVCache | LayerCache | None = None) -> Tensor:
        if past_kv is not None:
            offset = offset + past_kv.length
        return x + self.rows(offset, x.size(-2), x.size(-1), x.device, torch.get_default_dtype())

    def extra_repr(self) -> str:
        return f"base={self.base:g}"
