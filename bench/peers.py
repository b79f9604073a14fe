"""The runtime beside other libraries: the same decoder, the same inputs, in turn in one run.

Eight layers of width 512, eight heads, rotary positions, SwiGLU of width 1376, RMSNorm, a vocabulary of 4096, float32,
one thread. Each row is the median of some rounds; in a round every library has its turn. `make bench-peers` installs
the libraries into an environment of their own; what is not installed is said.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from bench.reference import Decoder

VOCABULARY, DEPTH, WIDTH, HEADS, HIDDEN, LONGEST = 4096, 8, 512, 8, 1376, 2048
PROMPT, NEW = 16, 128
START, END = "<!-- peers -->", "<!-- end of peers -->"
Call = Callable[[Tensor], Tensor]


@dataclass
class Peer:
    """One library's model: logits of tokens, and greedy tokens behind a prompt, where it has a cache for that."""

    name: str
    module: nn.Module
    forward: Call
    generate: Callable[[Tensor, int], Tensor] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


# --- the libraries ------------------------------------------------------------------------------------------------


def ours() -> Peer:
    model = Decoder(VOCABULARY, DEPTH, WIDTH, HEADS, HIDDEN)
    return Peer("runtime", model, model, model.generate)


def llama() -> Peer:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH,
        num_attention_heads=HEADS, max_position_embeddings=LONGEST, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)

    def generate(tokens: Tensor, count: int) -> Tensor:
        cache, new = DynamicCache(), tokens
        for _ in range(count):
            new = model(new, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    return Peer("transformers", model, lambda tokens: model(tokens, use_cache=False).logits, generate)


def litgpt() -> Peer:
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        n_layer=DEPTH, n_embd=WIDTH, n_head=HEADS, vocab_size=VOCABULARY, padded_vocab_size=VOCABULARY, bias=False,
        block_size=LONGEST, rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=HIDDEN,
    )  # fmt: skip
    model = GPT(config)

    def generate(tokens: Tensor, count: int) -> Tensor:
        model.set_kv_cache(batch_size=tokens.size(0), max_seq_length=tokens.size(1) + count)
        new, position = tokens, torch.arange(tokens.size(1))
        for _ in range(count):
            new = model(new, position)[:, -1:].argmax(-1)
            tokens, position = torch.cat([tokens, new], dim=1), position[-1:] + 1
        model.clear_kv_cache()
        model.max_seq_length = LONGEST
        return tokens

    return Peer("litgpt", model, model, generate)


def torchtune() -> Peer:
    from torchtune.models.llama2 import llama2

    model = llama2(
        vocab_size=VOCABULARY, num_layers=DEPTH, num_heads=HEADS, num_kv_heads=HEADS, embed_dim=WIDTH,
        intermediate_dim=HIDDEN, max_seq_len=LONGEST,
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


def x_transformers() -> Peer:
    from x_transformers import AutoregressiveWrapper, TransformerWrapper
    from x_transformers import Decoder as Layers

    layers = Layers(
        dim=WIDTH, depth=DEPTH, heads=HEADS, attn_flash=True, rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True,
        ff_swish=True, ff_no_bias=True, ff_mult=HIDDEN / WIDTH,
    )  # fmt: skip
    model = TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=LONGEST, attn_layers=layers, use_abs_pos_emb=False)
    sampler = AutoregressiveWrapper(model)

    def generate(tokens: Tensor, count: int) -> Tensor:
        new: Tensor = sampler.generate(tokens, count, temperature=0.0, cache_kv=True)
        return torch.cat([tokens, new], dim=1)

    return Peer("x-transformers", model, model, generate)


