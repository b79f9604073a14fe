"""Depth-scaled initial values: when they are scaled, and above all when they must not be."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from runtime import DepthScaledInit, Encoder

OUTPUTS = ("mix.w_o", "fc2.weight")


class Mix(nn.Module):
    """Attention weights as bare parameters, which an `isinstance(m, nn.Linear)` of an init function passes over."""

    def __init__(self) -> None:
        super().__init__()
        self.w_v = nn.Parameter(torch.randn(3, 5, 8))
        self.w_o = nn.Parameter(torch.randn(15, 8))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = Mix()
        self.fc1 = nn.Linear(8, 6)
        self.fc2 = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + (x @ self.mix.w_v.mean(0).T).repeat(1, 3) @ self.mix.w_o
        return x + self.fc2(self.fc1(x).relu())


class Trunk(nn.Module):
    def __init__(self, blocks: nn.Module, outputs: tuple[str, ...] = OUTPUTS) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 8)
        self.blocks = blocks
        self.depth_init = DepthScaledInit(self.blocks, outputs=outputs)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.emb(tokens)
        for block in self.blocks:
            x = block(x)
        return x


class Model(nn.Module):
    """Two levels above the stack, as where training scripts call `apply`."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.trunk = Trunk(nn.Sequential(*[Block() for _ in range(depth)]))
        self.head = nn.Linear(8, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(tokens))


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()


def residuals(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith(("w_o", "fc2.weight"))}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], factor: float = 1.0) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n] * factor) for n in one)


def train_step(model: nn.Module, clear: bool = False) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model(torch.arange(7)).square().sum().backward()
    optimizer.step()
    if clear:
        optimizer.zero_grad(set_to_none=True)


def fill_linear_by_data(m: nn.Module) -> None:
    """Sets by `.data`, which changes no version counter; one value per class, known afterwards."""
    if isinstance(m, nn.Linear):
        m.weight.data = torch.full_like(m.weight, 0.5)
    if isinstance(m, Mix):
        m.w_o.data.fill_(0.25)


def fill_linear_by_init(m: nn.Module) -> None:
    if isinstance(m, nn.Linear):
        nn.init.constant_(m.weight, 0.5)
    if isinstance(m, Mix):
        nn.init.constant_(m.w_o, 0.25)


def clip(m: nn.Module) -> None:
    """Weight clipping after each step, as WGANs do."""
    for p in m.parameters(recurse=False):
        p.data.clamp_(-0.05, 0.05)


# --- construction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [lambda b: nn.Sequential(*b), nn.ModuleList])
@pytest.mark.parametrize("depth", [1, 2, 4, 12])
def test_construction_scales_the_outputs_and_nothing_else(container, depth: int) -> None:
    blocks = container([Block() for _ in range(depth)])
    before, state = residuals(blocks), copy.deepcopy(blocks.state_dict())
    random_state = torch.get_rng_state()
    DepthScaledInit(blocks, OUTPUTS)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert equal(residuals(blocks), before, 1 / math.sqrt(2 * depth))
    assert all(torch.equal(p, state[n]) for n, p in blocks.state_dict().items() if n not in before)
    assert len(before) == 2 * depth


def test_single_block() -> None:
    block = Block()
    before = residuals(block)
    owner = Trunk(block)
    assert equal(residuals(block), before, 1 / math.sqrt(2))
    owner.apply(fill_linear_by_init)
    assert block.fc2.weight.unique().item() == pytest.approx(0.5 / math.sqrt(2))


def test_residual_variance_does_not_grow_with_depth() -> None:
    """What the scaling is for: 2 N branches of unit variance add one to the residual, not 2 N."""
    encoder = Encoder(32, 64, 4, 64, final_norm=False)
    for block in encoder.blocks:
        nn.init.normal_(block.feed_forward.down.weight, std=1.0)
        nn.init.normal_(block.out.weight, std=1.0)
    x = torch.randn(4, 9, 64)
    wild = (encoder(x) - x).var().item()
    DepthScaledInit(encoder.blocks, ("out.weight", "feed_forward.down.weight"))
    assert (encoder(x) - x).var().item() == pytest.approx(wild / 64, rel=0.5)


def test_a_weight_that_blocks_share_is_scaled_once() -> None:
    block = Block()
    before = residuals(block)
    DepthScaledInit(nn.ModuleList([block, block, block]), OUTPUTS)
    assert equal(residuals(block), before, 1 / math.sqrt(6))


