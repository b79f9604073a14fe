"""`migrator.plan`, for other programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import migrator
from migrator.errors import MigrateError

LATENT = (Path(__file__).parents[2] / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")


def test_a_plan_is_what_the_command_line_would_do(tmp_path: Path) -> None:
    plan = migrator.plan(LATENT, phase=2)
    (tmp_path / "model.py").write_text(LATENT)
    subprocess.run(
        [sys.executable, "-m", "migrator", "model.py", "--phase", "2", "--no-verify"], cwd=tmp_path, check=True,
        capture_output=True,
    )  # fmt: skip
    assert plan.text == (tmp_path / "model.py").read_text() != LATENT
    assert isinstance(plan, migrator.Plan)
    assert plan.changed and plan.stages
    assert {outcome.codemod for outcome in plan.outcomes} >= {"attention", "rotary", "swiglu"}


def test_it_is_pure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.migrate]\nphase = 2\n")
    monkeypatch.chdir(tmp_path)
    first, second = migrator.plan(LATENT), migrator.plan(LATENT)
    assert first == second
    assert {outcome.phase for outcome in first.outcomes} == {1}
    assert list(tmp_path.iterdir()) == [tmp_path / "pyproject.toml"]


def test_options() -> None:
    assert {o.codemod for o in migrator.plan(LATENT, only=["attention"]).outcomes} == {"attention"}
    assert "attention" not in {o.codemod for o in migrator.plan(LATENT, skip=("attention",)).outcomes}
    assert "alibi" in {o.codemod for o in migrator.plan(LATENT, phase=2, positions="alibi").outcomes}


def test_what_cannot_be_planned() -> None:
    with pytest.raises(MigrateError, match="syntax-error") as error:
        migrator.plan("def f(:\n", path="a.py")
    assert str(error.value).startswith("a.py:1: ")
    with pytest.raises(MigrateError, match="too-deep"):
        migrator.plan("(" * 300 + ")" * 300)
    with pytest.raises(ValueError, match="did you mean 'attention'"):
        migrator.plan("", only=["atention"])
    with pytest.raises(ValueError, match="no phase 9"):
        migrator.plan("", phase=9)
    with pytest.raises(ValueError, match="'none'"):
        migrator.plan("", positions="none")


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, migrator; print(sorted(n for n in sys.modules if n.startswith(('migrator', 'libcst', 'torch', 'click'))))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['migrator']\n"
    assert migrator.__version__.startswith("0.")
    with pytest.raises(AttributeError, match="nonsense"):
        migrator.nonsense  # noqa: B018
