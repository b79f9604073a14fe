"""Phase 1 on the bundled file: the same function from the same weights, compared with the legacy code itself."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from migrator.codemod import Phase
from migrator.rewrite.engine import plan

from .conftest import whole_model

pytestmark = pytest.mark.usefixtures("float64")


def relative(one: Tensor, other: Tensor) -> float:
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))


def run(model: nn.Module, *inputs: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs and every gradient; the model is copied first, since its forward counts its own calls."""
    model = copy.deepcopy(model)
    given = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = model(*given)
    if isinstance(output, tuple):
        loss, stats = output
        tensors = [loss, *stats.values()]
    else:
        tensors = [output.logits if hasattr(output, "logits") else output]
        loss = (tensors[0] * torch.linspace(-1, 1, tensors[0].numel()).view_as(tensors[0])).sum()
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    grads |= {f"input {n}": x.grad for n, x in enumerate(given) if x.grad is not None}
    return [t.detach() for t in tensors], grads


def assert_same(one: nn.Module, other: nn.Module, *inputs: Tensor) -> None:
    other.load_state_dict(one.state_dict(), strict=True)
    outputs, grads = run(one, *inputs)
    new_outputs, new_grads = run(other, *inputs)
    assert max(relative(b, a) for a, b in zip(outputs, new_outputs, strict=True)) <= 1e-10
    assert grads.keys() == new_grads.keys()
    # With one key the scores have no gradient at all, but for rounding: that is small next to the others.
    floor = 1e-4 * max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        assert float((new_grads[name] - grad).abs().max()) <= 1e-10 * max(float(grad.abs().max()), floor), name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("dim", "dim_qk", "dim_v", "heads"), [(12, 3, 5, 4), (12, 4, 4, 3), (7, 7, 2, 1), (30, 7, 7, 4)]
)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 13), (2, 8)])
def test_attention(
    legacy: ModuleType,
    exact: ModuleType,
    causal: bool,
    dim: int,
    dim_qk: int,
    dim_v: int,
    heads: int,
    batch: int,
    length: int,
) -> None:
    torch.manual_seed(1)
    arguments = (dim, dim_qk, dim_v, heads, causal)
    one, other = legacy.QKVAttention(*arguments), exact.QKVAttention(*arguments)
    assert list(one.state_dict()) == list(other.state_dict()) == ["w_q", "w_k", "w_v", "w_o"]
    assert_same(one, other, torch.randn(batch, length, dim))


def test_attention_drops_the_same_weights_in_training_and_none_in_evaluation(
    legacy: ModuleType, exact: ModuleType
) -> None:
    one, other = (module.QKVAttention(12, 4, 4, 3, True, dropout=0.4) for module in (legacy, exact))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 9, 12)
    outputs = []
    for model in (one, other):
        torch.manual_seed(5)
        outputs.append(model(x))
    assert relative(outputs[1], outputs[0]) <= 1e-10
    assert relative(outputs[0], one.eval()(x)) > 1e-3
    assert relative(other.eval()(x), one.eval()(x)) <= 1e-10


@pytest.mark.parametrize("length", [1, 2, 67, 512])
@pytest.mark.parametrize("width", [1, 7, 24])
def test_positional_encoding_bit_for_bit(legacy: ModuleType, exact: ModuleType, length: int, width: int) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, length, width, dtype=dtype)
        one, other = legacy.AddPositionalEncoding(1e5), exact.AddPositionalEncoding(1e5)
        assert torch.equal(one(x), other(x)) and one(x).dtype == other(x).dtype
        assert one.len_max == other.len_max == 1e5


def test_whole_model(legacy: ModuleType, exact: ModuleType) -> None:
    one, other = whole_model(legacy), whole_model(exact, seed=9)
    for batch, length in [(1, 2), (3, 13), (2, 67)]:
        assert_same(one, other, torch.randint(0, legacy.vocab_size, (batch, length)))


def test_other_classes_that_use_the_parts(legacy: ModuleType, exact: ModuleType) -> None:
    torch.manual_seed(2)
    assert_same(legacy.Predictor(6, 8), exact.Predictor(6, 8), torch.randn(2, 5, 6))
    sizes = (6, legacy.vocab_size, 5, 16)
    decoders = legacy.DiscreteObservation(*sizes), exact.DiscreteObservation(*sizes)
    assert_same(*decoders, torch.randn(3, 7, 6), torch.randint(0, legacy.vocab_size, (3, 7)))


def test_one_seed_gives_the_same_initial_weights(legacy: ModuleType, exact: ModuleType) -> None:
    one, other = whole_model(legacy, seed=4).state_dict(), whole_model(exact, seed=4).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_32_training_steps_give_the_same_losses(legacy: ModuleType, exact: ModuleType) -> None:
    histories = []
    for module in (legacy, exact):
        model = whole_model(module, seed=3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for step in range(32):
            torch.manual_seed(step)
            loss, _ = model(torch.randint(0, module.vocab_size, (2, 11)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        histories.append(torch.stack(losses))
    assert relative(histories[1], histories[0]) <= 1e-10
    assert histories[0][-1] < histories[0][0]


def test_sampling_draws_the_same_tokens(legacy: ModuleType, exact: ModuleType) -> None:
    tokens = []
    for module in (legacy, exact):
        model = whole_model(module, seed=6).eval()
        torch.manual_seed(7)
        tokens.append(torch.stack(module.sample_sequences_ode(model, 9, 3, torch.device("cpu"))))
    assert torch.equal(*tokens)


def test_signatures_and_everything_else_stay(legacy_text: str, exact_text: str) -> None:
    untouched = legacy_text[legacy_text.index("class Predictor(") :]
    assert exact_text.endswith(untouched)
    assert plan(Path("f.py"), exact_text, phase=Phase.DROP_IN).text == exact_text