def test_nothing_is_registered() -> None:
    with_init, without = Model(), Model()
    del without.trunk.depth_init
    assert list(with_init.state_dict()) == list(without.state_dict())
    assert [n for n, _ in with_init.named_parameters()] == [n for n, _ in without.named_parameters()]
    assert not list(with_init.trunk.depth_init.buffers()) and not list(with_init.trunk.depth_init.children())
    names = [n for n, _ in with_init.named_modules(remove_duplicate=False)]
    assert sorted(names) == sorted([n for n, _ in without.named_modules()] + ["trunk.depth_init"])
    without.load_state_dict(with_init.state_dict(), strict=True)
    with_init.load_state_dict(without.state_dict(), strict=True)


# --- apply survives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [fill_linear_by_data, fill_linear_by_init])
@pytest.mark.parametrize("level", ["model.trunk", "model", ""])
def test_apply_of_any_ancestor_keeps_the_scaling(fill, level: str) -> None:
    root = Root()
    factor = 1 / math.sqrt(8)
    for _ in range(2):  # an init function that is applied twice sets the same values twice
        assert root.get_submodule(level).apply(fill) is root.get_submodule(level)
        for block in root.model.trunk.blocks:
            assert block.fc2.weight.unique().item() == pytest.approx(0.5 * factor)
            assert block.mix.w_o.unique().item() == pytest.approx(0.25 * factor)
            assert block.fc1.weight.unique().item() == 0.5
    assert level == "model.trunk" or root.model.head.weight.unique().item() == 0.5


def test_apply_scales_only_what_it_has_changed() -> None:
    """The usual init function sees `nn.Linear`, and no bare parameter: those keep the scaling they have."""
    model = Model()
    before = residuals(model)

    def init_linear(m: nn.Module) -> None:
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)

    torch.manual_seed(1)
    model.apply(init_linear)
    after, plain = residuals(model), Model()
    del plain.trunk.depth_init
    torch.manual_seed(1)
    plain.apply(init_linear)
    for name, weight in residuals(plain).items():
        expected = before[name] if name.endswith("w_o") else weight * (1 / math.sqrt(8))
        assert torch.equal(after[name], expected)


def test_apply_of_a_function_that_only_counts() -> None:
    model = Model()
    before, seen = residuals(model), []
    for _ in range(3):
        model.apply(lambda m: seen.append(m))
    assert equal(residuals(model), before)
    assert len(seen) == 3 * len(list(model.modules())) and seen.count(model.trunk.depth_init) == 3


CASTS = [nn.Module.half, nn.Module.bfloat16, nn.Module.double, lambda m: m.half().float()]


@pytest.mark.parametrize("cast", CASTS, ids=["half", "bfloat16", "double", "half and back"])
def test_casts_are_no_new_initial_values(cast) -> None:
    model = Model()
    cast(model)
    before = residuals(model)
    model.apply(lambda m: None)
    assert equal(residuals(model), before)


@pytest.mark.parametrize("cast", CASTS[:3], ids=["half", "bfloat16", "double"])
def test_casts_of_the_stack_alone(cast) -> None:
    """Only the size of the values can tell here whether they are new."""
    model = Model()
    cast(model.trunk.blocks)
    before, other = residuals(model), copy.deepcopy(model)
    model.apply(lambda m: None)
    assert equal(residuals(model), before)
    other.apply(fill_linear_by_init)
    value = other.trunk.blocks[0].fc2.weight.unique().item()
    assert value == pytest.approx(0.5 / math.sqrt(8), rel=1e-2)


def test_from_the_meta_device() -> None:
    with torch.device("meta"):
        model = Model()
    model.to_empty(device="cpu")
    model.apply(fill_linear_by_init)
    assert model.trunk.blocks[3].fc2.weight.unique().item() == pytest.approx(0.5 / math.sqrt(8))


def test_new_parameters_after_a_change_of_device_are_watched() -> None:
    with torch.device("meta"):
        model = Model()
    model.to_empty(device="cpu")
    for p in model.parameters():
        nn.init.constant_(p, 0.01)
    train_step(model, clear=True)
    assert not model.trunk.depth_init.armed


# --- apply does no harm once values are no initial ones -------------------------------------------------------------


