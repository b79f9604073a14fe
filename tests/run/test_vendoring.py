"""`--vendor`: what is copied beside a file, from where it imports it, and what is said of copies that are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrator.errors import MigrateError
from migrator.rewrite.renaming import imported_modules, renamed, runtime_names
from migrator.write import vendor

ROOT = Path(__file__).parents[2]
LEGACY = (ROOT / "fixtures/attention/single_head_tril_buffer/before.py").read_text(encoding="utf-8")
AFTER = (ROOT / "fixtures/attention/single_head_tril_buffer/after.py").read_text(encoding="utf-8")
LATENT = (ROOT / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")
MARK = "# Copied from transformer-migrator "


def migrate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=200)


def codes(run: subprocess.CompletedProcess[str]) -> list[str]:
    document: Any = json.loads(run.stdout)
    return [row["code"] for file in document["files"] for row in file["findings"] if row["codemod"] == "vendor"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(LEGACY)
    return path


def imported_from(cwd: Path, statement: str) -> str:
    code = f"{statement}; import sys; print(sys.modules[attention.__module__].__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_what_is_used_is_copied_and_nothing_else(model: Path) -> None:
    run = migrate(model, "--vendor", cwd=model.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (
        "proved and written" in run.stdout
        and "copied beside it: runtime/__init__.py, runtime/attention.py" in run.stdout
    )
    assert model.read_text() == AFTER
    copy = model.parent / "runtime"
    assert {path.name for path in copy.iterdir()} == {"__init__.py", "LICENSE", "attention.py", "cache.py"}
    assert (copy / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for path in copy.glob("*.py"):
        assert path.read_text().startswith(MARK)
    body = (copy / "attention.py").read_text().split("\n", 2)[2]
    assert body == (ROOT / "runtime/attention.py").read_text()
    assert imported_from(model.parent, "from model import attention") == str(copy / "attention.py")
    assert migrate(model, "--check", cwd=model.parent).returncode == 0


def test_a_second_run_changes_nothing(model: Path) -> None:
    migrate(model, "--vendor", "--no-verify", cwd=model.parent)
    before = {path: path.stat().st_mtime_ns for path in model.parent.rglob("*")}
    run = migrate(model, "--vendor", cwd=model.parent)
    assert run.returncode == 0 and "copied" not in run.stdout
    assert {path: path.stat().st_mtime_ns for path in model.parent.rglob("*")} == before


def test_a_later_phase_adds_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(LATENT)
    migrate("m.py", "--vendor", "--no-verify", cwd=tmp_path)
    assert not (tmp_path / "runtime/rotary.py").exists()
    assert migrate("m.py", "--phase", "2", "--no-verify", cwd=tmp_path).returncode == 0
    assert (tmp_path / "runtime/rotary.py").exists()
    assert migrate("m.py", "--phase", "2", "--check", cwd=tmp_path).returncode == 0


def test_inside_a_package_the_import_is_relative(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(LEGACY)
    assert migrate("package", "--vendor", "--no-verify", cwd=tmp_path).returncode == 0
    assert "from .runtime import attention\n" in (package / "model.py").read_text()
    assert imported_from(tmp_path, "from package.model import attention") == str(package / "runtime/attention.py")
    assert migrate("package/model.py", "--check", cwd=tmp_path).returncode == 0


def test_another_name(model: Path) -> None:
    (model.parent / "runtime.py").write_text("mine = 1\n")
    run = migrate(model, "--no-verify", cwd=model.parent)
    assert run.returncode == 2
    assert "runtime-taken: runtime.py beside it is a module of yours" in run.stderr
    assert "use --vendor --runtime-name modern_runtime" in run.stderr
    assert model.read_text() == LEGACY
    assert migrate(model, "--vendor", "--no-verify", cwd=model.parent).returncode == 2
    assert migrate(model, "--vendor", "--runtime-name", "modern_runtime", cwd=model.parent).returncode == 0
    assert model.read_text() == AFTER.replace("from runtime import", "from modern_runtime import")
    assert (model.parent / "runtime.py").read_text() == "mine = 1\n"
    assert imported_from(model.parent, "from model import attention").endswith("modern_runtime/attention.py")
    run = migrate(model, "--check", "--phase", "2", cwd=model.parent)
    assert run.returncode == 0, run.stdout
    assert "already modern" in run.stdout


def test_the_patch_has_the_copies(model: Path) -> None:
    patch = migrate("model.py", "--vendor", "--dry-run", cwd=model.parent).stdout
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.py"]
    subprocess.run(["git", "init", "-q"], cwd=model.parent, check=True)
    subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=model.parent, check=True)
    assert model.read_text() == AFTER
    assert vendor.is_copy(model.parent / "runtime")
    assert migrate("model.py", "--check", cwd=model.parent).returncode == 0


def test_a_stale_copy_is_told_and_renewed(model: Path) -> None:
    migrate(model, "--vendor", "--no-verify", cwd=model.parent)
    stale = model.parent / "runtime/attention.py"
    current = stale.read_bytes()
    stale.write_bytes(vendor._with_header(b"attention = None\n").replace(b"migrator 0.1.0", b"migrator 0.0.7"))
    run = migrate(model, "--check", "--format", "json", cwd=model.parent)
    assert run.returncode == 1 and codes(run) == ["vendored-stale"]
    assert "runtime/attention.py is that of version 0.0.7" in run.stdout
    assert migrate(model, cwd=model.parent).returncode == 3
    run = migrate(model, "--vendor", cwd=model.parent)
    assert run.returncode == 0, run.stderr
    assert stale.read_bytes() == current
    (model.parent / "runtime/cache.py").unlink()
    assert codes(migrate(model, "--check", "--format", "json", cwd=model.parent)) == ["vendored-stale"]


def test_an_edited_copy_is_told_and_left_alone(model: Path) -> None:
    migrate(model, "--vendor", "--no-verify", cwd=model.parent)
    edited = model.parent / "runtime/attention.py"
    edited.write_text(edited.read_text() + "# mine\n")
    assert codes(migrate(model, "--check", "--format", "json", cwd=model.parent)) == ["vendored-edited"]
    run = migrate(model, "--vendor", cwd=model.parent)
    assert run.returncode == 2 and "vendored-edited: attention.py was edited; delete" in run.stderr
    assert edited.read_text().endswith("# mine\n")


def test_what_failed_to_be_proved_leaves_no_copy(model: Path) -> None:
    run = migrate(model, "--vendor", "--timeout", "0.01", cwd=model.parent)
    assert run.returncode == 4
    assert [path.name for path in model.parent.iterdir()] == ["model.py"]


def test_copies_are_taken_back_if_the_file_cannot_be_written(tmp_path: Path) -> None:
    files = {tmp_path / "runtime" / name: data for name, data in vendor.package({"attention"}).items()}
    with pytest.raises(KeyError), vendor.put(files):
        assert vendor.is_copy(tmp_path / "runtime")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtime-name", "modern"], "--runtime-name needs --vendor"),
        (["--vendor", "--runtime-name", "a-b"], "'a-b' is no name for a module"),
        (["--vendor", "--runtime-name", "class"], "'class' is no name for a module"),
    ],
)
def test_wrong_usage(model: Path, options: list[str], words: str) -> None:
    run = migrate(model, *options, cwd=model.parent)
    assert run.returncode == 2 and words in run.stderr


def test_every_name_of_the_runtime_can_be_copied_alone(tmp_path: Path) -> None:
    for name, _ in vendor._homes():
        files = vendor.package({name})
        for data in files.values():
            if data.startswith(MARK.encode()):
                compile(data, name, "exec")
        missing = {m for data in files.values() for m in _relative(data)} - {file.removesuffix(".py") for file in files}
        assert not missing


def _relative(data: bytes) -> set[str]:
    return {line.split()[1][1:].decode() for line in data.splitlines() if line.startswith(b"from .")}


RENAMED = [
    ("from runtime import attention\n", "modern", "from modern import attention\n"),
    ("from runtime import (\n    a,\n    b,\n)\n", ".modern", "from .modern import (\n    a,\n    b,\n)\n"),
    ("import runtime\n", "modern", "import modern as runtime\n"),
    ("import runtime\n", ".runtime", "from . import runtime\n"),
    ("import runtime\n", ".modern", "from . import modern as runtime\n"),
    ("x = 1; import runtime  # why\n", "modern", "x = 1; import modern as runtime  # why\n"),
    ("def f():\n    from runtime import a as b\n", "modern", "def f():\n    from modern import a as b\n"),
]


@pytest.mark.parametrize(("text", "module", "expected"), RENAMED)
def test_renaming_and_back(text: str, module: str, expected: str) -> None:
    assert renamed(text, "runtime", module) == expected
    assert renamed(expected, module, "runtime") == text
    assert module in imported_modules(expected)


@pytest.mark.parametrize(
    "text",
    ["from runtime.x import a\n", "import runtime.x\n", "import runtimes\n", "s = 'from runtime import a'\n", "import torch\n"],
)  # fmt: skip
def test_other_imports_are_not_renamed(text: str) -> None:
    assert renamed(text, "runtime", "modern") == text


def test_names_that_are_used() -> None:
    text = "from runtime import attention as a\nimport runtime\nrotary = runtime.RotaryEmbedding(4)\nother.thing()\n"
    assert runtime_names(text) == {"attention", "RotaryEmbedding"}


def test_a_name_that_the_runtime_has_not() -> None:
    with pytest.raises(MigrateError, match="no-such-name: the runtime has no Wavelet"):
        vendor.package(["attention", "Wavelet"])
