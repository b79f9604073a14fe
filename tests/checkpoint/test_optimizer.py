"""The optimizer's state goes where its parameters go, or is left out and said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from migrator.checkpoint.optimizing import Parameters, Unclear, follow
from tests.checkpoint.conftest import Run
from tests.checkpoint.test_round_trips import IDS, gpt

Groups = list[dict[str, Any]]


def one_group(model: nn.Module) -> Groups:
    return [{"params": list(model.parameters())}]


def by_dimensions(model: nn.Module) -> Groups:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def by_hand(model: nn.Module) -> Groups:
    """In an order that nobody could guess."""
    parameters = list(model.parameters())
    return [{"params": parameters[1::2]}, {"params": parameters[::2]}]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(29, IDS.shape, generator=generator)
    loss = nn.functional.cross_entropy(model(IDS).flatten(0, 1), target.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def trained(text: str, grouped: Any) -> tuple[nn.Module, torch.optim.AdamW]:
    model = gpt(text, "legacy").double()
    optimizer = torch.optim.AdamW(grouped(model), lr=1e-2)
    for seed in range(3):
        step(model, optimizer, seed)
    return model, optimizer


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("grouped", [one_group, by_dimensions, by_hand])
def test_the_next_step_is_that_of_the_legacy_model(
    home: Path, convert: Run, texts: dict[str, str], name: str, grouped: Any
) -> None:
    model, optimizer = trained(texts["legacy"], grouped)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "best": 1.5}
    torch.save(state, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", f"{name}.py")
    assert run.returncode == 0, run.stderr
    assert "optimizer: state of" in run.stdout and "kept as they were: step, best" in run.stdout
    found = torch.load(home / "new.pt", weights_only=True)
    assert (found["step"], found["best"]) == (3, 1.5)
    new = gpt(texts[name], name, seed=9).double()
    resumed = torch.optim.AdamW(grouped(new), lr=1e-2)
    new.load_state_dict(found["model"], strict=True)
    resumed.load_state_dict(found["optimizer"])
    assert step(new, resumed, 3) == pytest.approx(step(model, optimizer, 3), rel=1e-12)
    # AdamW divides by the root of a gradient's square: what is zero but for rounding may go anywhere.
    keys_without_gradient = ("key.bias",)
    for (key, old), now in zip(model.named_parameters(), new.parameters(), strict=True):
        if not key.endswith(keys_without_gradient):
            assert torch.allclose(old, now, rtol=1e-8, atol=1e-9), key


@pytest.mark.parametrize("grouped", [one_group, by_dimensions])
def test_new_parameters_start_without_state(home: Path, convert: Run, texts: dict[str, str], grouped: Any) -> None:
    model, optimizer = trained(texts["legacy"], grouped)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    found = torch.load(home / "new.pt", weights_only=True)
    new = gpt(texts["warm"], "warm", seed=9).double()
    resumed = torch.optim.AdamW(grouped(new), lr=1e-2)
    new.load_state_dict(found["model"], strict=True)
    resumed.load_state_dict(found["optimizer"])
    old = {name: optimizer.state[p]["exp_avg"] for name, p in model.named_parameters() if p in optimizer.state}
    kept = {name: resumed.state[p]["exp_avg"] for name, p in new.named_parameters() if p in resumed.state}
    renamed = {name: name.replace("ffn.down", "ffn.2") for name in kept}
    assert kept and all(torch.equal(kept[name], old[renamed[name]]) for name in kept)
    without = {name for name, _ in new.named_parameters()} - set(kept)
    assert without == {
        f"blocks.{i}.ffn.{part}.{kind}" for i in range(3) for part in ("gate", "up") for kind in ("weight", "bias")
    }
    assert step(new, resumed, 3) > 0  # the step makes the state that was not there
    assert all(p in resumed.state for p in new.parameters())


def test_what_cannot_be_told_apart_is_left_out_and_said(home: Path, convert: Run, texts: dict[str, str]) -> None:
    model, optimizer = trained(texts["legacy"], by_hand)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py")
    assert run.returncode == 3
    assert "optimizer: the optimizer's state is dropped: " in " ".join(run.stdout.split())
    assert list(torch.load(home / "new.pt", weights_only=True)) == ["model"]


# --- by number ------------------------------------------------------------------------------------------------------


def adam(groups: list[list[tuple[int, ...]]], names: list[list[str]] | None = None) -> dict[str, Any]:
    """An optimizer's state dict, the `exp_avg` of each parameter filled with its number."""
    count = 0
    made: dict[str, Any] = {"state": {}, "param_groups": []}
    for number, shapes in enumerate(groups):
        indices = list(range(count, count + len(shapes)))
        more = {"param_names": names[number]} if names is not None else {}
        made["param_groups"].append({"lr": 0.1, "params": indices, **more})
        for index, shape in zip(indices, shapes, strict=True):
            made["state"][index] = {"step": torch.tensor(2.0), "exp_avg": torch.full(shape, float(index))}
        count += len(shapes)
    return made


OLD = Parameters(["a", "b", "c"], {"a": (2, 3), "b": (3,), "c": (4, 3)})
NEW = Parameters(["n", "a", "b", "c"], {"n": (3,), "a": (2, 3), "b": (3,), "c": (4, 3)})
REUSED = {"a": "a", "b": "b", "c": "c"}


def values(optimizer: dict[str, Any]) -> dict[int, float]:
    return {index: entry["exp_avg"].flatten()[0].item() for index, entry in optimizer["state"].items()}


def test_numbers_shift_with_the_order() -> None:
    found = follow(adam([[(2, 3), (3,), (4, 3)]]), OLD, NEW, REUSED)
    assert found["param_groups"][0]["params"] == [0, 1, 2, 3]
    assert values(found) == {1: 0.0, 2: 1.0, 3: 2.0}


def test_matrices_and_vectors() -> None:
    found = follow(adam([[(2, 3), (4, 3)], [(3,)]]), OLD, NEW, REUSED)
    assert [group["params"] for group in found["param_groups"]] == [[0, 1], [2, 3]]
    assert values(found) == {0: 0.0, 1: 1.0, 3: 2.0}  # a, c | n, b


def test_names_in_the_groups_are_believed_and_written() -> None:
    found = follow(adam([[(2, 3), (3,), (4, 3)]], [["a", "b", "c"]]), OLD, NEW, REUSED)
    assert found["param_groups"][0]["param_names"] == ["n", "a", "b", "c"]
    with pytest.raises(Unclear):
        follow(adam([[(2, 3), (3,), (4, 3)]], [["x", "b", "c"]]), OLD, NEW, REUSED)


@pytest.mark.parametrize(
    "groups",
    [
        [[(2, 3), (3,)]],  # one is missing
        [[(3,), (2, 3), (4, 3)]],  # another order
        [[(2, 3)], [(3,), (4, 3)]],  # grouped otherwise
        [[(3, 2), (3,), (4, 3)]],  # other shapes
    ],
)
def test_others_are_unclear(groups: list[list[tuple[int, ...]]]) -> None:
    with pytest.raises(Unclear):
        follow(adam(groups), OLD, NEW, REUSED)


def test_parameters_without_numbers_are_unclear() -> None:
    with pytest.raises(Unclear, match="not numbered"):
        follow({"state": {}, "param_groups": [{"params": ["a", [1], "c"]}]}, OLD, OLD, REUSED)


def test_like_shapes_in_two_possible_orders_are_unclear() -> None:
    names = [f"h.{i}" for i in range(11)]  # by name, h.10 comes before h.2
    old = Parameters(names, dict.fromkeys(names, (2, 2)))
    new = Parameters([*names, "n"], {**dict.fromkeys(names, (2, 2)), "n": (2,)})
    with pytest.raises(Unclear, match="neither by name nor by shape"):
        follow(adam([[(2, 2)] * 11, []]), old, new, {name: name for name in names})


def test_the_very_same_parameters_need_no_rule() -> None:
    optimizer = adam([[(4, 3)], [(2, 3), (3,)]])
    assert follow(optimizer, OLD, OLD, REUSED) is optimizer
