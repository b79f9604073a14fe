"""Attention with linear biases (ALiBi)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cache import LayerCache


class Alibi(nn.Module):
    """Bias that lowers the scores of far keys, in proportion to the distance: a position encoding without embedding.

    Head `h` adds to the score of the query at position `i` and the key at position `j`

        bias[h, i, j] = -slope[h] * |i - j|

    The slopes of `n` heads, `n` a power of two, are the geometric sequence `2**(-8 h / n)`, `h = 1 .. n`. Other counts
    take those of the next lower power of two `m`, then every second one of the sequence of `2 m`, as the authors do.
    The distance is symmetric; `attention(..., causal=True)` hides the later keys.

    Args:
        num_heads: positive.

    Shape:
        - q: `(..., query_len, head_dim)`; only its length, dtype and device are read
        - k: `(..., key_len, head_dim)`; only its length is read
        - offset: taken for the sake of one signature with `RotaryEmbedding`; distances do not depend on it
        - past_kv: cache of the keys before `k`, whose number is added to `key_len`
        - output: `(num_heads, query_len, key_len)` in the dtype of `q`. With fewer queries than keys the queries are
          the last positions (lower-right aligned), as in decoding with a cache.

    State dict: empty.

    Parity: distances and products are float32 (float64 for float64 queries) and rounded once at the end.

    Raises:
        ValueError: if `num_heads` is not positive.

    Reference: Press et al. 2021, "Train Short, Test Long", arXiv 2108.12409.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        if num_heads <= 0:
            raise ValueError(f"num_heads must be positive, got {num_heads}")
        self.num_heads = num_heads

    def slopes(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The slopes `(num_heads,)`, from steep to shallow within each of the two sequences."""
        power = 1 << (self.num_heads.bit_length() - 1)
        head = torch.arange(1, self.num_heads + 1, device=device, dtype=dtype)
        between = 8 * (head - power) - 4  # odd members of the sequence of twice the length
        return torch.exp2(-torch.where(head <= power, 8 * head, between) / power)

    def forward(self, q: Tensor, k: Tensor, offset: int = 0, past_kv: LayerCache | None = None) -> Tensor:
        query_len, key_len = q.size(-2), k.size(-2)
        if past_kv is not None:
            key_len = key_len + past_kv.length
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        i = torch.arange(key_len - query_len, key_len, device=q.device, dtype=dtype)[:, None]
        j = torch.arange(key_len, device=q.device, dtype=dtype)
        slopes = self.slopes(q.device, dtype)[:, None, None]  # (H, 1, 1)
        return ((i - j).abs() * -slopes).to(q.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_heads}"
