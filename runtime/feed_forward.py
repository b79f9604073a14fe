"""Gated feed-forward network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Gated activation `silu(gate) * up`, with `silu(x) = x * sigmoid(x)`.

    Shape:
        - gate, up: `(..., hidden_dim)`
        - output: `(..., hidden_dim)`

    Reference: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
    """
    return F.silu(gate) * up


def swiglu_width(hidden_dim: int, multiple_of: int = 8) -> int:
    """Hidden width at which a SwiGLU has about as many parameters as a plain feed-forward of width `hidden_dim`.

    Three matrices stand where two stood, so the width is `2/3 * hidden_dim`, rounded to the nearest multiple of
    `multiple_of` (halves up) and never below it.

    Args:
        hidden_dim: hidden width of the plain feed-forward, positive.
        multiple_of: positive; matrix kernels like widths that are multiples of 8.

    Raises:
        ValueError: if either is not positive.

    Reference: Shazeer 2020, section 2, arXiv 2002.05202.
    """
    if hidden_dim <= 0 or multiple_of <= 0:
        raise ValueError(f"hidden_dim and multiple_of must be positive, got {hidden_dim} and {multiple_of}")
    return max(1, (4 * hidden_dim + 3 * multiple_of) // (6 * multiple_of)) * multiple_of


class SwiGLU(nn.Module):
    """Feed-forward network with a gate: `down(dropout(silu(gate(x)) * up(x)))`.

    Args:
        embed_dim: width of input and output.
        hidden_dim: width of gate and up, taken as it is; `swiglu_width` gives the parameter-neutral one.
        bias: whether the three projections have a bias.
        dropout: probability of dropping a hidden unit in training, in [0, 1].

    Shape:
        - x: `(..., embed_dim)`
        - output: `(..., embed_dim)`

    State dict: `gate.weight` and `up.weight` `(hidden_dim, embed_dim)`, `down.weight` `(embed_dim, hidden_dim)`, and
    with `bias` `gate.bias`, `up.bias` `(hidden_dim,)` and `down.bias` `(embed_dim,)`.

    Raises:
        ValueError: if a width is not positive or `dropout` lies outside of [0, 1].

    Reference: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim <= 0 or hidden_dim <= 0:
            raise ValueError(f"embed_dim and hidden_dim must be positive, got {embed_dim} and {hidden_dim}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
        self.gate = nn.Linear(embed_dim, hidden_dim, bias)
        self.up = nn.Linear(embed_dim, hidden_dim, bias)
        self.down = nn.Linear(hidden_dim, embed_dim, bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = swiglu(self.gate(x), self.up(x))  # (..., F)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        output: Tensor = self.down(hidden)
        return output
