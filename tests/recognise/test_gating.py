"""Which activation stands where a gate can come: ReLU, GELU, or the GELU that is computed by tanh."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.recognise.gates import gates
from migrator.recognise.gating import Gateless, gateless
from migrator.recognise.index import FileIndex

CASES = Path(__file__).parents[2] / "fixtures" / "swiglu_warm"
INLINE = (CASES / "activation_module" / "before.py").read_text(encoding="utf-8")
SEQUENTIAL = (CASES / "gelu_by_tanh" / "before.py").read_text(encoding="utf-8")
CALL = "self.act(self.fc1(self.norm2(x)))"


def activation(text: str) -> str:
    (found,) = gateless(FileIndex(text))
    assert isinstance(found, Gateless)
    return found.activation_name


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("nn.GELU()", "GELU"),
        ("nn.GELU('none')", "GELU"),
        ("nn.GELU('tanh')", "tanh GELU"),
        ("nn.GELU(approximate='tanh')", "tanh GELU"),
        ("nn.GELU(approximate=KIND)", "tanh GELU"),  # it may be: the wider bound holds for both
        ("nn.ReLU()", "ReLU"),
        ("nn.ReLU(inplace=True)", "ReLU"),
    ],
)
def test_modules(made: str, name: str) -> None:
    assert activation(INLINE.replace("nn.GELU()", made)) == name
    assert activation(SEQUENTIAL.replace('nn.GELU("tanh")', made)) == name


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("nn.functional.gelu(self.fc1(self.norm2(x)))", "GELU"),
        ("nn.functional.gelu(self.fc1(self.norm2(x)), approximate='tanh')", "tanh GELU"),
        ("nn.GELU('tanh')(self.fc1(self.norm2(x)))", "tanh GELU"),
        ("nn.functional.relu(self.fc1(self.norm2(x)))", "ReLU"),
        ("self.fc1(self.norm2(x)).relu()", "ReLU"),
    ],
)
def test_calls(call: str, name: str) -> None:
    assert CALL in INLINE
    assert activation(INLINE.replace(CALL, call)) == name


def test_gates_of_a_migrated_file() -> None:
    text = (CASES / "activation_module" / "after.py").read_text(encoding="utf-8")
    assert list(gates(FileIndex(text))) == [("Block", "fc1", "up")]
    assert not list(gates(FileIndex(INLINE)))
