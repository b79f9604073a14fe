"""The command on real files, proof included: exit codes, untouched files, one clear line for each thing gone wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrator import cli
from migrator.rewrite import engine
from migrator.rewrite.plan import Plan

from .conftest import FIXTURE

# A model of the kind that `migrate` is for, in as few lines as it takes; hidden size and head count are for the tests.
MODEL = """
import math
import torch
from torch import nn
import torch.nn.functional as F


class Positions(nn.Module):
    def __init__(self, len_max):
        super().__init__()
        self.len_max = len_max

    def forward(self, x):
        u = torch.arange(x.size(1), device=x.device)[:, None]
        j = torch.arange(x.size(2), device=x.device)[None, :]
        k = j % 2
        return x + torch.sin(u / (self.len_max ** ((j - k) / x.size(2))) + math.pi / 2 * k)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.w_q = nn.Parameter(torch.randn(heads, dim // heads, dim))
        self.w_k = nn.Parameter(torch.randn(heads, dim // heads, dim))
        self.w_v = nn.Parameter(torch.randn(heads, dim // heads, dim))
        self.w_o = nn.Parameter(torch.randn(heads * (dim // heads), dim))

    def forward(self, x):
        q = torch.einsum("ntc,hdc->nhtd", x, self.w_q)
        k = torch.einsum("ntc,hdc->nhtd", x, self.w_k)
        v = torch.einsum("ntc,hdc->nhtd", x, self.w_v)
        a = torch.einsum("nhtd,nhsd->nhts", q, k) / math.sqrt(q.size(-1))
        y = torch.einsum("nhts,nhsd->nthd", a.softmax(dim=-1), v).flatten(2)
        return y @ self.w_o


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.att = Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = x + self.att(self.ln1(x))
        return x + self.fc2(F.relu(self.fc1(self.ln2(x))))


class Model(nn.Module):
    def __init__(self, vocab, dim, heads):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.pos = Positions(1e4)
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(2)])
        self.out = nn.Linear(dim, vocab)

    def forward(self, tokens):
        x = self.pos(self.emb(tokens))
        x = self.blocks(x)
        return self.out(x)


if __name__ == "__main__":
    model = Model(vocab=11, dim=16, heads=4)
"""


def migrate(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", path.name, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def assert_untouched(path: Path, text: str, result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert path.read_text() == text and [p.name for p in path.parent.iterdir() if p.suffix == ".py"] == [path.name]
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(path.name) and all(word in lines[0] for word in words), lines
    assert "Traceback" not in result.stdout + result.stderr


def test_the_whole_flow(tmp_path: Path) -> None:
    """Check, dry run, patch, migration, check again, second run: on the bundled file."""
    path = tmp_path / "latent_drift_trajectory.py"
    path.write_bytes(FIXTURE.read_bytes())
    assert migrate(path, "--phase", "2", "--check").returncode == 1
    patch = migrate(path, "--phase", "2", "--dry-run")
    assert patch.returncode == 0 and path.read_bytes() == FIXTURE.read_bytes()
    result = migrate(path, "--phase", "2", "--format", "json")
    assert result.returncode == 0, result.stderr
    (file,) = json.loads(result.stdout)["files"]
    assert file["verification"]["status"] == "proved"
    assert all(check["passed"] for check in file["verification"]["checks"])
    migrated = path.read_bytes()

    path.write_bytes(FIXTURE.read_bytes())
    subprocess.run(["git", "apply", "--unsafe-paths", "-"], input=patch.stdout.encode(), cwd=tmp_path, check=True)
    assert path.read_bytes() == migrated
    assert migrate(path, "--phase", "2", "--check").returncode == 0
    again = migrate(path, "--phase", "2")
    assert again.returncode == 0 and path.read_bytes() == migrated


def test_a_small_model_needs_no_configuration(model: Path) -> None:
    result = migrate(model, "--phase", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "proved" in result.stdout and "swiglu(self.fc1(normed), self.up(normed))" in model.read_text()


def test_a_half_migrated_file_is_finished(model: Path) -> None:
    assert migrate(model, "--phase", "2", "--only", "attention").returncode == 0
    half = model.read_text()
    assert "attention(q, k, v" in half and "RotaryEmbedding" not in half
    assert migrate(model, "--phase", "2", "--check").returncode == 1
    assert migrate(model, "--phase", "2").returncode == 0
    assert migrate(model, "--phase", "2", "--check").returncode == 0


def test_an_odd_head_is_refused_and_the_rest_migrated(model: Path) -> None:
    model.write_text(MODEL.replace("dim=16, heads=4", "dim=15, heads=5"))
    result = migrate(model, "--phase", "2")
    assert result.returncode == 3 and "odd-head-dim" in result.stdout + result.stderr
    text = model.read_text()
    assert "SinusoidalPositionalEncoding" in text and "RotaryEmbedding" not in text
    again = migrate(model, "--phase", "2")
    assert again.returncode == 3 and model.read_text() == text


def test_a_class_called_qkv_attention_that_is_none(model: Path) -> None:
    text = MODEL.replace("Attention", "QKVAttention").replace("a.softmax(dim=-1)", "a.sigmoid()")
    model.write_text(text)
    result = migrate(model, "--phase", "1", "--only", "attention")
    assert result.returncode in (0, 3) and model.read_text() == text
    wrong = MODEL.replace("a.softmax(dim=-1)", "a.softmax(dim=1)")
    model.write_text(wrong)
    result = migrate(model, "--only", "attention")
    assert result.returncode == 3 and "softmax-axis" in result.stdout + result.stderr
    assert model.read_text() == wrong


def test_a_file_that_raises_at_import_names_the_error(model: Path) -> None:
    text = MODEL.replace("import math\n", "import math\nimport a_module_that_is_not_there\n")
    text = text.replace("        self.w_q =", "        a_module_that_is_not_there.set_up()\n        self.w_q =")
    model.write_text(text)
    assert_untouched(model, text, migrate(model), 4, "a_module_that_is_not_there")


def test_an_import_that_the_model_does_not_need_is_done_without(model: Path) -> None:
    model.write_text(MODEL.replace("import math\n", "import math\nimport a_module_that_is_not_there\n"))
    result = migrate(model)
    assert result.returncode == 0 and "only its definitions were run" in " ".join(result.stdout.split())


def test_a_file_that_never_ends(model: Path) -> None:
    text = MODEL.replace(
        "    def forward(self, tokens):\n", "    def forward(self, tokens):\n        while True: pass\n"
    )
    text = text.replace(
        "    def forward(self, x):\n        q =", "    def forward(self, x):\n        while True: pass\n        q ="
    )
    model.write_text(text)
    assert_untouched(model, text, migrate(model, "--timeout", "15"), 4)


def test_a_model_that_cannot_be_built(model: Path) -> None:
    text = MODEL.replace("        self.w_q =", "        raise RuntimeError('needs eight GPUs')\n        self.w_q =")
    model.write_text(text)
    assert_untouched(model, text, migrate(model), 4, "needs eight GPUs")


def test_a_failed_proof_writes_nothing_and_says_which_class(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A codemod that gets the scale wrong is found out."""
    honest = engine.plan

    def wrong(*arguments: Any, **options: Any) -> Plan:
        plan = honest(*arguments, **options)
        text = plan.text.replace("attention(q, k, v)", "attention(q, k, v, scale=0.5001)")
        assert text != plan.text
        return replace(plan, text=text, stages=(replace(plan.stages[0], after=text),))

    monkeypatch.setattr(engine, "plan", wrong)
    monkeypatch.chdir(model.parent)
    with pytest.raises(SystemExit) as stop:
        cli.main([model.name, "--keep-failed"])
    assert stop.value.code == 4 and model.read_text() == MODEL
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model.py: proof-failed")]
    assert "Attention: parity float64" in line
    assert "scale=0.5001" in (model.parent / "model.candidate.py").read_text()


def test_a_probe_from_the_configuration(model: Path) -> None:
    """A class that wants what no guess gives is built as the project says."""
    text = MODEL.replace(
        "        self.w_q =", "        assert dim == 18 and heads == 3, 'odd taste'\n        self.w_q ="
    )
    text = text[: text.index("if __name__")]
    model.write_text(text)
    assert_untouched(model, text, migrate(model), 4, "odd taste", "[tool.migrate.probe]")
    config = model.parent / "pyproject.toml"
    config.write_text('[tool.migrate.probe]\nModel = "Model(11, 18, 3)"\n')
    result = migrate(model)
    assert result.returncode == 0, result.stderr
    config.write_text("[tool.migrate.probe]\nModel = 3\n")
    model.write_text(text)
    result = migrate(model)
    assert result.returncode == 2 and "pyproject.toml: config: " in result.stderr and model.read_text() == text
