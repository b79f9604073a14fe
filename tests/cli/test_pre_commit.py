"""The published hooks, run by pre-commit in a repository of somebody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEGACY = (ROOT / "fixtures/attention/single_head_tril_buffer/before.py").read_text(encoding="utf-8")


def git(*arguments: str, cwd: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True)


def repository(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return commit(folder)


def commit(folder: Path) -> Path:
    git("init", "-q", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "-qm", "all", cwd=folder)
    return folder


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    return repository(tmp_path / "hooks", {".pre-commit-hooks.yaml": text})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {"model.py": LEGACY, "plain.py": "x = 1\n", "notes.txt": "softmax torch\n"}
    return repository(tmp_path / "project", files)


def pre_commit(hooks: Path, project: Path, hook: str, minutes: float = 2) -> subprocess.CompletedProcess[str]:
    assert shutil.which("git")
    here = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ["PATH"]]),
        "PRE_COMMIT_HOME": str(project.parent / "pre-commit"),
    }
    command = [sys.executable, "-m", "pre_commit", "try-repo", str(hooks), hook, "--all-files", "--verbose"]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=60 * minutes
    )


def test_the_check_fails_until_nothing_is_left(hooks: Path, project: Path) -> None:
    run = pre_commit(hooks, project, "migrate-check-system")
    assert run.returncode == 1, run.stderr
    assert "exit code: 1" in run.stdout and "work left: run `migrate model.py --phase 1`" in run.stdout
    (project / "model.py").write_text(LEGACY.replace("class ", "# migrate: keep(attention) as published\nclass ", 1))
    run = pre_commit(hooks, project, "migrate-check-system")
    assert run.returncode == 0, run.stdout
    assert "Passed" in run.stdout


def test_the_diff_is_shown_and_does_not_fail(hooks: Path, project: Path) -> None:
    run = pre_commit(hooks, project, "migrate-diff-system")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "+++ b/model.py" in run.stdout
    assert (project / "model.py").read_text() == LEGACY


@pytest.mark.skipif("MIGRATE_INSTALL" not in os.environ, reason="installs torch anew: set MIGRATE_INSTALL=1")
def test_the_hook_that_installs(tmp_path: Path, project: Path) -> None:
    """pre-commit clones this very repository, and builds and installs it into an environment of its own."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("migrator", "codemods", "runtime"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / name, clone / name)
    commit(clone)
    run = pre_commit(clone, project, "migrate-check", minutes=10)
    assert run.returncode == 1 and "work left: run `migrate model.py --phase 1`" in run.stdout, run.stdout + run.stderr
    run = pre_commit(clone, project, "migrate-diff", minutes=10)
    assert run.returncode == 0 and "+++ b/model.py" in run.stdout, run.stdout + run.stderr


def test_the_hooks_that_install_say_the_same() -> None:
    from pre_commit.clientlib import load_manifest

    manifest = {hook["id"]: hook for hook in load_manifest(ROOT / ".pre-commit-hooks.yaml")}
    assert set(manifest) == {"migrate-check", "migrate-diff", "migrate-check-system", "migrate-diff-system"}
    for name in ("migrate-check", "migrate-diff"):
        ours, theirs = manifest[name], manifest[f"{name}-system"]
        assert ours["language"] == "python"
        assert theirs["language"] in ("system", "unsupported")  # the newer name for the same
        assert {k: v for k, v in ours.items() if k not in ("id", "language")} == {
            k: v for k, v in theirs.items() if k not in ("id", "language")
        }
