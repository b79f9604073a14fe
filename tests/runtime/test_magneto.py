"""MAGNETO's gains and the matrices drawn with them."""

import copy
import math

import pytest
import torch
from torch import nn

from runtime import Encoder, magneto_gain, magneto_init_


def test_magneto_gain() -> None:
    assert magneto_gain(4) == pytest.approx(1.4420, abs=1e-4)
    assert magneto_gain(4) == math.sqrt(math.log(8))
    assert magneto_gain(1) == math.sqrt(math.log(2))
    with pytest.raises(ValueError, match="num_layers must be positive, got 0"):
        magneto_gain(0)


class Wide(nn.Module):
    """Matrices large enough for their standard deviation to be measured."""

    def __init__(self) -> None:
        super().__init__()
        self.w_q = nn.Parameter(torch.zeros(4, 50, 300))
        self.w_v = nn.Parameter(torch.zeros(4, 50, 300))
        self.fc1 = nn.Linear(300, 500)
        self.qkv = nn.Linear(300, 900)


def test_magneto_standard_deviations() -> None:
    blocks = nn.ModuleList([Wide() for _ in range(3)])
    bias = blocks[0].fc1.bias.clone()
    magneto_init_(blocks, scaled=("w_v", "fc1.weight"), plain=("w_q",), fused=("qkv.weight",))
    gain = math.sqrt(math.log(6))
    for block in blocks:
        q, k, v = block.qkv.weight.split(300)
        measured = [x.std().item() for x in (block.w_q, block.w_v, block.fc1.weight, q, k, v)]
        fans = [500, 500, 800, 600, 600, 600]
        gains = [1, gain, gain, 1, 1, gain]
        expected = [g * math.sqrt(2 / fan) for g, fan in zip(gains, fans, strict=True)]
        assert measured == pytest.approx(expected, rel=0.02)
    assert torch.equal(blocks[0].fc1.bias, bias)


def test_magneto_draws_a_matrix_as_xavier_does() -> None:
    blocks, reference = nn.ModuleList([nn.Linear(6, 8), nn.Linear(6, 8)]), torch.empty(8, 6)
    torch.manual_seed(3)
    magneto_init_(blocks, scaled=("weight",))
    torch.manual_seed(3)
    nn.init.xavier_normal_(reference, gain=magneto_gain(2))
    torch.testing.assert_close(blocks[0].weight.detach(), reference)


def test_magneto_of_the_documented_encoder() -> None:
    encoder = Encoder(2, 8, 2, 6)
    names = ("out.weight", "feed_forward.gate.weight", "feed_forward.up.weight", "feed_forward.down.weight")
    before = copy.deepcopy(encoder.state_dict())
    magneto_init_(encoder.blocks, scaled=names, fused=("qkv.weight",))
    changed = {n for n, p in encoder.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == {f"blocks.{i}.{n}" for i in range(2) for n in (*names, "qkv.weight")}


def test_magneto_bad_arguments() -> None:
    with pytest.raises(ValueError, match="'nope' must be a parameter"):
        magneto_init_(nn.Linear(6, 8), scaled=("nope",))
    with pytest.raises(ValueError, match=r"bias: a matrix is needed, got shape \(8,\)"):
        magneto_init_(nn.Linear(6, 8), scaled=("bias",))
    with pytest.raises(ValueError, match="weight: 8 rows cannot be"):
        magneto_init_(nn.Linear(6, 8), scaled=(), fused=("weight",))