@pytest.mark.parametrize("clear", [False, True], ids=["grads kept", "grads set to None"])
def test_weight_clipping_in_training(clear: bool) -> None:
    model = Model()
    for _ in range(3):
        train_step(model, clear)
        expected = {n: w.clamp(-0.05, 0.05) for n, w in residuals(model).items()}
        model.apply(clip)
        assert equal(residuals(model), expected)


def test_a_gradient_that_was_set_by_hand_disarms() -> None:
    model = Model()
    weight = model.trunk.blocks[1].fc2.weight
    weight.grad = torch.zeros_like(weight)
    model.apply(fill_linear_by_init)
    assert weight.unique().item() == 0.5


def test_forward_alone_does_not_disarm() -> None:
    model = Model()
    model(torch.arange(7))
    model.apply(fill_linear_by_init)
    assert model.trunk.blocks[0].fc2.weight.unique().item() == pytest.approx(0.5 / math.sqrt(8))


@pytest.mark.parametrize("level", ["model.trunk", "model", ""])
@pytest.mark.parametrize("assign", [False, True])
def test_after_a_checkpoint(level: str, assign: bool) -> None:
    root, trained = Root(), Root()
    part = root.get_submodule(level)
    state = trained.get_submodule(level).state_dict()
    part.load_state_dict(state, assign=assign)
    assert equal(residuals(part), residuals(trained.get_submodule(level)))
    part.apply(lambda m: None)
    assert equal(residuals(part), residuals(trained.get_submodule(level)))
    root.apply(fill_linear_by_init)
    assert root.model.trunk.blocks[0].fc2.weight.unique().item() == 0.5


def test_one_hook_until_the_first_gradient_and_none_after_it() -> None:
    model = Model()
    for _ in range(3):
        model.apply(fill_linear_by_init)
    hooks = {n: len(p._post_accumulate_grad_hooks or ()) for n, p in model.named_parameters()}
    assert hooks == {n: int(n in residuals(model)) for n in hooks}
    train_step(model)
    assert not model.trunk.depth_init.armed
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())


def test_frozen_outputs() -> None:
    blocks = nn.ModuleList([Block(), Block()]).requires_grad_(False)
    before = residuals(blocks)
    DepthScaledInit(blocks, OUTPUTS)
    assert equal(residuals(blocks), before, 0.5)


# --- copies ---------------------------------------------------------------------------------------------------------


def saved_and_loaded(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies_look_after_themselves(twin_of) -> None:
    model = Model()
    before = residuals(model)
    twin = twin_of(model)
    assert equal(residuals(twin), before)
    twin.apply(lambda m: None)
    assert equal(residuals(twin), before)
    twin.apply(fill_linear_by_init)
    assert equal(residuals(model), before)  # the original is not touched
    assert twin.trunk.blocks[0].fc2.weight.unique().item() == pytest.approx(0.5 / math.sqrt(8))
    train_step(twin, clear=True)
    assert not twin.trunk.depth_init.armed and model.trunk.depth_init.armed
    model.apply(fill_linear_by_init)
    assert model.trunk.blocks[0].fc2.weight.unique().item() == pytest.approx(0.5 / math.sqrt(8))


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies_watch_their_own_weights(twin_of) -> None:
    model = Model()
    twin = twin_of(model)
    train_step(twin, clear=True)
    assert not twin.trunk.depth_init.armed and model.trunk.depth_init.armed


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies_of_a_trained_model_stay_disarmed(twin_of) -> None:
    model = Model()
    train_step(model, clear=True)
    twin = twin_of(model)
    twin.apply(fill_linear_by_init)
    assert twin.trunk.blocks[0].fc2.weight.unique().item() == 0.5


# --- callers' mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fc3.weight", "mix.w_x", "fc2", "mix", "fc2.in_features"])
def test_missing_path_names_it_and_scales_nothing(path: str) -> None:
    blocks = nn.Sequential(Block(), Block())
    before = residuals(blocks)
    with pytest.raises(ValueError, match=f"'{path}' must be a parameter of each block.* in "):
        DepthScaledInit(blocks, ("mix.w_o", path))
    assert equal(residuals(blocks), before)


def test_empty_arguments() -> None:
    with pytest.raises(ValueError, match="at least one block, got an empty stack"):
        DepthScaledInit(nn.Sequential(), OUTPUTS)
    with pytest.raises(ValueError, match="at least one path, got none"):
        DepthScaledInit(nn.Sequential(Block()), ())