class _Torch(nn.Module):
    """torch's own layers: no rotary positions, no gate (so a wider feed-forward), and no cache."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN * 3 // 2, 0.0, batch_first=True, norm_first=True)
        self.tokens, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.stack = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.size(1))
        logits: Tensor = self.head(self.stack(self.tokens(tokens), mask=mask, is_causal=True))
        return logits


def torch_encoder() -> Peer:
    model = _Torch()
    return Peer("nn.TransformerEncoder", model, model)


PEERS = {
    "runtime": ours, "transformers": llama, "litgpt": litgpt, "torchtune": torchtune, "x-transformers": x_transformers,
    "nn.TransformerEncoder": torch_encoder,
}  # fmt: skip


# --- what is timed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One activity, at a batch size and a length."""

    name: str
    batch: int
    length: int

    def act(self, peer: Peer) -> Callable[[], object] | None:
        """What a library has to do; None if it cannot."""
        tokens = torch.randint(VOCABULARY, (self.batch, self.length), generator=torch.Generator().manual_seed(0))
        if self.name == "training step":
            return lambda: _train(peer, tokens)
        if self.name == "greedy tokens":
            generate, prompt = peer.generate, tokens[:, :PROMPT]
            return None if generate is None else lambda: _quiet(lambda: generate(prompt, self.length))
        return lambda: _quiet(lambda: peer.forward(tokens))

    @property
    def words(self) -> str:
        if self.name == "greedy tokens":
            return f"{self.length} greedy tokens, batch {self.batch}"
        return f"{self.name}, {self.length} tokens"


def _quiet(act: Callable[[], object]) -> None:
    with torch.no_grad():
        act()


def _train(peer: Peer, tokens: Tensor) -> None:
    """Forward, backward and nothing else: optimizers are the same for all."""
    peer.module.zero_grad()
    logits = peer.forward(tokens)
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()


def rows(new: int) -> list[Row]:
    return [
        Row("forward", 1, 512), Row("forward", 1, LONGEST), Row("training step", 1, 512),
        Row("greedy tokens", 1, new), Row("greedy tokens", 8, new),
    ]  # fmt: skip


def timed(row: Row, peers: list[Peer], rounds: int) -> None:
    acts = [(peer, act) for peer in peers if (act := row.act(peer)) is not None]
    for number in range(rounds + 1):
        for peer, act in acts:
            start = time.perf_counter()
            act()
            if number:  # the first round warms up
                peer.seconds.setdefault(row.words, []).append(time.perf_counter() - start)


def peak(act: Callable[[], object]) -> float:
    """MiB that torch's allocator hands out at the most during a call."""
    act()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        act()
    held = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest / 2**20


# --- the limit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What this machine can do on one thread: bytes read in a second, and float32 operations of a matmul."""

    bandwidth: float
    rate: float

    @classmethod
    def measured(cls) -> Limits:
        block = torch.randn(64 << 20)
        target = torch.empty_like(block)
        copy = min(_seconds(lambda: target.copy_(block)) for _ in range(5))
        left, right = torch.randn(2048, 1024), torch.randn(1024, 2048)
        product = min(_seconds(lambda: left @ right) for _ in range(10))
        return cls(2 * 4 * block.numel() / copy, 2 * 2048 * 1024 * 2048 / product)

    def of(self, row: Row, peer: Peer) -> float:
        """Seconds that a row cannot go below: weights read once for each token, or its multiplications."""
        weights = peer.parameters - VOCABULARY * WIDTH  # a row of the embedding is all that is read of it
        if row.name == "greedy tokens":
            scores = 4 * WIDTH * DEPTH * sum(range(PROMPT, PROMPT + row.length)) * row.batch
            products = (2 * weights * row.batch * row.length + scores) / self.rate
            return max(4 * weights * row.length / self.bandwidth, products)
        operations = 2 * weights * row.length + 4 * WIDTH * DEPTH * row.length**2 / 2
        return operations * (3 if row.name == "training step" else 1) / self.rate


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


# --- is it the same thing? ----------------------------------------------------------------------------------------


def llama_difference(peer: Peer) -> float:
    """The largest difference of logits between transformers' LLaMA and ours with the same weights."""
    model = Decoder(VOCABULARY, DEPTH, WIDTH, HEADS, HIDDEN).eval()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    theirs = peer.module.state_dict()
    state["tokens.weight"], state["head.weight"] = theirs["model.embed_tokens.weight"], theirs["lm_head.weight"]
    state["stack.final_norm.weight"] = theirs["model.norm.weight"]
    for i in range(DEPTH):
        own, other = f"stack.blocks.{i}", f"model.layers.{i}"
        q, k, v = (theirs[f"{other}.self_attn.{name}_proj.weight"] for name in "qkv")
        state[f"{own}.qkv.weight"] = torch.cat([_paired(q), _paired(k), v])
        state[f"{own}.out.weight"] = theirs[f"{other}.self_attn.o_proj.weight"]
        state[f"{own}.attention_norm.weight"] = theirs[f"{other}.input_layernorm.weight"]
        state[f"{own}.feed_forward_norm.weight"] = theirs[f"{other}.post_attention_layernorm.weight"]
        for name in ("gate", "up", "down"):
            state[f"{own}.feed_forward.{name}.weight"] = theirs[f"{other}.mlp.{name}_proj.weight"]
    model.load_state_dict(state)
    for block in model.stack.blocks:
        block.attention_norm.eps = block.feed_forward_norm.eps = peer.module.config.rms_norm_eps
    model.stack.final_norm.eps = peer.module.config.rms_norm_eps
    tokens = torch.randint(VOCABULARY, (2, 37))
    with torch.no_grad():
        return float((model(tokens) - peer.forward(tokens)).abs().max())


