"""Phase 2 on the bundled file: what is new is new by the formula, what is old stays, nothing is dead."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from migrator.codemod import Phase
from migrator.rewrite.engine import plan

from .conftest import FIXTURE, whole_model

pytestmark = pytest.mark.usefixtures("float64")


def rotated(x: Tensor, base: float) -> Tensor:
    """RoFormer's rotation, written with complex numbers: pairs (2 i, 2 i + 1), angle t * base ** (-2 i / d)."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    angles = torch.arange(x.size(-2))[:, None] * base ** (-torch.arange(0, x.size(-1), 2) / x.size(-1))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_legacy_formula_on_rotated_queries_and_keys(modern: ModuleType, causal: bool) -> None:
    torch.manual_seed(0)
    attention = modern.QKVAttention(12, 6, 5, nb_heads=3, causal=causal)
    x = torch.randn(2, 7, 12)
    q, k, v = (torch.einsum("ntc,hdc->nhtd", x, w) for w in (attention.w_q, attention.w_k, attention.w_v))
    scores = rotated(q, 1e5) @ rotated(k, 1e5).transpose(-2, -1) / math.sqrt(6)
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ attention.w_o
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-12)


def test_block_is_pre_norm_with_a_gated_feed_forward(modern: ModuleType) -> None:
    torch.manual_seed(0)
    block = modern.TransformerBlock(12, 4, 30, 3, causal=False, dropout=0.0)
    assert block.ffn_fc1.out_features == block.ffn_up.out_features == block.ffn_fc2.in_features == 24
    x = torch.randn(2, 5, 12)
    r = x + block.att_mh(block.att_ln(x))
    h = block.ffn_ln(r)
    expected = r + block.ffn_fc2(F.silu(block.ffn_fc1(h)) * block.ffn_up(h))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_the_predictor_keeps_its_sinusoid(legacy: ModuleType, modern: ModuleType) -> None:
    one, other = legacy.Predictor(6, 8), modern.Predictor(6, 8)
    other.load_state_dict(one.state_dict())
    z = torch.randn(2, 5, 6)
    assert torch.equal(one(z), other(z))
    assert not torch.allclose(other(z), other(z.flip(1)).flip(1))


def test_stacks_end_in_a_norm(modern: ModuleType) -> None:
    encoder = modern.PosteriorEncoder(modern.vocab_size, 14, 24)
    y = encoder(torch.randint(0, modern.vocab_size, (2, 9)))
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 9), atol=1e-7, rtol=0)
    decoder = modern.DiscreteObservation(6, modern.vocab_size, 5, 16)
    seen: list[Tensor] = []
    decoder.proj_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder.get_logits(torch.randn(2, 7, 6), torch.randint(0, modern.vocab_size, (2, 7)))
    torch.testing.assert_close(seen[0].mean(-1), torch.zeros(2, 7), atol=1e-7, rtol=0)


def test_every_parameter_that_had_a_gradient_has_one_and_no_new_one_is_dead(
    legacy: ModuleType, modern: ModuleType
) -> None:
    dead = {}
    for module in (legacy, modern):
        model = whole_model(module)
        model(torch.randint(0, module.vocab_size, (2, 9)))[0].backward()
        dead[module] = {name for name, p in model.named_parameters() if p.grad is None}
    assert dead[modern] == dead[legacy] and len(dead[legacy]) == 6


def test_the_printed_parameter_counts_are_true(legacy: ModuleType, modern: ModuleType, legacy_text: str) -> None:
    outcome = next(o for o in plan(FIXTURE, legacy_text, phase=Phase.ARCHITECTURE).outcomes if o.codemod == "swiglu")
    counts = []
    for module in (legacy, modern):
        block = module.TransformerBlock(128, 32, 128, 4, False, 0.0)  # the sizes of the file's own main part
        counts.append(sum(p.numel() for name, p in block.named_parameters() if "fc" in name or "up" in name))
    assert f"{counts[0]:,} -> {counts[1]:,} parameters" in outcome.message


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return [*model.encoder.ctx_encoder.trunk, model.p_observe.block]


def weight_init(m: nn.Module) -> None:
    if isinstance(m, nn.Linear):
        nn.init.trunc_normal_(m.weight, std=0.02)


@pytest.mark.parametrize("init", [None, weight_init])
def test_depth_scaling_survives_a_later_apply(modern: ModuleType, init: Callable[[nn.Module], None] | None) -> None:
    torch.manual_seed(0)
    sizes = {"latent_size": 16, "hidden_size": 128, "embed_size": 32, "num_slices": 4}
    model = modern.DeterministicLatentODE(vocab_size=modern.vocab_size, **sizes)
    if init is not None:
        model.apply(init)
    for block, depth in zip(blocks_of(model), [4, 4, 4, 4, 1], strict=True):
        plain = 0.02 if init is not None else 1 / math.sqrt(3 * 88)  # nn.Linear: uniform, std 1/sqrt(3 fan_in)
        assert float(block.ffn_fc2.weight.detach().std()) == pytest.approx(plain / math.sqrt(2 * depth), rel=0.05)
        assert float(block.att_mh.w_o.detach().std()) == pytest.approx(
            1 / math.sqrt(128) / math.sqrt(2 * depth), rel=0.05
        )
    assert float(model.encoder.ctx_encoder.emb.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_decoder_stays_causal_and_samples_stay_apart(modern: ModuleType) -> None:
    decoder = modern.DiscreteObservation(6, modern.vocab_size, 5, 16).eval()
    z, tokens = torch.randn(2, 9, 6), torch.randint(0, modern.vocab_size, (2, 9))
    logits = decoder.get_logits(z, tokens)
    later = z.clone()
    later[:, 5:] += 1
    torch.testing.assert_close(decoder.get_logits(later, tokens)[:, :5], logits[:, :5], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder.get_logits(z[:1], tokens[:1]), logits[:1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(decoder.get_logits(later, tokens)[:, 5:], logits[:, 5:])


def test_phases_compose_and_a_second_run_changes_nothing(legacy_text: str, exact_text: str, modern_text: str) -> None:
    path = Path("f.py")
    assert plan(path, exact_text, phase=Phase.ARCHITECTURE).text == modern_text
    again = plan(path, modern_text, phase=Phase.ARCHITECTURE)
    assert not again.changed and {o.status for o in again.outcomes} == {"modern"}
    first = legacy_text.index("class TimeAwareTransform(")
    assert modern_text.endswith(legacy_text[first:])


def test_alibi_instead_of_rotary(legacy_text: str) -> None:
    from .conftest import load

    text = plan(FIXTURE, legacy_text, phase=Phase.ARCHITECTURE, choices={"positions": "alibi"}).text
    assert "RotaryEmbedding" not in text
    module = load(text, "alibi_file")
    torch.manual_seed(0)
    attention = module.QKVAttention(12, 3, 4, nb_heads=4, causal=True)
    x = torch.randn(1, 6, 12)
    q, k, v = (torch.einsum("ntc,hdc->nhtd", x, w) for w in (attention.w_q, attention.w_k, attention.w_v))
    distance = (torch.arange(6)[None, :] - torch.arange(6)[:, None]).abs()
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / 4) for h in range(4)])
    scores = q @ k.transpose(-2, -1) / math.sqrt(3) - slopes[:, None, None] * distance
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ attention.w_o
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-12)
