"""Old weights in the migrated model, and back: bit by bit where it is exact, within the bound where it is warm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from tests.checkpoint.conftest import Run
from tests.checkpoint.texts import RELU, SIZES, load

BUNDLED = Path(__file__).parents[2] / "fixtures" / "latent_drift_trajectory.py"
IDS = torch.randint(29, (2, 17), generator=torch.Generator().manual_seed(1))
_BOUNDS = {"ReLU": 0.0349, "GELU": 0.0204}


def gpt(text: str, name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = load(text, name).GPT(*SIZES)
    return model


def noisy(model: nn.Module) -> nn.Module:
    """Biases are no longer 0, nor norms 1."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_exact_changes_leave_every_bit(home: Path, convert: Run, texts: dict[str, str], name: str, suffix: str) -> None:
    legacy = noisy(gpt(texts["legacy"], "legacy"))
    torch.save(legacy.state_dict(), home / "old.pt")
    run = convert("old.pt", f"new.{suffix}", "--model", f"{name}.py")
    assert run.returncode == 0, run.stderr
    new = gpt(texts[name], name, seed=5)
    new.load_state_dict(opened(home / f"new.{suffix}"), strict=True)
    assert torch.allclose(new(IDS), legacy(IDS), rtol=1e-4, atol=1e-4)
    torch.save(new.state_dict(), home / "saved.pt")
    run = convert("saved.pt", f"back.{suffix}", "--reverse", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    back = opened(home / f"back.{suffix}")
    assert same(dict(sorted(back.items())), dict(sorted(legacy.state_dict().items())))


def opened(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        state: dict[str, Tensor] = torch.load(path, weights_only=True)
        return state
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


# --- warm -----------------------------------------------------------------------------------------------------------


def hidden(model: nn.Module, products: list[str], last: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input of the last product of the first block's feed-forward, and its output."""
    seen: list[tuple[Tensor, Tensor]] = []
    module = model.get_submodule(last)
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0].detach(), out.detach())))
    model(x)
    handle.remove()
    return seen[0]


def is_warm(legacy: nn.Module, new: nn.Module, state: dict[str, Tensor], bound: float) -> bool:
    """The first feed-forward, whose input is the same on both sides, is within the bound."""
    new.load_state_dict(state, strict=True)
    (units, output), (other, result) = (
        hidden(model, [], f"blocks.0.ffn.{last}", IDS) for model, last in ((legacy, "2"), (new, "down"))
    )
    allowed = bound * state["blocks.0.ffn.down.weight"].abs().sum(1) + 1e-4
    return bool((units - other).abs().max() <= bound + 1e-4) and bool(((output - result).abs() <= allowed).all())


@pytest.mark.parametrize(("activation", "k"), [("ReLU", 8.0), ("GELU", 1.702)])
def test_a_warm_start_keeps_its_bound_and_goes_back(
    home: Path, convert: Run, activation: str, k: float, texts: dict[str, str]
) -> None:
    before = RELU if activation == "ReLU" else texts["legacy"]
    # The positions stay: with them away, the feed-forward would be given something else.
    after = plan(Path("gpt.py"), before, phase=Phase.ARCHITECTURE, only=frozenset({"attention", "swiglu_warm"}),
                 choices={"feed_forward": "warm"}).text  # fmt: skip
    (home / "before.py").write_text(before)
    (home / "after.py").write_text(after)
    legacy = noisy(gpt(before, "before"))
    torch.save(legacy.state_dict(), home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "after.py", "--legacy", "before.py", "--format", "json")
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    kinds = {row["name"]: row["status"] for row in done["rows"]}
    assert kinds["blocks.2.ffn.0.weight -> blocks.2.ffn.gate.weight"] == "converted"
    assert kinds["blocks.2.ffn.2.weight -> blocks.2.ffn.down.weight"] == "reused"
    assert str(_BOUNDS[activation]) in json.dumps(done["rows"])
    assert done["parameters"][0] == sum(p.numel() for p in legacy.parameters())
    new = gpt(after, "after", seed=5)
    assert done["parameters"][1] == sum(p.numel() for p in new.parameters())
    state = opened(home / "new.pt")
    assert is_warm(legacy, new, state, _BOUNDS[activation])
    for name, wrong in mutants(state, k).items():
        assert not is_warm(legacy, new, wrong, _BOUNDS[activation]), name

    run = convert("new.pt", "back.pt", "--legacy", "before.py", "--reverse")
    assert run.returncode == 0, run.stderr
    back, old = opened(home / "back.pt"), legacy.state_dict()
    assert list(back) == list(old)
    for name in old:
        if activation == "ReLU" or not name.endswith(("ffn.0.weight", "ffn.0.bias")):
            assert torch.equal(back[name], old[name])  # a power of two rounds nothing
        else:
            assert torch.allclose(back[name], old[name], rtol=2**-22, atol=0)


