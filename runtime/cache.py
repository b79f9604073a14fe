"""Keys and values of the positions that have been computed already, for decoding token by token."""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_CAPACITY = 64


class LayerCache:
    """Keys and values of one attention: the first `length` positions of two buffers that are allocated once.

    Args:
        max_len: positions that there is room for; None for buffers that double when they are full.

    Shape: see `append`.
    """

    def __init__(self, max_len: int | None = None) -> None:
        self.max_len = max_len
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of the next positions, and gives those of all positions so far.

        Shape:
            - k: `(..., new_len, head_dim)`; v: `(..., new_len, value_dim)`
            - output: `(..., length + new_len, head_dim)` and `(..., length + new_len, value_dim)`, views of the buffers

        Raises:
            ValueError: if there is no room left, or the other axes differ from those of the first call.
        """
        start, end = self.length, self.length + k.size(-2)
        self.keys = self._with_room(self.keys, k, end)
        self.values = self._with_room(self.values, v, end)
        self.keys[..., start:end, :] = k
        self.values[..., start:end, :] = v
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :]

    def _with_room(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if self.max_len is not None and end > self.max_len:
            raise ValueError(f"the cache is full: it has room for {self.max_len} positions, and {end} are needed")
        if buffer is None:
            return _allocated(new, self.max_len if self.max_len is not None else max(end, _FIRST_CAPACITY))
        if buffer.shape[:-2] != new.shape[:-2] or buffer.size(-1) != new.size(-1):
            raise ValueError(f"the cache holds {tuple(buffer.shape)}, which {tuple(new.shape)} cannot be added to")
        if end <= buffer.size(-2):
            return buffer
        wider = _allocated(new, max(end, 2 * buffer.size(-2)))
        wider[..., : self.length, :] = buffer[..., : self.length, :]
        return wider


class KVCache:
    """Keys and values of all attentions of a stack, a `LayerCache` for each: `past_kv[i]` belongs to the i-th block.

    It is changed in place by the model that it is handed to. A new one is empty, and takes sizes, dtype and device
    from the first keys that it gets.

    Args:
        max_len: positions that there is room for, allocated once; None for buffers that double when they are full.

    Reference: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 3.1, arXiv 2211.05102.
    """

    def __init__(self, max_len: int | None = None) -> None:
        self.max_len = max_len
        self.layers: list[LayerCache] = []

    @property
    def length(self) -> int:
        """How many positions are cached."""
        return self.layers[0].length if self.layers else 0

    def __getitem__(self, layer: int) -> LayerCache:
        while len(self.layers) <= layer:
            self.layers.append(LayerCache(self.max_len))
        return self.layers[layer]

    def __bool__(self) -> bool:
        return True  # an empty cache is a cache: `past_kv and past_kv[i]` asks whether there is one

    def reset(self) -> None:
        """Forgets all positions; the buffers stay."""
        self.crop(0)

    def crop(self, length: int) -> None:
        """Forgets the positions from `length` on, as speculative decoding does with rejected tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length must lie in [0, {self.length}], got {length}")
        for layer in self.layers:
            layer.length = length

    def reorder(self, rows: Tensor) -> None:
        """Goes on with these rows of the batch, in this order: `rows` are the surviving beams of a beam search.

        Shape: rows `(new_batch,)`, integers.
        """
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = layer.keys.index_select(0, rows)
                layer.values = layer.values.index_select(0, rows)


def _allocated(like: Tensor, length: int) -> Tensor:
    return torch.empty(*like.shape[:-2], length, like.size(-1), dtype=like.dtype, device=like.device)
