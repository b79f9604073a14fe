"""What `migrate validate` cannot measure is said in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.report import html
from migrator.validate.asking import texts


def test_two_texts_that_are_one(tmp_path: Path) -> None:
    for name in ("old.py", "new.py"):
        (tmp_path / name).write_text("x = 1\n")
    with pytest.raises(MigrateError, match="nothing-to-compare: the two texts are the same"):
        texts(tmp_path / "old.py", tmp_path / "new.py")


def test_how_to_build_needs_to_know_what(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "migrator", "validate", "old.py", "--build", "Model(1)"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "--build needs --model, the class that it builds" in run.stderr


def test_a_page_that_nothing_can_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MigrateError, match="no-report: the page cannot be drawn without"):
        html.check_installed()