def _paired(weight: Tensor) -> Tensor:
    """Rows of a head as LLaMA rotates them, (i, i + D/2), in our order: the two of a pair beside each other."""
    return weight.view(HEADS, 2, -1, WIDTH).transpose(1, 2).reshape(-1, WIDTH)


# --- the table ----------------------------------------------------------------------------------------------------


def installed() -> tuple[list[Peer], list[str]]:
    found, missing = [], []
    for name, make in PEERS.items():
        try:
            torch.manual_seed(0)
            found.append(make())
        except Exception as error:
            missing.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:100]}")
    return found, missing


def table(peers: list[Peer], measured: list[Row], memory: dict[str, float], limits: Limits, rounds: int) -> str:
    own, others = peers[0], peers[1:]
    lines = [
        f"torch {torch.__version__}, one thread, float32, medians of {rounds} rounds; seconds for the runtime, then "
        "how many times as long each library takes, and the runtime's distance to what the machine can do.",
        "",
        f"| | runtime | {' | '.join(peer.name for peer in others)} | limit |",
        f"|---|---|{'---|' * len(others)}---|",
        f"| parameters | {own.parameters:,} | {' | '.join(f'{peer.parameters:,}' for peer in others)} | |",
    ]
    for row in measured:
        middle = statistics.median(own.seconds[row.words])
        low, high = min(own.seconds[row.words]), max(own.seconds[row.words])
        cells = []
        for peer in others:
            times = peer.seconds.get(row.words)
            cells.append(f"{statistics.median(times) / middle:.2f}x" if times else "-")
        limit = limits.of(row, own)
        own_cell, last = f"{middle:.3f} s ({low:.3f} to {high:.3f})", f"{middle / limit:.2f}x of {limit:.3f} s"
        lines.append(f"| {row.words} | {own_cell} | {' | '.join(cells)} | {last} |")
    cells = [f"{memory[peer.name] / memory[own.name]:.2f}x" for peer in others]
    lines.append(f"| peak memory, training step, 512 tokens | {memory[own.name]:.0f} MiB | {' | '.join(cells)} | |")
    lines += [
        "",
        f"Measured limits: {limits.bandwidth / 1e9:.1f} GB/s of a copy, {limits.rate / 1e9:.0f} GFLOP/s of a matmul.",
    ]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    before, after = page.index(START) + len(START), page.index(END)
    path.write_text(f"{page[:before]}\n\n{text}\n\n{page[after:]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=NEW, help="tokens to generate")
    parser.add_argument("--only", nargs="*", help="libraries beside the runtime")
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peers, missing = installed()
    if options.only is not None:
        peers = [peer for peer in peers if peer.name in ("runtime", *options.only)]
    for peer in peers:
        peer.module.eval()
        if peer.name == "transformers":
            print(
                f"logits of transformers' LLaMA with the same weights: {llama_difference(peer):.1e} apart", flush=True
            )
    limits = Limits.measured()
    measured = rows(options.new)
    for row in measured:
        print(f"{row.words} ...", flush=True)
        timed(row, peers, options.rounds)
    training = Row("training step", 1, 512)
    memory = {peer.name: peak(act) for peer in peers if (act := training.act(peer)) is not None}
    text = table(peers, measured, memory, limits, options.rounds)
    text += "".join(f"\n\nNot installed: {reason}" for reason in missing)
    print(text)
    if options.markdown is not None:
        write(options.markdown, text)


if __name__ == "__main__":
    main()
