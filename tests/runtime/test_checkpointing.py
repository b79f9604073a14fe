"""Gradient checkpointing: the same numbers from less memory, and only where it is of use."""

import copy

import pytest
import torch
from torch import Tensor, nn

from runtime import Encoder, GradientCheckpointing, KVCache


class Block(nn.Module):
    """Counts how often it is computed."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.drop, self.calls = nn.Linear(6, 6).double(), nn.Dropout(dropout), 0

    def forward(self, x: Tensor, shift: float = 0.0, past_kv: object = None) -> Tensor:
        self.calls += 1
        return x + self.drop(torch.tanh(self.inner(x))) + shift


class Stack(GradientCheckpointing, nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(3))

    def forward(self, x: Tensor, past_kv: KVCache | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = self.checkpointed(block, x, shift=0.5, past_kv=past_kv and past_kv[i])
        return x

    def calls(self) -> list[int]:
        return [block.calls for block in self.blocks]


class Model(nn.Module, GradientCheckpointing):
    """The root, which holds a stack and has no block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(Stack())


def sequence() -> Tensor:
    return torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_outputs_gradients_and_random_numbers(dropout: float) -> None:
    model, x = Stack(dropout), sequence()
    expected, state = gradients(model, x), torch.get_rng_state()
    model.gradient_checkpointing_enable()
    got = gradients(model, x)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.calls() == [3, 3, 3]  # once without, twice with


def test_encoder() -> None:
    encoder = Encoder(2, 8, 2, 6, causal=True, dropout=0.3, rotary_base=1e4).double()
    x, mask = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True), torch.rand(2, 1, 1, 5) < 0.7
    mask[..., 0] = True
    runs = []
    for switch in (encoder.gradient_checkpointing_disable, encoder.gradient_checkpointing_enable):
        switch()
        torch.manual_seed(1)
        runs.append(torch.autograd.grad(encoder(x, mask).square().sum(), [x, *encoder.parameters()]))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*runs, strict=True))


def test_less_is_kept_for_the_backward_pass() -> None:
    encoder, x = Encoder(4, 16, 2, 40), torch.randn(1, 64, 16)

    def kept() -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = encoder(x)
        assert y.requires_grad
        return sum(sizes.values())

    everything = kept()
    encoder.gradient_checkpointing_enable()
    assert kept() < everything / 3


def test_off_in_evaluation_without_gradients_and_under_a_cache() -> None:
    model, x = Stack(), sequence()
    model.gradient_checkpointing_enable()
    with torch.no_grad():
        model(x)
    assert model.calls() == [1, 1, 1]
    model(x, KVCache()).sum().backward()
    assert model.calls() == [2, 2, 2]
    model.eval()
    model(x).sum().backward()
    assert model.calls() == [3, 3, 3]
    model.train()
    model(x).sum().backward()
    assert model.calls() == [5, 5, 5]
    model.gradient_checkpointing_disable()
    model(x).sum().backward()
    assert model.calls() == [6, 6, 6]


def test_the_switch_reaches_down_and_survives_copies() -> None:
    model = Model()
    stack = model.stack[0]
    assert not model.gradient_checkpointing and not stack.gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.gradient_checkpointing and stack.gradient_checkpointing
    assert copy.deepcopy(model).stack[0].gradient_checkpointing
    assert not Stack().gradient_checkpointing  # others are not touched
    assert list(stack.state_dict()) == list(Stack().state_dict())
    model.gradient_checkpointing_disable()
    assert not model.gradient_checkpointing and not stack.gradient_checkpointing


def test_one_graph() -> None:
    torch.compiler.reset()
    encoder, x = Encoder(2, 8, 2, 6, causal=True, rotary_base=1e4), torch.randn(1, 5, 8)
    expected = torch.autograd.grad(encoder(x).sum(), list(encoder.parameters()))
    encoder.gradient_checkpointing_enable()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), list(encoder.parameters())), expected)


def test_only_modules_have_it() -> None:
    class Plain(GradientCheckpointing):
        pass

    with pytest.raises(TypeError, match="for modules, Plain is none"):
        Plain().gradient_checkpointing_enable()
