"""Which files a path stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.read.files import python_files


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")


def found(root: Path, *paths: Path) -> list[str]:
    return [str(file.path.relative_to(root)) for file in python_files(paths or [root])]


def test_a_directory_stands_for_its_python_files_in_order(tmp_path: Path) -> None:
    tree(tmp_path, "b.py", "a/z.py", "a/y.py", "a/notes.txt", "c.pyc")
    assert found(tmp_path) == ["b.py", "a/y.py", "a/z.py"]


def test_what_is_not_the_users_own_code_is_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", ".git/b.py", "__pycache__/c.py", "node_modules/d.py", "build/e.py", "env/lib/f.py")
    tree(tmp_path, "env/pyvenv.cfg", "x.egg-info/g.py", "a.candidate.py")
    assert found(tmp_path) == ["a.py"]


def test_such_a_directory_is_walked_when_the_user_names_it(tmp_path: Path) -> None:
    tree(tmp_path, "build/e.py")
    assert found(tmp_path, tmp_path / "build") == ["build/e.py"]


def test_a_file_counts_once_however_often_it_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "b.py")
    (tmp_path / "link.py").symlink_to("a.py")
    assert found(tmp_path, tmp_path / "b.py", tmp_path, tmp_path / "link.py") == ["b.py", "a.py"]


def test_whether_the_user_named_the_file_itself_is_known(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "d/b.py", "script")
    named = python_files([tmp_path / "a.py", tmp_path / "d", tmp_path / "script"])
    assert [file.explicit for file in named] == [True, False, True]


def test_a_directory_without_python_files_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "notes.txt")
    with pytest.raises(MigrateError) as caught:
        python_files([tmp_path])
    assert caught.value.code == "no-python-files"
    assert caught.value.exit_code == 2


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(MigrateError, match=r"unreadable: cannot be listed \(Permission denied\)"):
        python_files([tmp_path])


def test_links_in_a_circle_do_not_matter(tmp_path: Path) -> None:
    tree(tmp_path, "d/a.py")
    (tmp_path / "d" / "again").symlink_to("..")
    (tmp_path / "d" / "dangling.py").symlink_to("nowhere.py")
    assert found(tmp_path) == ["d/a.py"]
