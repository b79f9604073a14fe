"""Phase 3 on the bundled file: faster, in less memory, and in every number what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from migrator.codemod import Phase
from migrator.rewrite.engine import plan

from .conftest import FIXTURE, NEW, whole_model

PAIRS = [("modern", "fast"), ("legacy", "fast_exact")]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def pair(request: pytest.FixtureRequest) -> tuple[ModuleType, ModuleType]:
    """The text before phase 3 and the one after it; with phase 2, and without."""
    before, after = (request.getfixturevalue(name) for name in request.param)
    return before, after


def twins(pair: tuple[ModuleType, ModuleType]) -> tuple[nn.Module, nn.Module]:
    """Both models with the same weights, and logits far enough apart for another token to be another token."""
    one, other = (whole_model(module).eval() for module in pair)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        one.p_observe.proj_out.weight.mul_(4)
    other.load_state_dict(one.state_dict(), strict=True)
    return one, other


# --- decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_logits_equal_those_of_the_whole_prefix_at_every_position(
    pair: tuple[ModuleType, ModuleType], batch: int
) -> None:
    before, after = twins(pair)
    z, tokens = torch.randn(batch, 33, 10), torch.randint(0, pair[0].vocab_size, (batch, 33))
    whole = before.p_observe.get_logits(z, tokens)
    past_kv = None
    with torch.no_grad():
        for i in range(33):  # the loop that the guide writes
            logits, past_kv = after.p_observe.get_logits(
                z[:, : i + 1], tokens[:, : i + 1], past_kv=past_kv, use_cache=True
            )
            assert logits.shape == (batch, 1, pair[0].vocab_size)
            torch.testing.assert_close(logits[:, -1], whole[:, i], rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_samples", [1, 8])
def test_the_sampling_function_draws_the_same_tokens(pair: tuple[ModuleType, ModuleType], n_samples: int) -> None:
    drawn = []
    for module, model in zip(pair, twins(pair), strict=True):
        torch.manual_seed(3)
        drawn.append(module.sample_sequences_ode(model, 67, n_samples, torch.device("cpu")))
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)
        assert len(one.unique()) > 3, "all tokens are alike, so equality would mean little"


def test_each_step_runs_one_position(fast: ModuleType) -> None:
    model = whole_model(fast).eval()
    lengths: list[int] = []
    model.p_observe.block.register_forward_pre_hook(lambda _, given: lengths.append(given[0].size(1)))
    fast.sample_sequences_ode(model, 9, 2, torch.device("cpu"))
    assert lengths == [1] * 18


def test_calls_without_a_cache_are_what_they_were(pair: tuple[ModuleType, ModuleType]) -> None:
    before, after = twins(pair)
    z, tokens = torch.randn(2, 7, 10), torch.randint(0, pair[0].vocab_size, (2, 7))
    one, other = (model.p_observe.get_logits(z, tokens) for model in (before, after))
    assert isinstance(other, Tensor)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert type(after.p_observe(z, tokens)) is type(before.p_observe(z, tokens))


# --- training ------------------------------------------------------------------------------------------------------


def loss_and_gradients(model: nn.Module, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    model.zero_grad()
    loss = model(tokens)[0]
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("float64")
def test_losses_and_gradients_are_what_they_were(pair: tuple[ModuleType, ModuleType]) -> None:
    tokens = torch.randint(0, pair[0].vocab_size, (3, 17))
    (one, gradients), (other, others) = (loss_and_gradients(model.train(), tokens) for model in twins(pair))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-10, atol=1e-12)


def test_checkpoints_go_both_ways_bit_by_bit(legacy: ModuleType, fast_exact: ModuleType, tmp_path: Path) -> None:
    old = whole_model(legacy)
    new = whole_model(fast_exact, seed=1)
    new.load_state_dict(old.state_dict(), strict=True)
    torch.save(new.state_dict(), tmp_path / "new.pt")
    again = whole_model(legacy, seed=2)
    again.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True), strict=True)
    for (name, one), (other_name, other) in zip(old.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other)


@pytest.mark.usefixtures("float64")
def test_adamw_resumed_from_a_legacy_checkpoint_takes_the_same_next_step(
    legacy: ModuleType, fast_exact: ModuleType
) -> None:
    tokens = torch.randint(0, legacy.vocab_size, (2, 11))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(4)
        optimizer.zero_grad()
        model(tokens)[0].backward()
        optimizer.step()

    old = whole_model(legacy)
    optimizer = torch.optim.AdamW(old.parameters(), lr=1e-3)
    for _ in range(3):
        step(old, optimizer)
    saved = copy.deepcopy((old.state_dict(), optimizer.state_dict()))
    new = whole_model(fast_exact, seed=5)
    # A forward that counts its calls seeds a generator by them; the resumed model has to be as far.
    for module in new.modules():
        if hasattr(module, "global_step") and isinstance(module.global_step, int):
            module.global_step = 3
    resumed = torch.optim.AdamW(new.parameters(), lr=1e-3)
    new.load_state_dict(saved[0], strict=True)
    resumed.load_state_dict(saved[1])
    step(old, optimizer), step(new, resumed)
    for (name, one), other in zip(old.named_parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


# --- torch.compile -------------------------------------------------------------------------------------------------


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def test_the_decoding_step_compiles_without_breaks_and_stays_compiled(fast: ModuleType) -> None:
    torch._dynamo.reset()
    model, backend = whole_model(fast).eval(), Counting()
    step = torch.compile(model.p_observe.get_logits, fullgraph=True, backend=backend)
    z, tokens = torch.randn(2, 70, 10), torch.randint(0, fast.vocab_size, (2, 70))
    whole = model.p_observe.get_logits(z, tokens)
    past_kv, warm = fast.KVCache(max_len=70), 0
    with torch.no_grad():
        for i in range(68):
            logits, past_kv = step(z[:, : i + 1], tokens[:, : i + 1], past_kv=past_kv, use_cache=True)
            torch.testing.assert_close(logits[:, -1], whole[:, i], rtol=1e-4, atol=1e-5)
            warm = backend.graphs if i == 3 else warm
    assert backend.graphs == warm <= 4, "a step was compiled anew"


def test_the_training_forward_compiles_without_breaks(fast: ModuleType) -> None:
    torch._dynamo.reset()
    model = whole_model(fast).train()
    for part, given in (
        (model.p_observe.get_logits, (torch.randn(2, 9, 10), torch.randint(0, fast.vocab_size, (2, 9)))),
        (model.encoder.ctx_encoder, (torch.randint(0, fast.vocab_size, (2, 9)),)),
    ):
        compiled = torch.compile(part, fullgraph=True, backend=Counting())
        torch.testing.assert_close(compiled(*given), part(*given), rtol=1e-4, atol=1e-5)


# --- the text ------------------------------------------------------------------------------------------------------


def test_one_phase_after_the_other_gives_what_all_at_once_give(modern_text: str, fast_text: str) -> None:
    assert plan(FIXTURE, modern_text, phase=Phase.ACCELERATION).text == fast_text


def test_a_second_run_changes_nothing(fast_text: str, fast_exact_text: str) -> None:
    again = plan(FIXTURE, fast_text, phase=Phase.ACCELERATION)
    assert again.text == fast_text and {outcome.status for outcome in again.outcomes} == {"modern"}
    assert plan(FIXTURE, fast_exact_text, phase=Phase.ACCELERATION, skip=NEW).text == fast_exact_text
