"""Fused projections: against the projections one by one, and one by one wherever fusing would pass something by."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrize, prune

from runtime import FusedProjection


class Attention(nn.Module):
    """Linears of different widths, with a bias and without, and bare weights; `one_by_one` is the legacy code."""

    def __init__(self, width: int = 12, one_by_one: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(width, 8)
        self.key = nn.Linear(width, 8, bias=False)
        self.value = nn.Linear(width, 10)
        self.w_q = nn.Parameter(torch.randn(2, 4, width))
        self.w_v = nn.Parameter(torch.randn(3, 5, width))
        self.one_by_one = one_by_one
        self.qkv = FusedProjection()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.one_by_one:
            bare = (torch.einsum("btc,hdc->bhtd", x, weight) for weight in (self.w_q, self.w_v))
            return self.query(x), self.key(x), self.value(x), *bare
        return self.qkv(x, self.query, self.key, self.value, self.w_q, self.w_v)


def pair(width: int = 12) -> tuple[Attention, Attention]:
    """The legacy model and the fused one, with the same weights, in float64."""
    legacy, fused = Attention(width, one_by_one=True).double(), Attention(width).double()
    fused.load_state_dict(legacy.state_dict(), strict=True)
    return legacy, fused


def are_fused(outputs: tuple[Tensor, ...]) -> bool:
    """Whether all are views of one tensor."""
    bases = {id(output._base) for output in outputs}
    return len(bases) == 1 and outputs[0]._base is not None


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def loss(outputs: tuple[Tensor, ...]) -> Tensor:
    """A different weight for each output, so that no two can be exchanged unseen."""
    return sum(((i + 1) * output.sin().sum() for i, output in enumerate(outputs)), torch.zeros(()))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (2, 64)])
def test_outputs_and_gradients_are_those_of_the_products_one_by_one(batch: int, length: int) -> None:
    legacy, fused = pair()
    x = torch.randn(batch, length, 12, dtype=torch.float64, requires_grad=True)
    outputs = fused(x)
    assert are_fused(outputs)
    assert_same(outputs, legacy(x))
    got = torch.autograd.grad(loss(outputs), [x, *fused.parameters()])
    assert_same(got, torch.autograd.grad(loss(legacy(x)), [x, *legacy.parameters()]))


def test_second_derivatives() -> None:
    fused, weights = FusedProjection(), torch.randn(2, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: fused(x, w[0], w[1]), (x, weights))


@pytest.mark.parametrize(("rows", "width", "one_matmul"), [(1023, 160, False), (1024, 160, True), (1, 128, True)])
def test_few_rows_and_large_weights_are_not_concatenated(rows: int, width: int, one_matmul: bool) -> None:
    projections = [nn.Linear(width, width) for _ in range(3)]
    outputs = FusedProjection()(torch.randn(1, rows, width), *projections)
    assert are_fused(outputs) == one_matmul


class Widened(nn.Linear):
    """What adapters look like: a Linear that does more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Tagged(Tensor):
    """A weight of a kind of its own, as quantised and distributed ones are."""


def plus_one(module: nn.Module, *seen: object) -> object:
    return seen[-1] + 1 if isinstance(seen[-1], Tensor) else (seen[0][0] + 1,)


def with_forward_of_its_own(linear: nn.Linear) -> nn.Module:
    linear.forward = lambda x: nn.functional.linear(x, linear.weight, linear.bias) + 1
    return linear


def with_tagged_weight(linear: nn.Linear) -> nn.Module:
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Tagged))
    return linear


def with_hook(register: Callable[[nn.Module, Callable[..., object]], object]) -> Callable[[nn.Linear], nn.Module]:
    def hooked(linear: nn.Linear) -> nn.Module:
        register(linear, plus_one)
        return linear

    return hooked


MORE_THAN_LINEAR: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "forward hook": with_hook(nn.Module.register_forward_hook),
    "forward pre-hook": with_hook(nn.Module.register_forward_pre_hook),
    "forward replaced": with_forward_of_its_own,
    "subclass": lambda _: Widened(12, 8),
    "subclass of weight": with_tagged_weight,
    "wrapper": lambda linear: nn.Sequential(linear, nn.ReLU()),
    "weight norm": nn.utils.parametrizations.weight_norm,
    "parametrization": lambda linear: parametrize.register_parametrization(linear, "weight", nn.Tanh()),
    "pruning": lambda linear: prune.random_unstructured(linear, "weight", 0.5),
}


@pytest.mark.parametrize("changed", MORE_THAN_LINEAR.values(), ids=MORE_THAN_LINEAR)
def test_what_is_no_plain_linear_is_called_itself(changed: Callable[[nn.Linear], nn.Module]) -> None:
    model, x = Attention(), torch.randn(2, 5, 12)
    model.query = changed(model.query)
    outputs = model(x)
    assert not are_fused(outputs)
    assert torch.equal(outputs[0], model.query(x)) and torch.equal(outputs[1], model.key(x))


