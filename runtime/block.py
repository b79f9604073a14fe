"""Pre-norm transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .cache import LayerCache
from .feed_forward import SwiGLU
from .rotary import RotaryEmbedding


class PreNormBlock(nn.Module):
    """Self-attention and gated feed-forward, each normalised at its input and added to the residual:

        x = x + dropout(out(attend(qkv(attention_norm(x)))))
        x = x + dropout(feed_forward(feed_forward_norm(x)))

    `attend` splits queries, keys and values into heads, rotates queries and keys if there is a rotary embedding, and
    puts the attended heads side by side again.

    Args:
        embed_dim: width of the residual, a multiple of `num_heads`.
        num_heads: positive.
        hidden_dim: hidden width of the feed-forward, taken as it is; see `swiglu_width`.
        causal: whether a position sees itself and earlier ones only.
        dropout: probability in training, on the attention weights and on what is added to the residual.
        rotary_base: base of the rotary embedding; None for no positions at all.
        norm: makes the two norms from `embed_dim`.
        bias: whether the linear layers have biases.

    Shape:
        - x: `(batch, seq_len, embed_dim)`
        - mask: boolean, True where a query may attend; broadcastable to `(batch, num_heads, seq_len, key_len)`
        - past_kv: cache of the keys and values of the positions before `x`, `key_len` of them with those of `x`;
          without a cache `key_len` is `seq_len`
        - output: `(batch, seq_len, embed_dim)`

    State dict: `qkv.weight` `(3 * embed_dim, embed_dim)` with the rows of queries, keys, values in this order and in
    each head by head, `out.weight` `(embed_dim, embed_dim)`, their biases if any, `feed_forward.*` as in `SwiGLU`, and
    what the two norms `attention_norm` and `feed_forward_norm` hold.

    Raises:
        ValueError: if `embed_dim` is no multiple of `num_heads`, the head width is odd with a rotary embedding, or
            `dropout` lies outside of [0, 1]; from a call with a cache, if the block is not causal, or as `attention`
            does.

    Reference: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", arXiv 2002.04745.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        rotary_base: float | None = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
        self.num_heads = num_heads
        self.causal = causal
        self.dropout = dropout
        self.attention_norm = norm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias)
        self.rotary = None if rotary_base is None else RotaryEmbedding(embed_dim // num_heads, rotary_base)
        self.out = nn.Linear(embed_dim, embed_dim, bias)
        self.feed_forward_norm = norm(embed_dim)
        self.feed_forward = SwiGLU(embed_dim, hidden_dim, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, past_kv: LayerCache | None = None) -> Tensor:
        if past_kv is not None and not self.causal:
            raise ValueError("only causal attention can be cached: here, earlier positions see later ones")
        x = x + self._drop(self._attend(self.attention_norm(x), mask, past_kv))
        return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))

    def _attend(self, x: Tensor, mask: Tensor | None, past_kv: LayerCache | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, H, T, D) each
        v = v.contiguous()  # a view would keep all of `qkv` in memory until the backward pass
        if self.rotary is not None:
            q, k = self.rotary(q, k, past_kv=past_kv)
        dropout_p = self.dropout if self.training else 0.0
        y = attention(q, k, v, mask=mask, causal=self.causal, dropout_p=dropout_p, past_kv=past_kv)
        output: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return output

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
