"""Keys and values of the positions that have been computed already, for decoding token by token."""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_CAPACITY = 64


class LayerCache:
    """Keys and values of one attention: the first `length` positions of two buffers.

    Without gradients the buffers are allocated ahead, and `append` writes into them. Where autograd records, `append`
    joins old and new positions in new tensors instead: a buffer that is written again later would spoil what the
    backward pass of an earlier step needs. Gradients through the cache are then those of the whole sequence, and a
    step costs a copy of what is cached; decode under `torch.no_grad()` or `torch.inference_mode()`.

    Args:
        max_len: positions that there is room for; None for buffers that double when they are full.
        before: the cache of the attention that runs before this one in each step; None for the first one.

    Shape:
        - k: `(batch, ..., new_len, head_dim)`
        - v: `(batch, ..., new_len, value_dim)`
        - output of `append`: `(batch, ..., length, head_dim)` and `(batch, ..., length, value_dim)` with the length
          after it. They share memory with the buffers: read them, do not change them.

    State dict: none, it is no module. Copies and pickles take the buffers along.

    Raises:
        ValueError: if `max_len` is negative; from `append`, if `k` and `v` differ in length, there is no room left,
            or batch, heads, widths, dtype or device are not those of what is cached.
        RuntimeError: from `append`, if the cache before this one does not hold the same positions afterwards, because
            an earlier step was broken off half-way or a block was left out; `reset` of the `KVCache` mends it.
        Nothing has been stored when `append` raises.

    Reference: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 3.1, arXiv 2211.05102.
    """

    def __init__(self, max_len: int | None = None, before: LayerCache | None = None) -> None:
        if max_len is not None and max_len < 0:
            raise ValueError(f"max_len must not be negative, got {max_len}")
        self.max_len = max_len
        self.before = before
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of the next positions, and gives those of all positions so far."""
        end = self.length + k.size(-2)
        self._check(k, v, end)
        self.keys = self._extended(self.keys, k, end)
        self.values = self._extended(self.values, v, end)
        self.length = end
        return self.keys.narrow(-2, 0, end), self.values.narrow(-2, 0, end)

    def _check(self, k: Tensor, v: Tensor, end: int) -> None:
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(f"one value per key is needed, got k {tuple(k.shape)} and v {tuple(v.shape)}")
        if self.max_len is not None and end > self.max_len:
            raise ValueError(f"the cache is full: it has room for {self.max_len} positions, and {end} are needed")
        for cached, new in ((self.keys, k), (self.values, v)):
            if cached is not None and self.length and not _alike(cached, new):
                raise ValueError(f"the cache holds {_described(cached)}, to which {_described(new)} cannot be added")
        if self.before is not None and self.before.length != end:
            raise RuntimeError(
                f"this layer of the cache would hold {end} positions, the one before it holds {self.before.length}: "
                "a step was broken off or a block left out; reset() the cache"
            )

    def _extended(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        """A buffer with room for `end` positions that holds the cached ones, then the new ones."""
        start = self.length
        old = None if buffer is None or not start else buffer.narrow(-2, 0, start)
        if torch.is_grad_enabled():
            return new.clone() if old is None else torch.cat((old, new), -2)
        if buffer is None or not _writable(buffer, new, end):
            capacity = buffer.size(-2) if buffer is not None else 0
            length = max(end, 2 * capacity, _FIRST_CAPACITY) if self.max_len is None else self.max_len
            buffer = new.new_zeros(*new.shape[:-2], length, new.size(-1))
            if old is not None:
                buffer.narrow(-2, 0, start).copy_(old)
        buffer.narrow(-2, start, end - start).copy_(new)
        return buffer


class KVCache:
    """Keys and values of all attentions of a stack, a `LayerCache` for each: `past_kv[i]` belongs to the i-th block.

    It is changed in place by the model that it is handed to. A new one is empty, and takes sizes, dtype and device
    from the first keys that it gets; so does one that was `reset`. The blocks run in order, each of them once a step.
    An empty cache is true, so that `past_kv and past_kv[i]` asks whether there is a cache at all.

    Args:
        max_len: positions that there is room for, allocated once; None for buffers that double when they are full.

    Shape: as in `LayerCache`. The batch is the first axis, which `reorder` takes rows of.

    State dict: none, it is no module. Copies and pickles take the buffers along.

    Raises:
        ValueError: if `max_len` is negative, or there are not as many positions as `crop` is to leave.
        IndexError: if `past_kv[i]` skips layers that no step has used yet.

    Reference: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 3.1, arXiv 2211.05102.
    """

    def __init__(self, max_len: int | None = None) -> None:
        if max_len is not None and max_len < 0:
            raise ValueError(f"max_len must not be negative, got {max_len}")
        self.max_len = max_len
        self.layers: list[LayerCache] = []

    @property
    def length(self) -> int:
        """How many positions are cached in all layers. During a step, the new ones do not count yet."""
        return self.layers[-1].length if self.layers else 0

    def __getitem__(self, layer: int) -> LayerCache:
        made = len(self.layers)
        if layer == made:
            self.layers.append(LayerCache(self.max_len, self.layers[-1] if made else None))
        elif not 0 <= layer < made:
            raise IndexError(f"blocks take their layers of the cache in order: {made} so far, layer {layer} was asked")
        return self.layers[layer]

    def __bool__(self) -> bool:
        return True

    def reset(self) -> None:
        """Forgets all positions; the buffers stay for the next sequence."""
        self.crop(0)

    def crop(self, length: int) -> None:
        """Forgets the positions from `length` on, as speculative decoding does with rejected tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length must lie in [0, {self.length}], got {length}")
        for layer in self.layers:
            layer.length = length

    def reorder(self, rows: Tensor) -> None:
        """Goes on with these rows of the batch, in this order: those of the surviving beams of a beam search.

        Shape: rows `(new_batch,)`, integers.
        """
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)


def _alike(cached: Tensor, new: Tensor) -> bool:
    return (
        cached.shape[:-2] == new.shape[:-2]
        and cached.size(-1) == new.size(-1)
        and cached.dtype == new.dtype
        and cached.device == new.device
    )


def _writable(buffer: Tensor, new: Tensor, end: int) -> bool:
    """Whether `new` fits into `buffer`, and neither autograd nor the end of inference mode forbids to write there."""
    if buffer.requires_grad or end > buffer.size(-2) or not _alike(buffer, new):
        return False
    # torch.compile asks for nothing of inference mode, and knows no `is_inference`.
    return torch.compiler.is_compiling() or not buffer.is_inference() or torch.is_inference_mode_enabled()


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"
