"""Checkpoints whose bytes contradict themselves: one clear line, whatever a header, a pickle or an archive claims."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from migrator.checkpoint import storing
from migrator.errors import MigrateError
from tests.checkpoint.conftest import Run
from tests.checkpoint.test_round_trips import gpt


def headed(text: bytes, rest: int = 12) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(rest)


def tensor(shape: object, begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def entries(**tensors: object) -> bytes:
    return json.dumps(tensors).encode()


SAFETENSORS = {
    "beyond the end": headed(entries(a=tensor([3], 0, 1 << 60))),
    "before the start": headed(entries(a=tensor([3], -12, 0))),
    "negative shape": headed(entries(a=tensor([-3], 0, 12))),
    "shape that overflows": headed(entries(a=tensor([1 << 40, 1 << 40], 0, 12))),
    "half a row": headed(entries(a=tensor([1.5], 0, 12))),
    "backwards": headed(entries(a=tensor([3], 12, 0))),
    "two in one place": headed(entries(a=tensor([3], 0, 12), b=tensor([3], 0, 12))),
    "overlap": headed(entries(a=tensor([3], 0, 12), b=tensor([3], 8, 20)), 20),
    "hole": headed(entries(a=tensor([3], 0, 12), b=tensor([3], 24, 36)), 36),
    "more than is named": headed(entries(a=tensor([3], 0, 12)), 50),
    "no entry": headed(entries(a=None)),
    "metadata that is no text": headed(entries(__metadata__={"a": 1}, a=tensor([3], 0, 12))),
    "nested without end": headed(b'{"a":' * 50_000),
}


def why(path: Path) -> MigrateError:
    with pytest.raises(MigrateError) as caught:
        storing.read(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", SAFETENSORS)
def test_headers_of_safetensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "old.safetensors"
    path.write_bytes(SAFETENSORS[name])
    error = why(path)
    assert error.code == "damaged" and "it cannot be read: Error while deserializing header" in str(error)


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 34) + b"{")
    os.truncate(path, 1 << 35)
    assert "header too large" in str(why(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x03\x85", b"K\xf0\x85"),  # more elements than are stored
        (b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),  # fewer than none
        (b"K\x01\x85", b"M\xff\xff\x85"),  # strides that lead out of it
        (b"K\x03tq", b"M\xff\xfftq"),  # a storage that is larger than its bytes
        (b"FloatStorage", b"DoubleStorage"),  # and one that is larger by its dtype
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),  # a storage that is not there
    ],
)
def test_shapes_and_sizes_in_a_pickle(tmp_path: Path, old: bytes, new: bytes) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "good.pt")
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as lying:
        for name in good.namelist():
            data = good.read(name)
            assert old in data or not name.endswith("data.pkl")
            lying.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)
    assert why(path).code == "damaged"


def test_a_torch_that_can_be_led_to_run_code_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt")
    for version, safe in (("2.5.1+cpu", False), ("1.13.0", False), ("2.6.0", True), ("2.13.0+cpu", True)):
        monkeypatch.setattr(torch, "__version__", version)
        if safe:
            assert set(storing.read(tmp_path / "old.pt").tree) == {"a"}
        else:
            error = why(tmp_path / "old.pt")
            assert error.code == "old-torch" and "may run code when it reads this format" in error.cause


def test_tensors_without_values(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(3), "b": torch.zeros(3, device="meta")}}, tmp_path / "old.pt")
    error = why(tmp_path / "old.pt")
    assert error.code == "no-weights" and "its tensor b has no values" in error.cause


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "old.pt").symlink_to("old.pt")
    assert why(tmp_path / "old.pt").code == "damaged"


def test_a_list_and_names_that_a_terminal_would_obey(home: Path, convert: Run, texts: dict[str, str]) -> None:
    state = gpt(texts["legacy"], "legacy").state_dict()
    torch.save([state, {"\x1b[31mred\n": torch.zeros(3)}, "epoch"], home / "old.pt")
    run = convert("old.pt", "new.pt", "--model", "exact.py")
    assert run.returncode == 0, run.stderr
    assert "kept as they were: 1, 2" in run.stdout
    assert torch.load(home / "new.pt", weights_only=True)[2] == "epoch"
    torch.save({"model": state, "\x1b[31mred\n": 1}, home / "old.pt")
    run = convert("old.pt", "other.pt", "--model", "exact.py")
    assert run.returncode == 0 and "\x1b" not in run.stdout and "\\x1b[31mred" in run.stdout
