"""The command, run as users run it, in a directory with the legacy file and what it becomes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint.texts import GPT, migrated

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    return {
        "legacy": GPT, "exact": migrated(GPT, {1}), "fast": migrated(GPT, {1, 3}), "neutral": migrated(GPT, {1, 2}),
        "warm": migrated(GPT, {1, 2}, "warm", without="rotary"),  # which leaves no table to give back
    }  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def convert(home: Path) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "migrator", "checkpoint", *map(str, arguments)]
        return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=120)

    return run
