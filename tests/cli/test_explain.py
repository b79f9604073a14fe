"""`migrate list`, `migrate explain`, the help, and the shell's completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from migrator.codemod import Phase
from migrator.rewrite.registry import all_codemods, name_of

ROOT = Path(__file__).parents[2]
CODEMODS = {name_of(codemod): codemod for codemod in all_codemods()}


def migrate(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_list_names_every_codemod_by_phase(tmp_path: Path) -> None:
    run = migrate("list", cwd=tmp_path)
    assert run.returncode == 0
    rows = [line for line in run.stdout.splitlines() if line[:1].isdigit()]
    assert [row.split()[1] for row in rows] == list(CODEMODS)
    assert [row.split()[0] for row in rows] == sorted(row.split()[0] for row in rows)
    for row, codemod in zip(rows, CODEMODS.values(), strict=True):
        assert str(codemod.promise) in row.split()
    assert max(map(len, run.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", CODEMODS)
def test_explain_says_all_there_is(tmp_path: Path, name: str) -> None:
    run = migrate("explain", name, cwd=tmp_path)
    words = " ".join(run.stdout.split())
    codemod = CODEMODS[name]
    assert run.returncode == 0 and run.stderr == ""
    for part in (codemod.rationale, codemod.reference, codemod.formula, *codemod.refusals.values()):
        assert part and " ".join(part.split()) in words
    assert run.stdout.startswith(f"{name}, phase {int(codemod.phase)}\n")
    assert all(f"  {code} " in run.stdout for code in codemod.refusals)


@pytest.mark.parametrize("name", CODEMODS)
def test_the_example_is_what_the_codemod_really_does(tmp_path: Path, name: str) -> None:
    text = migrate("explain", name, cwd=tmp_path).stdout
    example = text[text.index("\nexample\n") : text.index("\nreference")]
    looks_only = not hasattr(CODEMODS[name], "rewrite") or "rewrite" not in vars(CODEMODS[name])
    assert ": migrated: " in example or (looks_only and ": modern: " in example)
    assert ("\n    +" in example and "@@" in example) is not looks_only


def test_explain_of_nothing(tmp_path: Path) -> None:
    run = migrate("explain", "rotry", cwd=tmp_path)
    assert run.returncode == 2
    assert "no codemod is called 'rotry'; did you mean 'rotary'?" in run.stderr
    assert migrate("explain", cwd=tmp_path).returncode == 2


def test_neither_loads_torch(tmp_path: Path) -> None:
    for arguments in (["list"], ["explain", "rotary"], ["--help"]):
        code = f"import sys\nfrom migrator.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert run.stdout.endswith("False\n")


def test_the_help_is_a_manual(tmp_path: Path) -> None:
    run = migrate("--help", cwd=tmp_path)
    titles = [line for line in run.stdout.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert [title.rstrip(":") for title in titles] == [
        "What to change", "Proof", "How to run", "Output", "Other options", "Subcommands", "Examples", "Exit codes",
        "Environment", "Files",
    ]  # fmt: skip
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "[tool.migrate]" in run.stdout and "130" in run.stdout and "NO_COLOR" in run.stdout


def test_every_example_of_the_help_is_right_usage(tmp_path: Path) -> None:
    from migrator.run.manual import EXAMPLES

    (tmp_path / "src").mkdir()
    for name in ("model.py", "src/model.py"):
        (tmp_path / name).write_text("x = 1\n")
    for command, _ in EXAMPLES:
        assert migrate(*command.split()[1:], cwd=tmp_path).returncode == 0, command


# --- completion ----------------------------------------------------------------------------------------------------


def completed(words: str, cwd: Path) -> list[str]:
    """What bash would offer after these words, asked for as its completion script does."""
    count = len(words.split(" ")) - 1
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(count), "_MIGRATE_COMPLETE": "bash_complete"}
    run = migrate(cwd=cwd, **environment)
    return [line.partition(",")[2] for line in run.stdout.splitlines() if line.startswith("plain,")]


def test_completion(tmp_path: Path) -> None:
    assert {"list", "explain"} <= set(completed("migrate ", tmp_path))
    assert completed("migrate ex", tmp_path) == ["explain"]
    assert completed("migrate model.py ex", tmp_path) == []
    assert completed("migrate explain ro", tmp_path) == ["rotary"]
    assert completed("migrate --posi", tmp_path) == ["--positions"]
    assert completed("migrate --positions a", tmp_path) == ["alibi"]
    assert completed("migrate --only at", tmp_path) == ["attention"]
    assert completed("migrate --only attention,ro", tmp_path) == ["attention,rotary"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell(tmp_path: Path, shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("no bash")
    run = migrate(cwd=tmp_path, _MIGRATE_COMPLETE=f"{shell}_source")
    assert run.returncode == 0
    assert "_MIGRATE_COMPLETE" in run.stdout
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=run.stdout, text=True, check=True)


def test_phases_exist() -> None:
    assert {codemod.phase for codemod in CODEMODS.values()} <= set(Phase)
