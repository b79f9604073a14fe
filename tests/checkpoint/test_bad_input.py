"""Whatever is wrong with the input: one clear line, exit code 2, nothing written, and no code of the file's is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from migrator import checkpoint
from migrator.checkpoint import Request
from migrator.errors import MigrateError
from tests.checkpoint.conftest import Run
from tests.checkpoint.test_round_trips import gpt


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def good(home: Path, texts: dict[str, str]) -> dict[str, torch.Tensor]:
    state = gpt(texts["legacy"], "legacy").state_dict()
    torch.save(state, home / "good.pt")
    return state


def refused(run: object, code: str, words: str = "") -> None:
    assert run.returncode == 2, (run.stdout, run.stderr)  # type: ignore[attr-defined]
    line = run.stderr  # type: ignore[attr-defined]
    assert f"{code}: " in line and words in line
    assert line.count("\n") == 1 and "Traceback" not in line and "internal" not in line, line


def whole_module(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), home / "old.pt")


def hostile(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": state, "x": Evil(home / "ran")}, home / "old.pt")


def hostile_in_the_old_format(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(Evil(home / "ran"), home / "old.pt", _use_new_zipfile_serialization=False)


def bare_pickle(home: Path, state: dict[str, torch.Tensor]) -> None:
    (home / "old.pt").write_bytes(pickle.dumps(Evil(home / "ran")))


def arguments(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, home / "old.pt")


def torchscript(home: Path, state: dict[str, torch.Tensor]) -> None:
    with zipfile.ZipFile(home / "old.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", b"")


def truncated(home: Path, state: dict[str, torch.Tensor]) -> None:
    (home / "old.pt").write_bytes((home / "good.pt").read_bytes()[:-3000])


def empty(home: Path, state: dict[str, torch.Tensor]) -> None:
    (home / "old.pt").write_bytes(b"")


def text(home: Path, state: dict[str, torch.Tensor]) -> None:
    (home / "old.pt").write_text("version https://example.org/large-file\nsize 12345\n")


def bomb(home: Path, state: dict[str, torch.Tensor]) -> None:
    """A storage of 50 MB in a file of 50 kB."""
    with (
        zipfile.ZipFile(home / "good.pt") as source,
        zipfile.ZipFile(home / "old.pt", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, bytes(50_000_000) if name.endswith("data/0") else source.read(name))


def billion_laughs(home: Path, state: dict[str, torch.Tensor]) -> None:
    node: object = {"n": 1}
    for _ in range(60):
        node = [node] * 10
    torch.save(node, home / "old.pt")


def no_tensors(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"epoch": 3}, home / "old.pt")


def another_model(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, home / "old.pt")


def another_size(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({**state, "ln_f.weight": torch.zeros(25)}, home / "old.pt")


def more_blocks(home: Path, state: dict[str, torch.Tensor]) -> None:
    extra = {name.replace("blocks.2.", "blocks.3."): value for name, value in state.items() if "blocks.2." in name}
    torch.save({**state, **extra}, home / "old.pt")


def fewer_blocks(home: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({name: value for name, value in state.items() if "blocks.2." not in name}, home / "old.pt")


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (whole_module, "pickled-code", "it is, or holds, a whole module that is pickled as code"),
        (hostile, "pickled-code", "that is pickled as code ("),
        (hostile_in_the_old_format, "pickled-code", "and code is never loaded"),
        (bare_pickle, "damaged", "it cannot be read"),
        (arguments, "pickled-code", "it is, or holds, an object"),
        (torchscript, "torchscript", "this is a TorchScript archive, which is code"),
        (truncated, "damaged", "it cannot be read"),
        (empty, "empty", "the file is empty"),
        (text, "not-a-checkpoint", "this is neither a checkpoint of torch.save nor a safetensors file"),
        (bomb, "damaged", "its entries claim to be larger"),
        (billion_laughs, "no-weights", "it holds no state dict"),
        (no_tensors, "no-weights", "it holds no state dict: no names with tensors"),
        (another_model, "no-fit", ""),
        (another_size, "no-fit", ""),
        (more_blocks, "no-fit", ""),
        (fewer_blocks, "no-fit", ""),
    ],
)
def test_checkpoints_that_are_refused(
    home: Path,
    convert: Run,
    texts: dict[str, str],
    make: Callable[[Path, dict[str, torch.Tensor]], None],
    code: str,
    words: str,
) -> None:
    make(home, good(home, texts))
    before = set(home.iterdir())
    refused(convert("old.pt", "new.pt", "--model", "exact.py"), code, words)
    assert set(home.iterdir()) == before


def test_a_bomb_is_not_even_unpacked(home: Path, convert: Run, texts: dict[str, str]) -> None:
    bomb(home, good(home, texts))
    assert "its entries claim to be larger than the file" in convert("old.pt", "new.pt", "--model", "exact.py").stderr


def header(**tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        header(a={"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 12]}) + bytes(12),  # lies about its shape
        header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}) + bytes(8),  # truncated
        header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, b={"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}) + bytes(16),
        struct.pack("<Q", 1 << 60) + b'{"a": 1}',  # a header larger than the file
        struct.pack("<Q", 8) + b'{"a": 1',
        struct.pack("<Q", 4) + b"{\xff\xfe}",
        header(a={"dtype": "F99", "shape": [3], "data_offsets": [0, 12]}) + bytes(12),
    ],
)  # fmt: skip
def test_safetensors_that_lie(home: Path, convert: Run, data: bytes) -> None:
    (home / "old.safetensors").write_bytes(data)
    refused(convert("old.safetensors", "new.pt", "--model", "exact.py"), "damaged")
    assert not (home / "new.pt").exists()


def test_the_plain_form_says_what_is_needed(home: Path, convert: Run, texts: dict[str, str]) -> None:
    good(home, texts)
    run = convert("good.pt", "new.pt")
    refused(run, "model-needed")
    assert "add --model FILE.py, the migrated file" in run.stderr
    refused(convert("good.pt", "new.pt", "--reverse"), "legacy-needed", "the way back leads to the tensors")


def test_files(home: Path, convert: Run, texts: dict[str, str]) -> None:
    good(home, texts)
    before = (home / "good.pt").read_bytes()
    refused(convert("none.pt", "new.pt", "--model", "exact.py"), "no-such-file")
    refused(convert("good.pt", "./good.pt", "--model", "exact.py", "--force"), "same-file", "OLD and NEW are one file")
    refused(convert("good.pt", "none/new.pt", "--model", "exact.py"), "not-written")
    refused(convert("good.pt", "new.pt", "--model", "none.py"), "no-such-file")
    refused(
        convert("good.pt", "new.pt", "--model", "exact.py:Nobody"), "no-model", "the file has no module class Nobody"
    )
    refused(convert("good.pt", "new.pt", "--model", "exact.py:GPT", "--build", "GPT(1)"), "not-built")
    (home / "broken.py").write_text(texts["exact"] + "\n\ndef ends(it=__import__('os')._exit(3)): ...\n")
    broken = convert("good.pt", "new.pt", "--model", "broken.py")
    refused(broken, "not-runnable", "the file cannot be run: its process did not answer")
    (home / "taken.pt").write_bytes(b"mine")
    refused(convert("good.pt", "taken.pt", "--model", "exact.py"), "exists", "this file is there already")
    assert (home / "taken.pt").read_bytes() == b"mine" and (home / "good.pt").read_bytes() == before
    os.chmod(home / "taken.pt", 0o640)
    assert convert("good.pt", "taken.pt", "--model", "exact.py", "--force").returncode == 0
    assert (home / "taken.pt").stat().st_mode & 0o777 == 0o640
    assert not list(home.glob(".*"))


def test_a_gate_whose_past_is_unknown(home: Path, convert: Run, texts: dict[str, str]) -> None:
    """Without the legacy file nobody knows whether ReLU or GELU stood where the gate is."""
    state = good(home, texts)
    renamed = {
        name.replace("ffn.0.", "ffn.gate.").replace("ffn.2.", "ffn.down."): value for name, value in state.items()
    }
    torch.save(renamed, home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "warm.py")
    refused(run, "legacy-needed")
    assert "--legacy" in run.stderr


@pytest.mark.parametrize("name", ["neutral", "warm"])
def test_a_gate_under_another_name(home: Path, convert: Run, texts: dict[str, str], name: str) -> None:
    """`ffn.0` has become `ffn.gate`; without the legacy file its weights would be thrown away."""
    good(home, texts)
    refused(convert("good.pt", "new.pt", "--model", f"{name}.py"), "legacy-needed")
    assert not (home / "new.pt").exists()


def test_a_file_that_only_holds_tensors(home: Path, convert: Run, texts: dict[str, str]) -> None:
    torch.save({"model": good(home, texts), "step": 1}, home / "old.pt")
    refused(
        convert("old.pt", "new.safetensors", "--model", "exact.py"),
        "not-flat",
        "a safetensors file holds nothing but tensors",
    )
    assert not (home / "new.safetensors").exists()


def test_a_model_that_does_not_end(home: Path, convert: Run, texts: dict[str, str]) -> None:
    good(home, texts)
    (home / "loop.py").write_text(
        texts["exact"].replace(
            "super().__init__()\n        self.wte", "super().__init__()\n        while True: pass\n        self.wte"
        )
    )
    refused(convert("good.pt", "new.pt", "--model", "loop.py", "--timeout", "6"), "timeout")
    assert not (home / "new.pt").exists() and not list(home.glob(".*"))


@pytest.mark.parametrize(
    ("start", "code", "words"),
    [
        ("import time; time.sleep(60)", "timeout", "not done after -4.8 s"),
        ("raise SystemExit", "no-answer", "the process that converts it ended"),
    ],
)
def test_a_worker_that_gives_no_answer(
    home: Path, monkeypatch: pytest.MonkeyPatch, start: str, code: str, words: str
) -> None:
    monkeypatch.setattr(checkpoint, "_START", start)
    with pytest.raises(MigrateError, match=words) as caught:
        checkpoint.convert(Request(home / "old.pt", home / "new.pt", False, None, None), timeout=-4.8)
    assert caught.value.code == code
