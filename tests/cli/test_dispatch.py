"""`migrate PATH...` and `migrate SUBCOMMAND` share one command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from migrator.run.dispatch import subcommand, subcommands

LEGACY = (Path(__file__).parents[2] / "fixtures/attention/single_head_tril_buffer/before.py").read_text(
    encoding="utf-8"
)


def migrate(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("name", subcommands())
def test_a_module_is_a_subcommand(name: str, tmp_path: Path) -> None:
    run = migrate(name, "-h", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.startswith(f"Usage: migrate {name} ")
    assert subcommand(name).get_short_help_str()


def test_help_lists_the_subcommands(tmp_path: Path) -> None:
    after = migrate("--help", cwd=tmp_path).stdout.partition("Subcommands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in after.splitlines() if line[2:3].strip()] == subcommands()


def test_a_path_called_like_a_subcommand(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "model.py").write_text(LEGACY)
    assert migrate("./list", "--check", cwd=tmp_path).returncode == 1
    assert migrate("list", cwd=tmp_path).stdout.startswith("1  ")


def test_only_the_first_word_is_a_subcommand(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "model.py").write_text(LEGACY)
    assert migrate("--check", "list", cwd=tmp_path).returncode == 1


def test_a_run_loads_no_subcommand(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(LEGACY)
    code = (
        "import sys\nfrom migrator.cli import main\ntry: main(['model.py', '--check'])\nexcept SystemExit: pass\n"
        "print('LOADED', [name for name in sys.modules if name.startswith('migrator.commands')])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.endswith("LOADED []\n")