def test_hooks_on_gradients_are_called() -> None:
    model, seen = Attention(), []
    model.key.register_full_backward_hook(lambda module, inputs, outputs: seen.append(module))
    loss(model(torch.randn(2, 5, 12, requires_grad=True))).backward()
    assert seen == [model.key]


def test_hooks_on_all_modules_are_called() -> None:
    model, seen = Attention(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, x, y: seen.append(module))
    try:
        assert not are_fused(model(torch.randn(2, 5, 12)))
    finally:
        handle.remove()
    assert {model.query, model.key, model.value} <= {*seen}
    assert are_fused(model(torch.randn(2, 5, 12)))


@pytest.mark.parametrize("other", [nn.Linear(11, 4), nn.Linear(12, 4).float()], ids=["width", "dtype"])
def test_weights_that_do_not_match_fail_as_they_would_alone(other: nn.Linear) -> None:
    x, fits = torch.randn(2, 5, 12).double(), nn.Linear(12, 4).double()
    with pytest.raises(RuntimeError):
        FusedProjection()(x, fits, other)


def by_optimizer(model: Attention) -> None:
    loss(model(torch.randn(1, 3, 12, dtype=torch.float64))).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def by_data(model: Attention) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def by_new_data(model: Attention) -> None:
    model.key.weight.data = torch.randn_like(model.key.weight)


CHANGES: dict[str, Callable[[Attention], object]] = {
    "optimizer": by_optimizer,
    "data in place": by_data,
    "new data": by_new_data,
    "load": lambda model: model.load_state_dict(Attention().double().state_dict()),
    "load by assignment": lambda model: model.load_state_dict(Attention().double().state_dict(), assign=True),
    "casts": lambda model: model.half().double(),
    "another module": lambda model: setattr(model, "value", nn.Linear(12, 10).double()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_weight_is_ever_stale(change: Callable[[Attention], object], mode: Callable[[], object]) -> None:
    legacy, fused = pair()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    with mode():
        before = fused(x)
    change(fused)
    legacy.load_state_dict(fused.state_dict())
    with mode():
        after = fused(x)
        assert_same(after, legacy(x))
    assert any(not torch.allclose(new, old, rtol=1e-9) for new, old in zip(after, before, strict=True))


def test_nothing_in_the_state_and_copies_work() -> None:
    qkv, model, x = FusedProjection(), Attention(), torch.randn(2, 5, 12)
    assert not qkv.state_dict() and not list(qkv.parameters()) and not list(qkv.buffers())
    assert [*model.state_dict()] == [*Attention(one_by_one=True).state_dict()]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(twin(x), model(x))


def step(model: Attention, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    loss(model(x)).backward()
    optimizer.step()


@pytest.mark.parametrize("fused_first", [False, True])
def test_training_goes_on_from_the_others_checkpoint(fused_first: bool) -> None:
    """Weights and AdamW state of the one, loaded into the other, give the same next step; and so in both directions."""
    models = pair()[::-1] if fused_first else pair()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in models]
    for seed in range(4):
        step(models[0], optimizers[0], seed)
    weights, moments = copy.deepcopy(models[0].state_dict()), copy.deepcopy(optimizers[0].state_dict())
    assert models[1].load_state_dict(weights, strict=True)
    optimizers[1].load_state_dict(moments)
    for name, saved in models[1].state_dict().items():
        assert torch.equal(saved, weights[name])
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, 99)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not torch.equal(models[1].query.weight, weights["query.weight"])


def test_one_graph_for_all_lengths_and_its_gradients() -> None:
    torch.compiler.reset()
    model, backend = Attention(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for length in range(2, 66):
        compiled(torch.randn(2, length, 12))
    assert backend.frame_count <= 2  # the first length, and then any length
    calls = [node for graph in backend.graphs for node in graph.graph.nodes if "linear" in str(node.target)]
    assert len(calls) == backend.frame_count
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(compiled(x), model(x))
    got = torch.autograd.grad(loss(compiled(x)), list(model.parameters()))
    torch.testing.assert_close(got, torch.autograd.grad(loss(model(x)), list(model.parameters())))


def test_under_autocast_and_over_an_ensemble() -> None:
    legacy, fused = pair()
    legacy, fused, x = legacy.float(), fused.float(), torch.randn(2, 5, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for got, expected in zip(fused(x), legacy(x), strict=True):
            assert got.dtype == expected.dtype == torch.bfloat16
            torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    weights = {name: torch.stack((one, 2 * one)) for name, one in fused.state_dict().items()}
    both = [torch.func.vmap(lambda w, m=m: torch.func.functional_call(m, w, x))(weights) for m in (fused, legacy)]
    torch.testing.assert_close(*both)


def test_a_weight_of_two_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(num_heads, head_dim, in_features\), got \(12, 8\)"):
        FusedProjection()(torch.zeros(1, 2, 12), torch.zeros(12, 8))
