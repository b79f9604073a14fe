"""What a given directory stands for, where a `.gitignore` or the configuration has its say; git itself is the judge."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.read.files import python_files
from migrator.read.ignoring import Rules

FILES = ("a.py", "gen/b.py", "gen/keep.py", "src/c.py", "src/c_pb2.py", "src/gen/d.py", "src/deep/e.py", "x y/f.py")
IGNORED = {
    "a name": {".gitignore": "c.py\n"},
    "a directory": {".gitignore": "gen/\n"},
    "at the top only": {".gitignore": "/gen/\n"},
    "a pattern": {".gitignore": "*_pb2.py\n# comment\n\n"},
    "taken back": {".gitignore": "gen/*\n!gen/keep.py\n"},
    "not taken back below an ignored directory": {".gitignore": "gen/\n!gen/keep.py\n"},
    "in a deeper file": {".gitignore": "c*.py\n", "src/.gitignore": "!c.py\n/deep/\n"},
    "stars": {".gitignore": "**/deep/**\nsrc/*/d.py\n"},
    "blanks": {".gitignore": "x\\ y/\n"},
    "everything but": {".gitignore": "*\n!*/\n!a.py\n"},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    return tmp_path


def found(root: Path, top: Path | None = None, excluded: Rules = Rules()) -> list[str]:  # noqa: B008
    return sorted(str(file.path.relative_to(root)) for file in python_files([top or root], excluded))


@pytest.mark.parametrize("case", IGNORED)
def test_git_and_we_agree(repository: Path, case: str) -> None:
    for name, text in IGNORED[case].items():
        (repository / name).write_text(text)
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    expected = sorted(names.split("\0")[:-1])
    assert found(repository) == expected != sorted(FILES)
    below = [name for name in expected if name.startswith("src/")]
    if below:
        assert found(repository, repository / "src") == below


def test_who_names_an_ignored_directory_or_file_means_it(repository: Path) -> None:
    (repository / ".gitignore").write_text("gen/\n")
    assert found(repository, repository / "gen") == ["gen/b.py", "gen/keep.py"]
    assert found(repository, repository / "src/gen") == ["src/gen/d.py"]
    assert found(repository, repository / "gen/b.py") == ["gen/b.py"]


def test_without_a_repository_only_what_lies_below_counts(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.py\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("")
    assert found(tmp_path, tmp_path / "src") == ["src/a.py"]
    with pytest.raises(MigrateError, match="no-python-files"):
        found(tmp_path)


def test_excluded_patterns_are_relative_to_the_configuration(repository: Path) -> None:
    excluded = Rules().with_patterns(repository, ["/gen/", "*_pb2.py"])
    assert found(repository, excluded=excluded) == ["a.py", "src/c.py", "src/deep/e.py", "src/gen/d.py", "x y/f.py"]
    (repository / ".gitignore").write_text("!*_pb2.py\n")
    assert "src/c_pb2.py" not in found(repository, excluded=excluded)


def test_a_link_to_a_directory_is_not_followed_and_a_relative_path_stays_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "loop").symlink_to(repository)
    monkeypatch.chdir(repository)
    assert [str(file.path) for file in python_files([Path("src")])][0] == "src/c.py"
    assert [str(file.path) for file in python_files([Path()])][0] == "a.py"
