"""Everything that a forward calls compiles into one graph, before and after the tables are there."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from runtime import Alibi, Encoder, KVCache, RotaryEmbedding, SinusoidalPositionalEncoding, attention


class Decoder(torch.nn.Module):
    def __init__(self, layout: str) -> None:
        super().__init__()
        self.encoding = SinusoidalPositionalEncoding()
        self.rotary = RotaryEmbedding(8, layout=layout)
        self.alibi = Alibi(3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, offset: int = 0) -> torch.Tensor:
        q = k = self.encoding(x, offset).unflatten(-1, (3, 8)).transpose(1, 2)
        q, k = self.rotary(q, k, offset)
        y = attention(q, k, k, causal=True)
        y = attention(q, y, k[..., :5], mask=mask, causal=True, fill=-1e9)
        y = attention(q, k[..., 1:, :], torch.cat((y[..., 1:, :],) * 2, -1), bias=self.alibi(q, k[..., 1:, :]))
        return attention(q[..., -2:, :], k, k, causal=True) + y[..., -2:, :8]


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_one_graph_with_and_without_tables(layout: str) -> None:
    torch.compiler.reset()
    model, x, mask = Decoder(layout), torch.randn(2, 7, 24), torch.rand(2, 1, 1, 7) < 0.5
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    cold = compiled(x, mask, 3)
    assert model.rotary._cache is None  # outputs of a graph do not outlive it
    warm = model(x, mask, 3)
    assert model.rotary._cache is not None and model.encoding._cache is not None
    torch.testing.assert_close(cold, warm)
    torch.testing.assert_close(compiled(x, mask, 3), warm)


def test_encoder_with_gradients() -> None:
    torch.compiler.reset()
    model, x = Encoder(1, 8, 2, 6, causal=True, rotary_base=1e4), torch.randn(1, 5, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    got = torch.autograd.grad(compiled(x).sum(), list(model.parameters()))
    torch.testing.assert_close(got, expected)


class LanguageModel(torch.nn.Module):
    """The whole prefix goes in, as in rewritten files; what is cached is cut off before it costs."""

    def __init__(self, value_dim: int, positions: str) -> None:
        super().__init__()
        self.dims = (8, 8, value_dim)
        self.embedding = torch.nn.Embedding(11, 24)
        self.encoding = SinusoidalPositionalEncoding()
        self.rotary, self.alibi = RotaryEmbedding(8), Alibi(3) if positions == "alibi" else None
        self.inward = torch.nn.ModuleList(torch.nn.Linear(24, 3 * sum(self.dims)) for _ in range(2))
        self.outward = torch.nn.ModuleList(torch.nn.Linear(3 * value_dim, 24) for _ in range(2))

    def forward(self, tokens: torch.Tensor, past_kv: KVCache | None = None) -> torch.Tensor:
        tokens_in = tokens.roll(1, 1)
        tokens_in[:, 0] = 0
        if past_kv is not None:
            tokens_in = tokens_in[:, past_kv.length :]
        x = self.encoding(self.embedding(tokens_in), past_kv=past_kv)
        for i, (inward, outward) in enumerate(zip(self.inward, self.outward, strict=True)):
            layer = past_kv and past_kv[i]
            q, k, v = inward(x).unflatten(-1, (3, -1)).transpose(1, 2).split(self.dims, -1)
            bias = self.alibi(q, k, past_kv=layer) if self.alibi else None
            q, k = self.rotary(q, k, past_kv=layer)
            y = attention(q, k, v, bias=bias, causal=True, past_kv=layer)
            x = x + outward(y.transpose(1, 2).flatten(2))
        return x @ self.embedding.weight.T


@pytest.mark.parametrize(
    ("mode", "value_dim", "positions"),
    [
        (torch.no_grad, 8, "rotary"),
        (torch.inference_mode, 8, "rotary"),
        (torch.enable_grad, 8, "rotary"),
        (torch.no_grad, 5, "alibi"),
    ],
)
def test_decode_step_is_one_graph_and_settles(mode, value_dim: int, positions: str) -> None:
    """Prompt, first step (lengths become symbols), second step; then 64 steps without another compilation."""
    torch.compiler.reset()
    model, tokens, counter = (
        LanguageModel(value_dim, positions),
        torch.randint(11, (2, 80)),
        CompileCounterWithBackend("aot_eager"),
    )
    step, cache, compilations = torch.compile(model, fullgraph=True, backend=counter), KVCache(80), []
    with mode():
        for end in range(7, 80):
            logits = step(tokens[:, :end], cache)
            compilations.append(counter.frame_count)
            torch.testing.assert_close(logits[:, -1], model(tokens[:, :end])[:, -1], rtol=1e-4, atol=1e-5)
    assert len(compilations) == 73 and len(set(compilations[8:])) == 1 and compilations[-1] <= 4


def test_growing_buffers_are_compiled_for_once_a_doubling_at_most() -> None:
    torch.compiler.reset()
    model, tokens, counter = LanguageModel(8, "rotary"), torch.randint(11, (2, 300)), CompileCounterWithBackend("eager")
    step, cache = torch.compile(model, fullgraph=True, backend=counter), KVCache()
    with torch.no_grad():
        for end in range(7, 300):
            logits = step(tokens[:, :end], cache)
        torch.testing.assert_close(logits[:, -1], model(tokens[:, :299])[:, -1], rtol=1e-4, atol=1e-5)
    assert cache[0].keys.size(-2) == 512 and counter.frame_count <= 8


def test_training_forward_is_one_graph_for_all_lengths() -> None:
    torch.compiler.reset()
    model, counter = LanguageModel(5, "rotary"), CompileCounterWithBackend("aot_eager")
    eager = copy.deepcopy(model)  # its tables of positions grow, the compiled one has none
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for length in (9, 13, 17, 21, 64):
        tokens = torch.randint(11, (2, length))
        got, expected = compiled(tokens), eager(tokens)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        grads = [
            torch.autograd.grad(y.square().sum(), list(owner.parameters()))
            for owner, y in ((model, got), (eager, expected))
        ]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)
    assert counter.frame_count <= 2
