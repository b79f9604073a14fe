"""Inspection shows what a model does, sees what is wrong with it, and leaves it as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import runtime


class Model(nn.Module):
    """Two causal layers, fused or by hand; `dead` cuts the gradient of the first."""

    def __init__(self, fused: bool = True, dead: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.fused, self.dead = fused, dead

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        for number, block in enumerate(self.blocks):
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in block(x).chunk(3, -1))
            if self.fused:
                y = runtime.attention(q, k, v, causal=True)
            else:
                scores = q @ k.mT / math.sqrt(4)
                y = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf).softmax(-1) @ v
            y = y.transpose(1, 2).flatten(-2)
            x = x + (y.detach() if self.dead and not number else y)
        return x


@pytest.fixture
def models() -> tuple[Model, Model]:
    torch.manual_seed(0)
    fused, by_hand = Model(), Model(fused=False)
    by_hand.load_state_dict(fused.state_dict())
    return fused, by_hand


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_weights_of_a_fused_call_are_those_of_the_formula(models: tuple[Model, Model], layer: int) -> None:
    tokens = torch.randint(11, (3, 7))
    fused, by_hand = (runtime.visualize_attention_patterns(model, tokens, layer_idx=layer) for model in models)
    assert fused.shape == (3, 2, 7, 7)
    assert torch.allclose(fused, by_hand, atol=1e-6)
    assert not torch.allclose(fused, runtime.visualize_attention_patterns(models[0], tokens, 1 - layer % 2), atol=1e-2)


def test_unequal_lengths_are_aligned_as_torch_aligns_them() -> None:
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    v = torch.randn(1, 2, 5, 4)
    with runtime.AttentionRecorder() as recorder:
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(recorder.weights[0] @ v, y, atol=1e-6)


def test_a_softmax_over_classes_is_no_attention() -> None:
    with runtime.AttentionRecorder() as recorder:
        torch.randn(3, 7).softmax(-1)
        torch.randn(3, 7, 5).softmax(1)
    assert not recorder.weights


def test_no_attention_and_no_such_layer_are_refused(models: tuple[Model, Model]) -> None:
    with pytest.raises(ValueError, match="no attention was seen in Linear"):
        runtime.visualize_attention_patterns(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(IndexError, match="ran 2 attentions"):
        runtime.visualize_attention_patterns(models[0], torch.randint(11, (1, 4)), layer_idx=2)


def test_gradient_flow_of_a_healthy_model(models: tuple[Model, Model]) -> None:
    flow = runtime.TransformerTester().test_gradient_flow(models[0])
    assert flow.healthy and list(flow.norms) == ["blocks.0", "blocks.1"]
    assert flow.ratio == flow.norms["blocks.0"] / flow.norms["blocks.1"] > 0


def test_dead_and_infinite_gradients_are_seen() -> None:
    flow = runtime.TransformerTester().test_gradient_flow(Model(dead=True))
    assert flow.missing == ("blocks.0.weight", "blocks.0.bias") and not flow.ratio and not flow.healthy
    model = Model()
    nn.init.constant_(model.emb.weight, 1e30)
    assert runtime.TransformerTester().test_gradient_flow(model).nonfinite


def test_the_model_and_the_random_stream_are_left_alone(models: tuple[Model, Model]) -> None:
    model, stream = models[0].train(), torch.get_rng_state()
    runtime.TransformerTester().test_gradient_flow(model)
    runtime.visualize_attention_patterns(model, torch.zeros(1, 4, dtype=torch.long))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(stream, torch.get_rng_state())


def test_without_an_embedding_inputs_are_asked_for() -> None:
    with pytest.raises(ValueError, match="give `inputs`"):
        runtime.TransformerTester().test_gradient_flow(nn.Linear(3, 3))
    assert runtime.TransformerTester().test_gradient_flow(nn.Linear(3, 3), torch.randn(2, 3)).healthy
