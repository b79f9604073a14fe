"""The patch: `git apply` takes it and arrives at the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.report.diff import patch_name, unified


def applied(folder: Path, name: str, before: bytes, patch: bytes) -> bytes:
    """What `git apply` makes of a file in a directory that is no repository."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(before)
    command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "-"]
    subprocess.run(command, cwd=folder, input=patch, check=True, env={"GIT_CEILING_DIRECTORIES": str(folder.parent)})
    return file.read_bytes()


BODY = b"".join(b"line %d\n" % number for number in range(40))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\nb\n", b"a\nc\n"),
        (b"a\nb", b"a\nc"),
        (b"a\nb", b"a\nb\n"),
        (b"a\nb\n", b"a\nb"),
        (b"a\nb", b"a\nb\nc\n"),
        (b"a\r\nb\r\n", b"a\r\nc\r\n"),
        (b"a\r\nb", b"a\r\nb\r\nc"),
        (b"a\rb\n", b"a\rc\n"),
        (b"a\x0cb\n\x1c\n", b"a\x0cb\n\x1d\n"),
        ("s = 'é\u2028π'\n".encode(), "s = 'ü\u2028π'\n".encode()),
        ("s = 'é'\n".encode("latin-1"), "s = 'ü'\n".encode("latin-1")),
        (b"\xef\xbb\xbfa\n", b"\xef\xbb\xbfb\n"),
        (BODY, BODY.replace(b"line 3\n", b"x\n").replace(b"line 30\n", b"y\nz\n")),
        (BODY, BODY.replace(b"line 0\n", b"").replace(b"line 39\n", b"")),
        (b"--- a\n+++ b\n", b"--- b\n+++ a\n"),
    ],
)
def test_git_apply_gives_the_same_bytes(tmp_path: Path, before: bytes, after: bytes) -> None:
    assert applied(tmp_path, "f.py", before, unified(before, after, "f.py")) == after


@pytest.mark.parametrize("name", ["sub/f.py", "with blank.py", "ünïcode.py", 'quote".py', "back\\slash.py", "tab\t.py"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    assert applied(tmp_path, name, b"a\n", unified(b"a\n", b"b\n", name)) == b"b\n"


LINES = st.lists(st.sampled_from([b"a", b"b", b"\r", b"\\ No newline at end of file", b""]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, LINES)
def test_any_two_files(tmp_path: Path, old: list[bytes], new: list[bytes]) -> None:
    before, after = b"x\n" + b"\n".join(old), b"x\n" + b"\n".join(new)
    patch = unified(before, after, "f.py")
    if before == after:
        assert patch == b""
    else:
        assert applied(tmp_path, "f.py", before, patch) == after


def test_names_are_relative_to_where_the_patch_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path.resolve() / "repository" / "sub" / "f.py"
    file.parent.mkdir(parents=True)
    monkeypatch.chdir(file.parent)
    assert patch_name(file) == "f.py"
    monkeypatch.chdir(tmp_path)
    assert patch_name(file) == "repository/sub/f.py"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert patch_name(file) == "f.py"
    (tmp_path / "repository" / ".git").mkdir()
    assert patch_name(file) == "sub/f.py"
