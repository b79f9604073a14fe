"""Stack of pre-norm blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .block import PreNormBlock
from .cache import KVCache
from .checkpointing import GradientCheckpointing


class Encoder(GradientCheckpointing, nn.Module):
    """`depth` pre-norm blocks one after another, then a norm: `final_norm(block_N(... block_1(x)))`.

    Nothing normalises the residual of a pre-norm stack on its way, so its size grows with depth; the final norm gives
    the head inputs of a known size. `gradient_checkpointing_enable()` trades time for memory in training.

    Args:
        depth: number of blocks, positive.
        embed_dim, num_heads, hidden_dim, causal, dropout, rotary_base, norm, bias: as in `PreNormBlock`.
        final_norm: False leaves the final norm to the caller.

    Shape:
        - x: `(batch, seq_len, embed_dim)`
        - mask: boolean, True where a query may attend; broadcastable to `(batch, num_heads, seq_len, key_len)`
        - past_kv: cache of the keys and values of the positions before `x`, `key_len` of them with those of `x`;
          without a cache `key_len` is `seq_len`
        - output: `(batch, seq_len, embed_dim)`, of the positions in `x` alone

    State dict: `blocks.{0 .. depth - 1}.*` as in `PreNormBlock`, and what `final_norm` holds.

    Raises:
        ValueError: if `depth` is not positive, or as `PreNormBlock` does.

    Reference: Xiong et al. 2020, arXiv 2002.04745 (the final norm of pre-norm stacks).
    """

    def __init__(
        self,
        depth: int,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        rotary_base: float | None = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        bias: bool = True,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        if depth <= 0:
            raise ValueError(f"depth must be positive, got {depth}")
        self.blocks = nn.ModuleList(
            PreNormBlock(
                embed_dim,
                num_heads,
                hidden_dim,
                causal=causal,
                dropout=dropout,
                rotary_base=rotary_base,
                norm=norm,
                bias=bias,
            )
            for _ in range(depth)
        )
        self.final_norm = norm(embed_dim) if final_norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, past_kv: KVCache | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = self.checkpointed(block, x, mask, past_kv=past_kv and past_kv[i])
        output: Tensor = self.final_norm(x)
        return output