def mutants(state: dict[str, Tensor], k: float) -> dict[str, dict[str, Tensor]]:
    def with_(**changes: Any) -> dict[str, Tensor]:
        changed = {f"blocks.0.ffn.{name.replace('_', '.')}": value for name, value in changes.items()}
        return {**state, **changed}

    gate, up, down = (state[f"blocks.0.ffn.{name}.weight"] for name in ("gate", "up", "down"))
    bias, one = state["blocks.0.ffn.gate.bias"], state["blocks.0.ffn.up.bias"]
    return {
        "k forgotten": with_(gate_weight=gate / k, gate_bias=bias / k),
        "k forgotten in the bias": with_(gate_bias=bias / k),
        "up bias 1": with_(up_bias=torch.ones_like(one)),
        "up bias k": with_(up_bias=torch.full_like(one, k)),
        "up not zero": with_(up_weight=up + 0.05),
        "gate transposed": with_(gate_weight=gate.reshape(gate.shape[1], gate.shape[0]).T.contiguous()),
        "down transposed": with_(down_weight=down.reshape(down.shape[1], down.shape[0]).T.contiguous()),
    }


def test_a_trained_gate_does_not_go_back(home: Path, convert: Run, texts: dict[str, str]) -> None:
    torch.save(gpt(texts["legacy"], "legacy").state_dict(), home / "old.pt")
    after = texts["warm"]
    assert convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py").returncode == 0
    model = gpt(after, "warm", seed=5)
    model.load_state_dict(opened(home / "new.pt"))
    model(IDS).logsumexp(-1).sum().backward()
    torch.optim.AdamW(model.parameters()).step()
    torch.save(model.state_dict(), home / "trained.pt")
    run = convert("trained.pt", "back.pt", "--legacy", "legacy.py", "--reverse")
    assert run.returncode == 2
    assert "not-invertible: blocks.0.ffn.up has been trained" in run.stderr and run.stderr.count("\n") == 1
    assert not (home / "back.pt").exists()


# --- the bundled file ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled")
    text = BUNDLED.read_text(encoding="utf-8")
    for phase in (1, 2):
        (folder / f"phase{phase}.py").write_text(plan(BUNDLED, text, phase=Phase(phase)).text)
    (folder / "legacy.py").write_text(text)
    module = load(text, "bundled_legacy")
    torch.manual_seed(0)
    sizes = {"latent_size": 64, "hidden_size": 128, "embed_size": 64, "num_slices": 512}
    model = module.DeterministicLatentODE(vocab_size=module.vocab_size, **sizes)
    torch.save(model.state_dict(), folder / "old.pt")
    return folder


def test_the_bundled_file_there_and_back(bundled: Path, convert: Run) -> None:
    run = convert(bundled / "old.pt", bundled / "new.pt", "--model", bundled / "phase1.py")
    assert run.returncode == 0, run.stderr
    run = convert(bundled / "new.pt", bundled / "back.pt", "--reverse", "--legacy", bundled / "legacy.py")
    assert run.returncode == 0, run.stderr
    old, new, back = (opened(bundled / f"{name}.pt") for name in ("old", "new", "back"))
    assert same(old, new) and same(old, back)


def test_the_bundled_file_in_phase_2(bundled: Path, convert: Run) -> None:
    run = convert(bundled / "old.pt", bundled / "two.pt", "--model", f"{bundled / 'phase2.py'}:DeterministicLatentODE",
                  "--legacy", bundled / "legacy.py", "--format", "json")  # fmt: skip
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    kinds: dict[str, set[str]] = {}
    for row in done["rows"]:
        kinds.setdefault(row["status"], set()).add(row["name"].rpartition(".trunk.")[2].lstrip("0123."))
    assert {"ffn_fc1.weight", "ffn_fc1.bias", "ffn_fc2.weight"} <= kinds["resized"]
    assert any("final_norm" in name for name in kinds["new"])
    assert "converted" not in kinds and "dropped" not in kinds
    module = load((bundled / "phase2.py").read_text(), "bundled_modern")
    sizes = {"latent_size": 64, "hidden_size": 128, "embed_size": 64, "num_slices": 512}
    model = module.DeterministicLatentODE(vocab_size=module.vocab_size, **sizes)
    model.load_state_dict(opened(bundled / "two.pt"), strict=True)
    old, new = opened(bundled / "old.pt"), opened(bundled / "two.pt")
    assert all(torch.equal(old[row["name"]], new[row["name"]]) for row in done["rows"] if row["status"] == "reused")
