"""Everything that a forward calls compiles into one graph, before and after the tables are there."""

import pytest
import torch

from runtime import Alibi, Encoder, RotaryEmbedding, SinusoidalPositionalEncoding, attention


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
