"""Rotary position embedding of queries and keys."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .cache import LayerCache
from .table import PositionTable

Layout = Literal["interleaved", "half"]


class RotaryEmbedding(PositionTable):
    """Rotates pairs of channels of queries and keys by angles proportional to their positions.

    Pair `i` of a row at position `m` turns by the phase `m * base**(-2 i / dim)`:

        (a, b) -> (a cos(phase) - b sin(phase), a sin(phase) + b cos(phase))

    so that the product of a query at `m` and a key at `n` depends on `m - n` alone. Values are never rotated.

    Args:
        dim: width of one head, even.
        base: longest wavelength divided by 2 pi; positive.
        layout: which channels form pair `i`: `"interleaved"` takes `(2 i, 2 i + 1)`, as in the paper; `"half"` takes
            `(i, i + dim / 2)`, as in GPT-NeoX and LLaMA checkpoints. One is a permutation of the other's channels,
            so a checkpoint fits only the layout that it was trained with.

    Shape:
        - q: `(..., query_len, dim)`
        - k: `(..., key_len, dim)`
        - offset: position of the first row of `q` and of `k`
        - past_kv: cache of the positions before these; its length is added to `offset`. Keys are cached rotated.
        - output: the rotated `(q, k)`, in their own shapes and dtypes

    State dict: empty.

    Parity: phases, sines and products are float32 for half-precision inputs, and float64 for float64 ones; `.half()`
    and `.double()` of the model change nothing of that.

    Raises:
        ValueError: if `dim` is odd or not positive, `base` is not positive, `layout` is unknown, `offset` is
            negative, or the last axis of `q` or `k` is not `dim`.

    Reference: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864.
    """

    def __init__(self, dim: int, base: float = 10000.0, layout: Layout = "interleaved") -> None:
        super().__init__()
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim must be positive and even, because channels turn in pairs; got {dim}")
        if not base > 0:
            raise ValueError(f"base must be positive, got {base}")
        if layout not in ("interleaved", "half"):
            raise ValueError(f"layout must be 'interleaved' or 'half', got {layout!r}")
        self.dim = dim
        self.base = base
        self.layout: Layout = layout

    def compute(self, positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """Cosine and sine of each pair beside each other, `(len(positions), dim)`; for the layout `half` cosines, and
        sines with the sign that each channel's partner gets, `(2, len(positions), dim)`."""
        pairs = torch.arange(0, width, 2, device=positions.device, dtype=dtype)
        phase = positions.to(dtype)[:, None] * self.base ** (-pairs / width)  # (T, D/2)
        cos, sin = phase.cos(), phase.sin()
        if self.layout == "half":
            return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
        return torch.stack((cos, sin), -1).flatten(-2)

    def forward(
        self, q: Tensor, k: Tensor, offset: int = 0, past_kv: LayerCache | None = None
    ) -> tuple[Tensor, Tensor]:
        if q.size(-1) != self.dim or k.size(-1) != self.dim:
            raise ValueError(f"the last axis must be dim={self.dim}, got q {tuple(q.shape)} and k {tuple(k.shape)}")
        if past_kv is not None:
            offset = offset + past_kv.length
        query_len, key_len = q.size(-2), k.size(-2)
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        rows = self.rows(offset, max(query_len, key_len), self.dim, q.device, dtype)
        if query_len == key_len:
            return self._rotate(q, rows), self._rotate(k, rows)
        return self._rotate(q, rows[..., :query_len, :]), self._rotate(k, rows[..., :key_len, :])

    def _rotate(self, x: Tensor, rows: Tensor) -> Tensor:
        if self.layout == "half":
            # Two products and one shuffle; the mixed dtypes are cast inside the kernels, not copied beforehand.
            cos, sin = rows.unbind()
            return torch.addcmul(x * cos, x.roll(self.dim // 2, -1), sin).to(x.dtype)
        pairs, turns = _in_pairs(x.to(rows.dtype)), _in_pairs(rows)
        if torch.compiler.is_compiling():  # which fuses real products, and leaves complex ones alone
            (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)
        turned = torch.view_as_complex(_dense(pairs)) * torch.view_as_complex(turns)
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base:g}, layout={self.layout!r}"


def _in_pairs(x: Tensor) -> Tensor:
    """`(..., dim / 2, 2)`."""
    pairs: Tensor = x.unflatten(-1, (-1, 2))  # type: ignore[no-untyped-call]
    return pairs


def _dense(pairs: Tensor) -> Tensor:
    """As it is, if a complex number could stand where each pair stands; else a copy."""
    *outer, last = pairs.stride()
    fits = last == 1 and not any(stride % 2 for stride in outer) and not pairs.storage_offset() % 2
    return pairs if fits else pairs.contiguous()
