"""What a newcomer is told to type is what `make` runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = ("demo", "test", "lint", "bench")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    ")]


def made(*targets: str) -> str:
    command = ["make", "--no-print-directory", "--always-make", "--dry-run", *targets]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_make_runs(command: str) -> None:
    if command.startswith("make "):
        assert made(command.removeprefix("make "))
    else:
        assert command in made(*TARGETS).splitlines()


def test_there_are_commands() -> None:
    assert {f"make {target}" for target in TARGETS} <= set(COMMANDS)


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:fixtures|codemods|migrator|runtime|docs)/[\w/.]+\w)`", README):
        assert (ROOT / name).exists(), name


def test_the_codemods_that_are_listed_exist() -> None:
    listed = set(re.findall(r"^\| \d \| `(\w+)` \|", README, re.MULTILINE))
    there = {path.stem for path in (ROOT / "codemods").glob("*.py")} - {"__init__"}
    assert listed and listed <= there
