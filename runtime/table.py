"""Tables over positions: computed once, grown on demand, and never part of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_Key = tuple[int, torch.device, torch.dtype]


class PositionTable(nn.Module):
    """Base of modules that read rows of a function of the position, `f(position) -> (..., width)`.

    The table is a plain attribute. It is neither a parameter nor a buffer, so `.half()`, `.double()` and `.to(dtype)`
    cannot round it, and checkpoints, deep copies and pickles do not carry it. A call that asks for another width,
    device or dtype builds a new one; a call that asks for more rows at least doubles it.

    Shape: see the subclasses.

    State dict: empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cache: tuple[_Key, Tensor] | None = None

    def compute(self, positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """The rows `(..., len(positions), width)` of the given integer positions."""
        raise NotImplementedError

    def rows(self, offset: int, length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The rows of positions `offset` to `offset + length - 1`, as a view of the table.

        Raises:
            ValueError: if `offset` is negative.
        """
        if offset < 0:
            raise ValueError(f"offset must not be negative, got {offset}")
        key, end, have = (width, device, dtype), offset + length, 0
        if self._cache is not None and self._cache[0] == key:
            table = self._cache[1]
            have = table.size(-2)
            if have >= end:
                return table.narrow(-2, offset, length)
        if torch.compiler.is_compiling():
            # A compiled graph must not leave its outputs behind in the module: CUDA graphs overwrite them.
            return self.compute(torch.arange(offset, end, device=device), width, dtype)
        return self._grow(key, max(end, 2 * have)).narrow(-2, offset, length)

    def _grow(self, key: _Key, length: int) -> Tensor:
        width, device, dtype = key
        # Autograd refuses to save tensors that were made in inference mode, and the next call may well be training.
        with torch.inference_mode(False), torch.no_grad():
            table = self.compute(torch.arange(length, device=device), width, dtype)
        if type(table) is Tensor:  # a fake tensor of some tracer would poison later calls
            self._cache = (key, table)
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}
