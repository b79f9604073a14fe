"""The pre-norm block and the stack against formulas written by hand."""

import pytest
import torch
from torch import Tensor, nn

from runtime import Encoder, KVCache, LayerCache, PreNormBlock

F64 = torch.float64


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normed * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def turn(x: Tensor, base: float) -> Tensor:
    """Rotation of neighbouring channels, by 2 x 2 matrices."""
    turned = torch.empty_like(x)
    for m in range(x.size(0)):
        for i in range(0, x.size(1), 2):
            phase = torch.tensor(m * base ** (-i / x.size(1)), dtype=F64)
            matrix = torch.stack((phase.cos(), -phase.sin(), phase.sin(), phase.cos())).view(2, 2)
            turned[m, i : i + 2] = matrix @ x[m, i : i + 2]
    return turned


def by_hand(x: Tensor, state: dict[str, Tensor], heads: int, causal: bool, base: float | None, mask=None) -> Tensor:
    outputs = []
    for b, sequence in enumerate(x):
        length, width = sequence.shape
        dim = width // heads
        q, k, v = linear(layer_norm(sequence, state, "attention_norm"), state, "qkv").split(width, -1)
        attended = []
        for h in range(heads):
            part = slice(h * dim, (h + 1) * dim)
            qh, kh = (turn(y[:, part], base) if base else y[:, part] for y in (q, k))
            scores = qh @ kh.T / dim**0.5
            if causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            if mask is not None:
                scores = scores.masked_fill(~mask[b, 0], float("-inf"))
            attended.append(scores.softmax(-1) @ v[:, part])
        residual = sequence + linear(torch.cat(attended, -1), state, "out")
        y = layer_norm(residual, state, "feed_forward_norm")
        gate, up = linear(y, state, "feed_forward.gate"), linear(y, state, "feed_forward.up")
        outputs.append(residual + linear(gate * torch.sigmoid(gate) * up, state, "feed_forward.down"))
    return torch.stack(outputs)


