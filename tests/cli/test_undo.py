"""`migrate undo` and `--allow-dirty`, as somebody calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASE = Path(__file__).parents[2] / "fixtures/attention/single_head_tril_buffer"
OLD, NEW = ((CASE / name).read_text(encoding="utf-8") for name in ("before.py", "after.py"))


class Project:
    """A directory with two models, and what `migrate` says when it is called there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [folder / "model.py", folder / "package/other.py"]
        for file in self.files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(OLD)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / ".state")}
        command = [sys.executable, "-m", "migrator", *arguments]
        run = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return run.returncode, run.stdout, run.stderr

    @property
    def texts(self) -> list[str]:
        return [file.read_text() for file in self.files]

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("init", "-q")
        self.git("add", "*.py")
        self.git("commit", "-qm", "all")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_run_is_undone_and_said_to_be(project: Project) -> None:
    assert project(".", "--no-verify")[0] == 0
    assert project.texts == [NEW, NEW]
    code, out, err = project("undo")
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"restored  {file}" for file in project.files]
    assert project.texts == [OLD, OLD]
    code, out, err = project("undo")
    assert (code, out) == (2, "") and err.startswith("nothing-to-undo: ") and err.count("\n") == 1


def test_a_path_chooses_the_run_and_all_its_files_go_back(project: Project) -> None:
    assert project("model.py", "--no-verify")[0] == 0
    assert project("package", "--no-verify")[0] == 0
    assert project("undo", "model.py")[0] == 0
    assert project.texts == [OLD, NEW]
    assert project("undo", "package")[0] == 0
    assert project.texts == [OLD, OLD]


def test_undo_refuses_to_take_later_work_away(project: Project) -> None:
    assert project(".", "--no-verify")[0] == 0
    project.files[1].write_text(NEW + "mine = 1\n")
    code, out, err = project("undo")
    assert (code, out) == (2, "")
    assert err.startswith(f"{project.files[1]}: changed-since: ") and "nothing was undone" in err
    assert project.texts == [NEW, NEW + "mine = 1\n"]


def test_undo_is_not_for_runs_that_wrote_nothing(project: Project) -> None:
    for mode in ("--check", "--dry-run"):
        project(".", mode)
    assert project("undo")[0] == 2
    assert project.texts == [OLD, OLD]


def test_uncommitted_changes_are_shown_and_not_written_over(project: Project) -> None:
    project.commit()
    mine = OLD.replace("one head", "one single head")
    project.files[0].write_text(mine)
    code, out, err = project(".", "--no-verify")
    assert code == 2 and err.count("\n") == 1
    assert "model.py: uncommitted-changes: " in err and "--allow-dirty" in err
    assert "+++ b/model.py" in out and "+++ b/package/other.py" in out
    assert project.texts == [mine, OLD]
    assert project(".", "--no-verify", "--allow-dirty")[0] == 0
    assert project.texts == [NEW.replace("one head", "one single head"), NEW]
    assert project("undo")[0] == 0
    assert project.texts == [mine, OLD]


@pytest.mark.parametrize("mode", ["--check", "--dry-run"])
def test_uncommitted_changes_keep_nobody_from_looking(project: Project, mode: str) -> None:
    project.commit()
    project.files[0].write_text(OLD + "\n")
    code, _, err = project(".", mode)
    assert code == (1 if mode == "--check" else 0) and "uncommitted" not in err


def test_a_staged_change_counts_and_an_untracked_file_does_not(project: Project) -> None:
    project.git("init", "-q")
    assert project("model.py", "--no-verify")[0] == 0
    project.git("add", "package")
    assert project("package", "--no-verify")[0] == 2
    assert project.texts == [NEW, OLD]
