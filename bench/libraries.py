"""The same decoder in several libraries: rotary positions, SwiGLU, RMSNorm, no biases. `bench.peers` compares them.

Where a library offers a choice, it gets what its own documentation or sampling loop takes: fused attention, caches, and
attention over no more than the positions so far. A library is imported when its model is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

from bench.reference import Decoder

EPS = 1e-5


@dataclass(frozen=True)
class Size:
    """What all decoders have in common."""

    vocabulary: int = 4096
    depth: int = 8
    width: int = 512
    heads: int = 8
    hidden: int = 1376
    longest: int = 2048


@dataclass(frozen=True)
class Peer:
    """One library's model: logits of tokens, and greedy tokens behind a prompt, where it has a cache for that."""

    name: str
    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    generate: Callable[[Tensor, int], Tensor] | None = None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def ours(size: Size) -> Peer:
    model = Decoder(size.vocabulary, size.depth, size.width, size.heads, size.hidden, EPS)
    return Peer("runtime", model, model, model.generate)


def llama(size: Size) -> Peer:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.hidden, rms_norm_eps=EPS,
        num_hidden_layers=size.depth, num_attention_heads=size.heads, max_position_embeddings=size.longest,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)

    def generate(tokens: Tensor, count: int) -> Tensor:
        cache, new = DynamicCache(), tokens
        for _ in range(count):
            new = model(new, cache=cache, use_cache=True).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    return Peer("transformers", model, lambda tokens: model(tokens, use_cache=False).logits, generate)


def litgpt(size: Size) -> Peer:
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        n_layer=size.depth, n_embd=size.width, n_head=size.heads, vocab_size=size.vocabulary,
        padded_vocab_size=size.vocabulary, bias=False, block_size=size.longest, rotary_percentage=1.0, norm_eps=EPS,
        parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=size.hidden,
    )  # fmt: skip
    model = GPT(config)

    def generate(tokens: Tensor, count: int) -> Tensor:
        model.set_kv_cache(batch_size=tokens.size(0), max_seq_length=tokens.size(1) + count)
        new, position = tokens, torch.arange(tokens.size(1))
        for _ in range(count):
            new = model(new, position, input_pos_maxp1=tokens.size(1))[:, -1:].argmax(-1)
            tokens, position = torch.cat([tokens, new], dim=1), position[-1:] + 1
        model.clear_kv_cache()
        return tokens

    return Peer("litgpt", model, model, generate)


def torchtune(size: Size) -> Peer:
    from torchtune.models.llama2 import llama2

    model = llama2(
        vocab_size=size.vocabulary, num_layers=size.depth, num_heads=size.heads, num_kv_heads=size.heads,
        embed_dim=size.width, intermediate_dim=size.hidden, max_seq_len=size.longest, norm_eps=EPS,
    )  # fmt: skip

    def generate(tokens: Tensor, count: int) -> Tensor:
        batch, length = tokens.shape
        total = length + count
        model.setup_caches(batch_size=batch, dtype=torch.float32, decoder_max_seq_len=total)
        mask = torch.ones(total, total, dtype=torch.bool).tril()
        new, position = tokens, torch.arange(length)
        for _ in range(count):
            rows = mask[position].expand(batch, -1, -1)
            new = model(new, mask=rows, input_pos=position.expand(batch, -1))[:, -1:].argmax(-1)
            tokens, position = torch.cat([tokens, new], dim=1), position[-1:] + 1
        _without_caches(model)
        return tokens

    return Peer("torchtune", model, model, generate)


def _without_caches(model: Any) -> None:
    """torchtune has a function to delete caches for its own context manager alone."""
    for layer in model.layers:
        layer.attn.kv_cache, layer.attn.cache_enabled = None, False
    model.decoder_max_cache_seq_len = None


def x_transformers(size: Size) -> Peer:
    from x_transformers import AutoregressiveWrapper, TransformerWrapper
    from x_transformers import Decoder as Layers

    head_dim = size.width // size.heads
    layers = Layers(
        dim=size.width, depth=size.depth, heads=size.heads, attn_dim_head=head_dim, rotary_emb_dim=head_dim,
        attn_flash=True, rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True,
        ff_mult=size.hidden / size.width, verbose=False,
    )  # fmt: skip
    model = TransformerWrapper(
        num_tokens=size.vocabulary, max_seq_len=size.longest, attn_layers=layers, use_abs_pos_emb=False
    )
    sampler = AutoregressiveWrapper(model)

    def generate(tokens: Tensor, count: int) -> Tensor:
        new: Tensor = sampler.generate(tokens, count, temperature=0.0, cache_kv=True)
        return torch.cat([tokens, new], dim=1)

    return Peer("x-transformers", model, model, generate)


class _Torch(nn.Module):
    """torch's own layers: no rotary positions, no gate (so a wider feed-forward), and no cache."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        hidden = size.hidden * 3 // 2  # two products of this width have the parameters of three
        layer = nn.TransformerEncoderLayer(
            size.width, size.heads, hidden, 0.0, batch_first=True, norm_first=True, bias=False
        )
        norm = nn.LayerNorm(size.width, bias=False)
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.stack = nn.TransformerEncoder(layer, size.depth, norm, enable_nested_tensor=False)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.size(1))
        logits: Tensor = self.head(self.stack(self.tokens(tokens), mask=mask, is_causal=True))
        return logits


def torch_encoder(size: Size) -> Peer:
    model = _Torch(size)
    return Peer("nn.TransformerEncoder", model, model)


MAKERS: dict[str, Callable[[Size], Peer]] = {
    "runtime": ours, "transformers": llama, "litgpt": litgpt, "torchtune": torchtune, "x-transformers": x_transformers,
    "nn.TransformerEncoder": torch_encoder,
}  # fmt: skip
