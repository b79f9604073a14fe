"""Two processes that share one model made of the runtime's parts: nothing of it is lost by sharding."""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from runtime import DepthScaledInit, FusedProjection, GradientCheckpointing, RotaryEmbedding, SwiGLU, attention

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
OUTPUTS = ("out.weight", "ff.down.weight")


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.qkv, self.rotary = FusedProjection(), RotaryEmbedding(self.head_dim)
        self.ff = SwiGLU(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(y) for y in self.qkv(self.ln1(x), self.q, self.k, self.v))
        q, k = self.rotary(q, k)
        x = x + self.out(attention(q, k, v, causal=True).transpose(1, 2).flatten(2))
        return x + self.ff(self.ln2(x))

    def heads(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[:-1], -1, self.head_dim).transpose(1, 2)


class Decoder(GradientCheckpointing, nn.Module):
    def __init__(self, vocab: int = 13, dim: int = 16, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)
        self.depth_init = DepthScaledInit(self.blocks, outputs=OUTPUTS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens)
        for block in self.blocks:
            x = self.checkpointed(block, x)
        y: Tensor = self.head(self.norm(x))
        return y


# --- what both processes do ---------------------------------------------------------------------------------------


def sharded(model: Decoder, **options: Any) -> Decoder:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    return model


def from_meta() -> Decoder:
    with torch.device("meta"):
        model = Decoder()
    sharded(model).to_empty(device="cpu")
    return model


def whole(tensor: Any) -> Tensor:
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return value.detach().clone()


def outputs(model: Decoder) -> list[Tensor]:
    return [whole(block.get_parameter(path)) for block in model.blocks for path in OUTPUTS]


def batch(step: int, shares: slice = slice(None)) -> Tensor:
    return torch.randint(13, (4, 8), generator=torch.Generator().manual_seed(step))[shares]


def own() -> slice:
    return slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)


