"""`migrate` as a process, with everything real but the proof, which these runs do not reach."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from migrator.write import journal

FIXTURE = Path(__file__).parents[2] / "fixtures" / "latent_drift_trajectory.py"
LEGACY = """
import math
import torch
from torch import nn

class QKVAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        a = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        a = a.softmax(dim=-1)
        return (a @ v).transpose(1, 2).reshape(B, T, C)
"""


def migrate(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "migrator", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    path = tmp_path / "legacy.py"
    path.write_text(LEGACY)
    return path


BAD = {
    "syntax.py": (b"def f(:\n", b"syntax.py:1: syntax-error: "),
    "softmax_syntax.py": (b"import torch\nx = softmax(\n", b"softmax_syntax.py:2: syntax-error: "),
    "latin.py": (b"s = '\xe9'\n", b"latin.py:1: encoding: "),
    "nul.py": (b"x = 1\n\0", b"nul.py:2: nul-bytes: "),
    "deep.py": (b"import torch\nsoftmax = " + b"[" * 300 + b"]" * 300, b"deep.py:2: too-deep: "),
    "big.py": (b"#" * 6_000_000, b"big.py: too-large: "),
    "model.ipynb": (
        b'{"cells": []}',
        b"model.ipynb: notebook: notebooks are not rewritten; move the model into a Python",
    ),
    "pipe.py": (None, b"pipe.py: not-a-file: "),
    "none.py": (None, b"none.py: no-such-file: "),
    "folder": (None, b"folder: no-python-files: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(tmp_path: Path, name: str) -> None:
    data, line = BAD[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    run = migrate(name, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stdout == b""
    assert run.stderr.startswith(line)
    assert run.stderr.count(b"\n") == 1
    assert data is None or (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize("text", ["", "\n", "x = 1\n", "import torch\nsoftmax = None\n"])
@pytest.mark.parametrize("mode", ["--check", "--dry-run"])
def test_nothing_to_migrate(tmp_path: Path, text: str, mode: str) -> None:
    (tmp_path / "f.py").write_text(text)
    run = migrate("f.py", mode, cwd=tmp_path)
    assert run.returncode == 0
    assert b"nothing to migrate" in run.stdout + run.stderr


def test_a_read_only_file_stays_and_is_still_checked(legacy: Path) -> None:
    legacy.chmod(0o444)
    assert migrate(legacy, "--check", cwd=legacy.parent).returncode == 1
    run = migrate(legacy, "--no-verify", cwd=legacy.parent)
    assert run.returncode == 2
    assert b"read-only: the file is read-only; run `chmod u+w" in run.stderr
    assert legacy.read_text() == LEGACY


LIBRARIES = """
    import sys
    from migrator.cli import main
    try:
        main(sys.argv[1:])
    except SystemExit:
        pass
    print("IMPORTED", *sorted({"torch", "numpy", "rich", "libcst", "legacy", "migrator.prove"} & set(sys.modules)))
"""


def imported(*arguments: object, cwd: Path) -> list[str]:
    command = [sys.executable, "-c", textwrap.dedent(LIBRARIES), *map(str, arguments)]
    output = subprocess.run(command, cwd=cwd, capture_output=True, check=True).stdout.decode()
    return output.rpartition("IMPORTED")[2].split()


def test_reviews_import_neither_torch_nor_the_users_code(legacy: Path) -> None:
    assert imported(legacy, "--phase", "2", "--check", cwd=legacy.parent) == ["libcst"]
    assert imported(legacy, "--phase", "2", "--dry-run", cwd=legacy.parent) == ["libcst"]
    assert imported(legacy, "--phase", "2", "--no-verify", cwd=legacy.parent) == ["libcst"]


def test_a_file_without_a_transformer_needs_no_library(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import torch\n")
    for mode in ("--check", "--dry-run", "--phase=2"):
        assert imported("plain.py", mode, cwd=tmp_path) == []


def test_modules_beside_the_file_do_not_get_in(legacy: Path) -> None:
    for name in ("click.py", "libcst.py", "torch.py", "json.py", "codemods.py"):
        (legacy.parent / name).write_text("raise SystemExit('imported from the working directory')\n")
    run = migrate(legacy, "--check", cwd=legacy.parent)
    assert run.returncode == 1, run.stderr
    assert b"attention" in run.stdout


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_git_apply_gives_what_the_run_writes(legacy: Path, ends: str, last: str) -> None:
    folder = legacy.parent
    legacy.write_bytes((LEGACY.rstrip() + last).replace("\n", ends).encode())
    before = legacy.read_bytes()
    patch = migrate("legacy.py", "--phase", "2", "--dry-run", cwd=folder).stdout
    assert legacy.read_bytes() == before
    assert migrate("legacy.py", "--phase", "2", "--no-verify", cwd=folder).returncode in (0, 3)
    after = legacy.read_bytes()
    assert after != before
    legacy.write_bytes(before)
    environment = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["git", "apply", "-"], input=patch, cwd=folder, check=True, env=environment)
    assert legacy.read_bytes() == after


def test_the_patch_of_the_bundled_file_applies(tmp_path: Path) -> None:
    copy = tmp_path / FIXTURE.name
    copy.write_bytes(FIXTURE.read_bytes())
    patch = migrate(copy.name, "--phase", "2", "--dry-run", cwd=tmp_path).stdout
    assert migrate(copy.name, "--phase", "2", "--no-verify", cwd=tmp_path).returncode in (0, 3)
    after = copy.read_bytes()
    copy.write_bytes(FIXTURE.read_bytes())
    environment = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(["git", "apply", "-"], input=patch, cwd=tmp_path, check=True, env=environment)
    assert copy.read_bytes() == after != FIXTURE.read_bytes()


def test_reports_have_eighty_columns_and_no_escape_codes_in_a_pipe(legacy: Path) -> None:
    run = migrate("legacy.py", "--phase", "2", "--check", cwd=legacy.parent, FORCE_COLOR="1", COLUMNS="300")
    assert b"\x1b" not in run.stdout + run.stderr
    assert max(map(len, run.stdout.decode().splitlines())) <= 80


def test_a_terminal_that_cannot_show_a_character_is_no_fault(tmp_path: Path) -> None:
    run = migrate("π.py", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert run.returncode == 2
    assert run.stderr.startswith(b"\\u03c0.py: no-such-file")


def test_what_a_killed_run_left_is_said_or_set_back(legacy: Path) -> None:
    other = legacy.with_name("other.py")
    other.write_text("new = 2\n")
    with journal.written([(legacy, b"", b""), (other, b"old = 1\n", b"new = 2\n")]):
        left = (legacy.parent / journal.NAME).read_bytes()
    (legacy.parent / journal.NAME).write_bytes(left)
    run = migrate("other.py", "--check", cwd=legacy.parent)
    assert run.returncode == 2
    assert b"unfinished: a run that was killed" in run.stderr
    assert other.read_text() == "new = 2\n"
    run = migrate("other.py", cwd=legacy.parent)
    assert run.returncode == 0
    assert b"restored" in run.stdout
    assert other.read_text() == "old = 1\n"
    assert not (legacy.parent / journal.NAME).exists()
