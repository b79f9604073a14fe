"""A decoder made of runtime parts, as small as one can be: what the benchmarks set beside other libraries."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import runtime


class Decoder(nn.Module):
    """Token embedding, a causal stack with rotary positions, and a head.

    Shape: tokens `(batch, seq_len)` in, logits `(batch, seq_len, vocab_size)` out, of the positions in `tokens` alone.
    """

    def __init__(
        self, vocab_size: int, depth: int, embed_dim: int, num_heads: int, hidden_dim: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.stack = runtime.Encoder(
            depth, embed_dim, num_heads, hidden_dim, causal=True, rotary_base=10000.0, bias=False,
            norm=partial(nn.RMSNorm, eps=eps),
        )  # fmt: skip
        self.head = nn.Linear(embed_dim, vocab_size, bias=False)

    def forward(self, tokens: Tensor, past_kv: runtime.KVCache | None = None) -> Tensor:
        logits: Tensor = self.head(self.stack(self.tokens(tokens), past_kv=past_kv))
        return logits

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """`tokens` and the `count` likeliest ones behind them, each computed from the one before and the cache."""
        past_kv = runtime.KVCache(max_len=tokens.size(1) + count)
        new = tokens
        for _ in range(count):
            new = self(new, past_kv=past_kv)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens
