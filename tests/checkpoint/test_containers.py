"""However people wrap weights: nested, compiled, parallel, averaged, tied, strided, in halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from migrator.checkpoint.containers import Names, dictionaries, is_optimizer, put
from tests.checkpoint.conftest import Run
from tests.checkpoint.test_round_trips import gpt, same

ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("old", "new", "spelt"),
    [
        (["a.w", "a.b"], "a.c", "a.c"),
        (["module.a.w", "module.b.w"], "c.w", "module.c.w"),
        (["_orig_mod.a.w"], "a.u", "_orig_mod.a.u"),
        (["module._orig_mod.a.w"], "c", "module._orig_mod.c"),
        (["_orig_mod.module.a.w"], "c", "_orig_mod.module.c"),
        (["h.0._orig_mod.fc.w", "h.1._orig_mod.fc.w", "ln.w"], "h.1.up.w", "h.1._orig_mod.up.w"),
        (["h.0._orig_mod.fc.w", "ln.w"], "norm.w", "norm.w"),
        (["module.module.a.w"], "a.u", "module.module.a.u"),
    ],
)
def test_new_names_are_wrapped_like_the_old_ones(old: list[str], new: str, spelt: str) -> None:
    names = Names(dict.fromkeys(old, ONE))
    assert names.unambiguous
    assert [names.key(name) for name in names.old] == old
    assert names.key(new) == spelt


def test_a_model_may_itself_have_a_module() -> None:
    assert list(Names({"module.a": ONE}, ["module.a", "module.b"]).old) == ["module.a"]
    assert list(Names({"module.module.a": ONE}, ["module.a"]).old) == ["module.a"]
    assert list(Names({"model.net.a": ONE, "model.net.b": ONE}, ["a", "c"]).old) == ["a", "b"]
    assert not Names({"a._orig_mod.w": ONE, "a.w": ONE}).unambiguous


def test_dictionaries_and_optimizers() -> None:
    optimizer = {"state": {0: {"step": ONE}}, "param_groups": []}
    tree = {"net": {"w": ONE}, "list": [{"deep": {"w": ONE}}], "opt": optimizer, "n": 1}
    assert [place.path for place in dictionaries(tree)] == [
        (), ("net",), ("opt",), ("list", 0), ("list", 0, "deep"),
    ]  # fmt: skip
    assert is_optimizer(optimizer) and not is_optimizer(tree)
    assert not is_optimizer({"state": {}, "param_groups": [{"lr": 1}]}) and not is_optimizer(
        {"state": {}, "param_groups": [5]}
    )
    assert put(tree, ("list", 0, "deep"), 5)["list"] == [{"deep": 5}]
    assert "opt" not in put(tree, ("opt",), None)


def noisy_state(texts: dict[str, str]) -> dict[str, torch.Tensor]:
    state = gpt(texts["legacy"], "legacy", seed=4).state_dict()
    return state


@pytest.mark.parametrize("path", [("model",), ("state_dict",), ("model_state_dict",), ("nets", "generator"), ()])
def test_nested(home: Path, convert: Run, texts: dict[str, str], path: tuple[str, ...]) -> None:
    state = noisy_state(texts)
    tree: Any = state
    for key in reversed(path):
        tree = {key: tree, "epoch": 3, "rng": torch.get_rng_state()}
    torch.save(tree, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "neutral.py", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    found = torch.load(home / "new.pt", weights_only=True)
    for key in path:
        assert found["epoch"] == 3 and torch.equal(found["rng"], tree["rng"])
        found, tree = found[key], tree[key]
    gpt(texts["neutral"], "neutral").load_state_dict(found, strict=True)
    assert getattr(found, "_metadata", None)


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "model.", "system.model."])
def test_wrapped(home: Path, convert: Run, texts: dict[str, str], prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in noisy_state(texts).items()}
    torch.save({"state_dict": state}, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    found = torch.load(home / "new.pt", weights_only=True)["state_dict"]
    bare = {name.removeprefix(prefix): value for name, value in found.items()}
    assert all(name.startswith(prefix) for name in found)
    gpt(texts["warm"], "warm").load_state_dict(bare, strict=True)


def test_averages_are_converted_too(home: Path, convert: Run, texts: dict[str, str]) -> None:
    state = noisy_state(texts)
    ema = {f"module.{name}": value * 0.5 for name, value in state.items()}
    torch.save({"model": state, "ema": ema}, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    found = torch.load(home / "new.pt", weights_only=True)
    gate = "blocks.1.ffn.gate.weight"
    assert torch.equal(found["ema"][f"module.{gate}"], found["model"][gate] * 0.5)
    assert found["ema"]["module.blocks.1.ffn.up.bias"][0].item() == pytest.approx(1 / 1.702)


def test_what_is_shared_stays_shared_and_what_is_strided_strided(
    home: Path, convert: Run, texts: dict[str, str]
) -> None:
    state = dict(noisy_state(texts))
    state["blocks.0.attn.query.weight"] = state["blocks.0.attn.query.weight"].t().contiguous().t()
    state = {
        name: value.half() if value.is_floating_point() and "mask" not in name else value
        for name, value in state.items()
    }
    state["head.weight"] = state["wte.weight"]
    torch.save(state, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    found = torch.load(home / "new.pt", weights_only=True)
    assert found["head.weight"].data_ptr() == found["wte.weight"].data_ptr()
    assert found["blocks.0.attn.query.weight"].stride() == state["blocks.0.attn.query.weight"].stride() == (1, 24)
    assert {str(value.dtype) for name, value in found.items() if "mask" not in name} == {"torch.float16"}
    assert convert("old.pt", "cold.pt", "--model", "neutral.py", "--legacy", "legacy.py").returncode == 0
    cold = torch.load(home / "cold.pt", weights_only=True)  # with initial values
    assert {str(value.dtype) for name, value in cold.items() if "mask" not in name} == {"torch.float16"}
    assert convert("old.pt", "new.safetensors", "--model", "exact.py").returncode == 0
    run = convert("new.safetensors", "back.pt", "--reverse", "--legacy", "legacy.py")
    assert run.returncode == 0, run.stderr
    back = torch.load(home / "back.pt", weights_only=True)
    assert same({name: back[name] for name in state}, state)


def test_words_in_a_safetensors_file_stay(home: Path, convert: Run, texts: dict[str, str]) -> None:
    from safetensors import safe_open

    from migrator.checkpoint.storing import Stored, write

    write(Stored(noisy_state(texts), {"author": "somebody"}), home / "old.safetensors", safetensors=True)
    assert convert("old.safetensors", "new.safetensors", "--model", "exact.py").returncode == 0
    with safe_open(home / "new.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "somebody"}


def test_a_tied_name_may_be_missing(home: Path, convert: Run, texts: dict[str, str]) -> None:
    state = noisy_state(texts)
    del state["head.weight"]  # as safetensors files of tied models leave it out
    torch.save(state, home / "old.pt")
    assert convert("old.pt", "new.pt", "--model", "exact.py").returncode == 0
    found = torch.load(home / "new.pt", weights_only=True)
    assert torch.equal(found["head.weight"], state["wte.weight"])


def test_how_the_model_is_built_can_be_said(home: Path, convert: Run, texts: dict[str, str]) -> None:
    from tests.checkpoint.texts import load

    torch.save(load(texts["legacy"], "legacy").GPT(11, 8, 2, 1).state_dict(), home / "old.pt")
    assert convert("old.pt", "new.pt", "--model", "exact.py").returncode == 2
    assert convert("old.pt", "new.pt", "--model", "exact.py", "--build", "GPT(11, 8, 2, 1)").returncode == 0
    (home / "pyproject.toml").write_text('[tool.migrate.probe]\nGPT = "GPT(11, 8, 2, 1)"\n')
    assert convert("old.pt", "again.pt", "--model", "exact.py").returncode == 0
    assert (home / "again.pt").exists()


def test_initial_values_are_those_of_the_seed(home: Path, convert: Run, texts: dict[str, str]) -> None:
    torch.save(noisy_state(texts), home / "old.pt")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            convert("old.pt", f"{name}.pt", "--model", "neutral.py", "--legacy", "legacy.py", "--seed", seed).returncode
            == 0
        )
    a, b, c = (torch.load(home / f"{name}.pt", weights_only=True) for name in "abc")
    assert same(a, b)
    changed = {name for name in a if not torch.equal(a[name], c[name])}
    assert changed and all(".ffn." in name for name in changed)
    built = gpt(texts["neutral"], "neutral", seed=1).state_dict()
    assert all(torch.equal(a[name], built[name]) for name in changed)