def scrambled(module: nn.Module) -> nn.Module:
    """Weights without structure, in the norms too, so that no term of the formula is one or zero."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("base", [None, 100.0])
def test_block_against_the_formula(batch: int, length: int, causal: bool, base: float | None) -> None:
    block = scrambled(PreNormBlock(12, 3, 10, causal=causal, rotary_base=base))
    x = torch.randn(batch, length, 12, dtype=F64)
    torch.testing.assert_close(block(x), by_hand(x, block.state_dict(), 3, causal, base), rtol=1e-10, atol=1e-10)


def test_block_with_padding_mask() -> None:
    block = scrambled(PreNormBlock(8, 2, 6, rotary_base=1e4))
    x = torch.randn(2, 5, 8, dtype=F64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()[:, None, None]
    expected = by_hand(x, block.state_dict(), 2, False, 1e4, mask.expand(2, 1, 5, 5))
    torch.testing.assert_close(block(x, mask), expected, rtol=1e-10, atol=1e-10)


def test_state_dict_is_as_documented() -> None:
    shapes = {name: tuple(p.shape) for name, p in PreNormBlock(8, 2, 6, rotary_base=1e4).state_dict().items()}
    assert shapes == {
        "attention_norm.weight": (8,),
        "attention_norm.bias": (8,),
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "out.weight": (8, 8),
        "out.bias": (8,),
        "feed_forward_norm.weight": (8,),
        "feed_forward_norm.bias": (8,),
        "feed_forward.gate.weight": (6, 8),
        "feed_forward.gate.bias": (6,),
        "feed_forward.up.weight": (6, 8),
        "feed_forward.up.bias": (6,),
        "feed_forward.down.weight": (8, 6),
        "feed_forward.down.bias": (8,),
    }


def test_every_parameter_gets_a_gradient() -> None:
    encoder = Encoder(2, 8, 2, 6, causal=True, rotary_base=1e4)
    encoder(torch.randn(2, 5, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_causality() -> None:
    encoder, x = scrambled(Encoder(2, 8, 2, 6, causal=True, rotary_base=1e4)), torch.randn(1, 6, 8, dtype=F64)
    changed = x.clone()
    changed[:, 4:] *= -1
    torch.testing.assert_close(encoder(changed)[:, :4], encoder(x)[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(encoder(changed)[:, 4:], encoder(x)[:, 4:])


def test_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    block, x = PreNormBlock(8, 2, 6, dropout=0.5), torch.randn(1, 5, 8)
    plain = PreNormBlock(8, 2, 6)
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(x), plain(x))
    assert not torch.allclose(block.train()(x), plain(x))
    dropped = PreNormBlock(8, 2, 6, dropout=1.0)
    assert torch.equal(dropped(x), x)  # both branches are gone, the residual is not


def test_dropout_is_on_weights_and_on_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    functional, rates = torch.nn.functional, []
    attend, drop = functional.scaled_dot_product_attention, functional.dropout
    monkeypatch.setattr(
        functional, "dropout", lambda x, p, training: rates.append((p, training)) or drop(x, p, training)
    )
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *args, **named: rates.append(args[4]) or attend(*args, **named),
    )
    block, x = PreNormBlock(8, 2, 6, dropout=0.125), torch.randn(1, 5, 8)
    block.train()(x)
    block.eval()(x)
    assert rates == [0.125, (0.125, True), (0.125, True), 0.0, (0.125, False), (0.125, False)]


@pytest.mark.parametrize("final_norm", [True, False])
def test_encoder_is_its_blocks_and_a_norm(final_norm: bool) -> None:
    encoder = scrambled(Encoder(3, 8, 2, 6, rotary_base=50.0, final_norm=final_norm))
    expected = x = torch.randn(2, 4, 8, dtype=F64)
    mask = torch.tensor([True, True, True, False])
    for i in range(3):
        state = {k.removeprefix(f"blocks.{i}."): p for k, p in encoder.state_dict().items() if f"blocks.{i}." in k}
        expected = by_hand(expected, state, 2, False, 50.0, mask.expand(2, 1, 4, 4))
    if final_norm:
        expected = layer_norm(expected, encoder.state_dict(), "final_norm")
    torch.testing.assert_close(encoder(x, mask), expected, rtol=1e-10, atol=1e-10)
    assert any(name.startswith("final_norm") for name in encoder.state_dict()) == final_norm


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("base", [None, 100.0])
@pytest.mark.parametrize("ends", [list(range(1, 8)), [3, 4, 7]], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_encoder_with_a_cache(batch: int, base: float | None, ends: list[int], grad: bool) -> None:
    encoder = scrambled(Encoder(3, 12, 3, 10, causal=True, rotary_base=base))
    x, mask = torch.randn(batch, 7, 12, dtype=F64, requires_grad=True), torch.rand(batch, 1, 1, 7) < 0.7
    mask[..., 0] = True
    cache = KVCache(7)
    with torch.set_grad_enabled(grad):
        got = torch.cat([encoder(x[:, cache.length : end], mask[..., :end], cache) for end in ends], 1)
        expected = encoder(x, mask)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    if grad:
        leaves, upstream = [x, *encoder.parameters()], torch.randn_like(x)
        grads = [torch.autograd.grad(y, leaves, upstream) for y in (got, expected)]
        for mine, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_only_a_causal_block_takes_a_cache() -> None:
    cache = KVCache()
    with pytest.raises(ValueError, match="only causal attention can be cached"):
        Encoder(2, 8, 2, 6)(torch.randn(1, 3, 8), past_kv=cache)
    with pytest.raises(ValueError, match="only causal attention can be cached"):
        PreNormBlock(8, 2, 6)(torch.randn(1, 3, 8), past_kv=LayerCache())
    assert cache.length == 0


def test_norm_may_be_chosen() -> None:
    encoder = Encoder(1, 8, 2, 6, norm=lambda width: nn.RMSNorm(width, eps=1e-6))
    assert sum(isinstance(m, nn.RMSNorm) for m in encoder.modules()) == 3
    assert encoder(torch.randn(1, 3, 8)).shape == (1, 3, 8)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads, got 30 and 4"):
        PreNormBlock(30, 4, 8)
    with pytest.raises(ValueError, match="even.* got 3"):
        PreNormBlock(6, 2, 8, rotary_base=1e4)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\], got -0.1"):
        PreNormBlock(8, 2, 8, dropout=-0.1)
    with pytest.raises(ValueError, match="depth must be positive, got 0"):
        Encoder(0, 8, 2, 8)