def trained(model: nn.Module, shares: slice = slice(None), steps: int = 2) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        tokens = batch(step, shares)
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def constant(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.ones_(module.weight)


def drawn(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


def nothing(module: nn.Module) -> None:
    pass


def weights_go_to_a_single_process(folder: Path, checkpointing: bool = False) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model = Decoder()
    single, other = copy.deepcopy(model), Decoder()
    shared = sharded(model)
    if checkpointing:
        shared.gradient_checkpointing_enable()
    trained(single)
    trained(shared, own())
    state = get_model_state_dict(shared, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        other.load_state_dict(state)  # strictly: no key is new, and none is missing
        torch.testing.assert_close(dict(other.named_parameters()), dict(single.named_parameters()))
        torch.testing.assert_close(other(batch(9)), single(batch(9)))


def so_they_do_with_checkpointing(folder: Path) -> None:
    weights_go_to_a_single_process(folder, checkpointing=True)


def weights_come_from_a_single_process(folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    single, shared = Decoder(), from_meta()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(shared, single.state_dict() if dist.get_rank() == 0 else {}, options=options)
    assert not shared.depth_init.armed
    torch.testing.assert_close(shared(batch(9)), single(batch(9)))


def shards_are_saved_and_loaded(folder: Path) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    shared, other = sharded(Decoder()), from_meta()
    checkpoint.save(get_model_state_dict(shared), checkpoint_id=folder / "shards")
    state = get_model_state_dict(other)
    checkpoint.load(state, checkpoint_id=folder / "shards")
    set_model_state_dict(other, state)
    torch.testing.assert_close(other(batch(9)), shared(batch(9)))


def values_drawn_after_sharding_are_scaled(folder: Path) -> None:
    model = from_meta().apply(constant)
    assert model.depth_init.armed and model.depth_init.factor == 0.5
    for weight in outputs(model):
        torch.testing.assert_close(weight, torch.full_like(weight, 0.5), rtol=0, atol=0)
    assert bool((whole(model.blocks[0].q.weight) == 1).all())


def so_are_those_that_each_module_draws(folder: Path) -> None:
    model = from_meta()
    for _ in range(2):
        for module in model.modules():
            drawn(module)
        for weight in outputs(model):
            bound = 0.5 / weight.size(1) ** 0.5
            assert 0.9 * bound < weight.abs().max() <= bound


def values_drawn_before_sharding_are_not_scaled_twice(folder: Path) -> None:
    model = Decoder()
    before = outputs(model)
    torch.testing.assert_close(outputs(sharded(model).apply(nothing)), before, rtol=0, atol=0)


def trained_values_are_not_scaled(folder: Path) -> None:
    for model in (sharded(Decoder()), from_meta().apply(drawn)):
        trained(model, own())
        before = outputs(model)
        torch.testing.assert_close(outputs(model.apply(nothing)), before, rtol=0, atol=0)
        assert not model.depth_init.armed


def nor_after_a_move(folder: Path) -> None:
    model = sharded(Decoder())
    trained(model, own())
    before = outputs(model.to(torch.float64))
    torch.testing.assert_close(outputs(model.apply(constant)), [torch.ones_like(one) for one in before])


def nor_those_of_copies_that_agree(folder: Path) -> None:
    """DistributedDataParallel has hooks of its own on the gradients."""
    model = Decoder()
    trained(nn.parallel.DistributedDataParallel(model), own())
    assert not model.depth_init.armed


def tables_stay_precise_in_mixed_precision(folder: Path) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    single = Decoder()
    model = sharded(copy.deepcopy(single), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    y = model(batch(9))
    assert y.dtype == torch.bfloat16 and model.blocks[0].rotary._cache[1].dtype == torch.float32
    torch.testing.assert_close(y.float(), single(batch(9)), rtol=0, atol=0.05)


def projections_may_be_split_over_processes(folder: Path) -> None:
    """Tensor parallelism: weights are distributed tensors while they are used, not only between uses."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    single = Decoder()
    model = copy.deepcopy(single)
    split = {**dict.fromkeys(("q", "k", "v", "ff.gate", "ff.up"), ColwiseParallel()),
             **dict.fromkeys(("out", "ff.down"), RowwiseParallel())}  # fmt: skip
    for block in model.blocks:
        parallelize_module(block, dist.device_mesh.init_device_mesh("cpu", (2,)), split)
    trained(single)
    trained(model)  # each process sees the whole batch, and has half of the heads
    torch.testing.assert_close(model(batch(9)), single(batch(9)))


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    weights_go_to_a_single_process,
    so_they_do_with_checkpointing,
    weights_come_from_a_single_process,
    shards_are_saved_and_loaded,
    values_drawn_after_sharding_are_scaled,
    so_are_those_that_each_module_draws,
    values_drawn_before_sharding_are_not_scaled_twice,
    trained_values_are_not_scaled,
    nor_after_a_move,
    nor_those_of_copies_that_agree,
    tables_stay_precise_in_mixed_precision,
    projections_may_be_split_over_processes,
)


# --- the processes ------------------------------------------------------------------------------------------------


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if Path("/sys/class/net/lo").exists() else "lo0"
    found = {}
    for scenario in SCENARIOS:
        torch.manual_seed(0)
        store = f"file://{folder}/{scenario.__name__}"
        dist.init_process_group("gloo", store, timedelta(seconds=30), rank=rank, world_size=2)
        try:
            scenario(folder)
            found[scenario.__name__] = ""
        except Exception:
            found[scenario.__name__] = traceback.format_exc()
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What went wrong in each of the two processes."""
    import torch.multiprocessing as processes

    folder = tmp_path_factory.mktemp("sharding")
    processes.spawn(work, (folder,), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
def test_sharding(found: list[dict[str, str]], name: str) -> None:
    assert [said[name] for said in found] == ["", ""], "\n".join(said[name] for said in found)
