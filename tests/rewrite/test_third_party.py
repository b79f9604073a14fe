"""A codemod of another distribution: built, installed, and run as if it were one of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "tanh-codemods"
version = "1.5"

[project.entry-points."transformer_migrator.codemods"]
{entry}

[tool.setuptools]
packages = ["tanh_codemods"]
"""
CODEMOD = '''
"""`F.tanh`, which PyTorch deprecates, becomes `torch.tanh`."""

import ast
from collections.abc import Iterator

from migrator.codemod import AnyEdit, Claim, Codemod, Finding, Phase, Place, Promise, Replace, Site
from migrator.recognise.index import FileIndex


class Tanh(Codemod):
    """F.tanh(x) -> torch.tanh(x)."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "The functional form has been deprecated since PyTorch 0.4."
    reference = "https://pytorch.org/docs/stable/generated/torch.nn.functional.tanh.html"
    after = ("attention",)

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for info in index.classes.values():
            for node in ast.walk(info.node):
                if isinstance(node, ast.Call) and index.resolve(node.func) == "torch.nn.functional.tanh":
                    claim = Claim((info.name,), (info.name,))
                    place = Place.of(info.name, node, info.definition)
                    yield Site(place, "F.tanh -> torch.tanh", claim, (info.definition, node.func))

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        definition, function = site.part
        yield Replace(definition, function, "torch.tanh")
'''
MODEL = """\
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1)
        return F.tanh(torch.softmax(scores, dim=-1) @ self.v(x))


model = Attention(8)
"""


def install(target: Path, source: Path, entry: str = 'tanh = "tanh_codemods.tanh"', code: str = CODEMOD) -> Path:
    package = source / "tanh_codemods"
    package.mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT.format(entry=entry))
    (package / "__init__.py").touch()
    (package / "tanh.py").write_text(code)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("third-party")
    return install(folder / "site", folder / "source")


def migrate(*arguments: object, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_it_is_listed_and_explained(site: Path, tmp_path: Path) -> None:
    assert "  tanh " in migrate("list", site=site, cwd=tmp_path).stdout
    explained = migrate("explain", "tanh", site=site, cwd=tmp_path).stdout
    assert "deprecated since PyTorch 0.4" in explained
    assert "tanh-codemods 1.5" in explained


def test_it_finds_what_it_finds(site: Path, model: Path) -> None:
    run = migrate(model, "--check", "--format", "json", site=site, cwd=model.parent)
    findings: list[dict[str, Any]] = json.loads(run.stdout)["files"][0]["findings"]
    assert {finding["codemod"] for finding in findings} == {"attention", "tanh"}
    assert not [line for line in migrate("list", site=Path(), cwd=model.parent).stdout.splitlines() if "tanh" in line]


def test_it_is_chosen_by_name(site: Path, model: Path) -> None:
    assert migrate(model, "--only", "tanh", "--no-verify", site=site, cwd=model.parent).returncode == 0
    assert model.read_text() == MODEL.replace("F.tanh", "torch.tanh")
    assert "did you mean 'tanh'?" in migrate(model, "--only", "tan", site=site, cwd=model.parent).stderr


def test_its_change_is_proved_like_any_other(site: Path, model: Path) -> None:
    run = migrate(model, site=site, cwd=model.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "F.tanh -> torch.tanh" in run.stdout and "proved and written" in run.stdout
    assert "torch.tanh(attention(" in model.read_text()


def test_a_wrong_change_of_its_is_not_written(tmp_path: Path, model: Path) -> None:
    wrong = install(tmp_path / "site", tmp_path / "source", code=CODEMOD.replace('"torch.tanh")', '"torch.sinh")'))
    run = migrate(model, site=wrong, cwd=tmp_path)
    assert run.returncode == 4
    assert "proof-failed" in run.stderr
    assert model.read_text() == MODEL


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ('rotary = "tanh_codemods.tanh"', CODEMOD, "the codemod rotary of tanh-codemods 1.5: there is a codemod rotary already"),
        ('other = "tanh_codemods.tanh"', CODEMOD, "is no module that is called other"),
        ('tanh = "tanh_codemods.tanh:Tanh"', CODEMOD, "is no module that is called tanh"),
        ('tanh = "tanh_codemods.tanh"', "import nothing_there", "tanh_codemods.tanh cannot be loaded (ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_one_that_is_not_usable_is_one_clear_line(
    tmp_path: Path, model: Path, entry: str, code: str, words: str
) -> None:
    broken = install(tmp_path / "site", tmp_path / "source", entry, code)
    run = migrate(model, "--check", site=broken, cwd=tmp_path)
    assert run.returncode == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
