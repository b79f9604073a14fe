"""Many files: in parallel with the same output, and from the cache with the same findings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrator.codemod import Phase
from migrator.run.cache import Cache

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "fixtures/attention").glob("*/before.py"))[:12]
CODE = """
import sys
import time
from migrator.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("EXIT", end.code)
print("LOADED", *sorted({"libcst"} & set(sys.modules)))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, case in enumerate(CASES):
        (tmp_path / f"m{number:02}.py").write_bytes(case.read_bytes())
    (tmp_path / "plain.py").write_text("x = 1\n")
    return tmp_path


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cwd / ".cache"), **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, env=environment, timeout=300)


def entries(tree: Path) -> list[Path]:
    return sorted(path for path in (tree / ".cache").rglob("*") if path.is_file())


# --- in parallel ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["--check", "--dry-run"])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_parallel_output_is_the_same(tree: Path, mode: str, format_: str) -> None:
    alone = run(".", mode, "--format", format_, "--no-cache", cwd=tree)
    for jobs in (2, 5, 0):
        together = run(".", mode, "--format", format_, "--no-cache", "-j", jobs, cwd=tree)
        assert together.stdout.rpartition("LOADED")[0] == alone.stdout.rpartition("LOADED")[0]
        assert together.stderr == alone.stderr
    assert alone.stdout.count("m0") > 5 or alone.stderr.count("m0") > 5


def test_errors_come_in_the_order_of_the_files(tree: Path) -> None:
    for name in ("m03.py", "m07.py"):
        (tree / name).write_text("import torch\nsoftmax = f(\n")
    alone, together = (run(".", "--check", "-j", jobs, cwd=tree) for jobs in (1, 3))
    assert [line[:9] for line in together.stderr.splitlines()] == ["m03.py:2:", "m07.py:2:"]
    assert (alone.stderr, alone.stdout) == (together.stderr, together.stdout)


def test_parallel_writing_gives_the_same_files(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for path in tree.glob("*.py"):
        (other / path.name).write_bytes(path.read_bytes())
    run(".", "--no-verify", cwd=tree)
    run(".", "--no-verify", "-j", "3", cwd=other)
    assert [path.read_bytes() for path in sorted(tree.glob("*.py"))] == [
        path.read_bytes() for path in sorted(other.glob("*.py"))
    ]


def test_two_proofs_at_a_time(tmp_path: Path) -> None:
    good = ROOT / "fixtures/attention/single_head_tril_buffer/before.py"
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / name).write_bytes(good.read_bytes())
    done = run(".", "-j", "2", "--format", "json", cwd=tmp_path)
    files = json.loads(done.stdout[: done.stdout.index("\nEXIT")])["files"]
    assert [(file["path"], file["verification"]["status"], file["written"]) for file in files] == [
        (name, "proved", True) for name in ("a.py", "b.py", "c.py")
    ]


# --- the cache -----------------------------------------------------------------------------------------------------


def findings(tree: Path, *options: object) -> Any:
    done = run(".", "--check", "--format", "json", *options, cwd=tree)
    document, _, rest = done.stdout.partition("\nEXIT ")
    return json.loads(document), rest.split()


def test_a_second_check_looks_at_nothing_and_says_the_same(tree: Path) -> None:
    first, (code, *loaded) = findings(tree)
    assert "libcst" in loaded
    assert len(entries(tree)) == len(CASES)
    second, (again, *loaded) = findings(tree)
    assert (second, again) == (first, code)
    assert loaded == ["LOADED"]
    text = run(".", "--check", cwd=tree).stdout
    assert text.rpartition("LOADED")[0] == run(".", "--check", "--no-cache", cwd=tree).stdout.rpartition("LOADED")[0]


def append(path: Path) -> None:
    path.write_text(path.read_text() + "# more\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "the file": lambda tree: append(tree / "m00.py"),
    "an entry is damaged": lambda tree: entries(tree)[0].write_text("{"),
    "an entry is of another form": lambda tree: entries(tree)[0].write_text('{"key": 1, "outcomes": [1]}'),
    "an entry is gone": lambda tree: entries(tree)[0].unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_looked_at_again(tree: Path, change: str) -> None:
    first, _ = findings(tree)
    CHANGES[change](tree)
    second, (_, *loaded) = findings(tree)
    assert "libcst" in loaded
    assert second == first
    assert findings(tree)[1][1:] == ["LOADED"]


def test_a_file_that_is_mended_is_clean_at_once(tree: Path) -> None:
    findings(tree)
    for path in tree.glob("m*.py"):
        path.write_text("import torch\n# softmax\n")
    document, (code, *_) = findings(tree)
    assert code == "0"
    assert not any(file["findings"] for file in document["files"])


@pytest.mark.parametrize("options", [("--phase", "2"), ("--only", "block"), ("--skip", "attention"), ("--no-cache",)])
def test_other_options_are_other_entries(tree: Path, options: tuple[str, ...]) -> None:
    findings(tree)
    assert "libcst" in findings(tree, *options)[1]


def test_another_tool_is_another_key(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from migrator.link.units import units
    from migrator.read.source import read
    from migrator.rewrite.plan import Plan

    source = read(tree / "m00.py")
    (unit,) = units([source])
    old, new = (Cache(tree / ".cache", "[]", tool) for tool in ("1", "2"))
    old.keep(unit, [Plan(source.path, source.text, source.text)])
    assert old.plans(unit) is not None
    assert new.plans(unit) is None


def test_a_sibling_that_changes_is_another_key(tmp_path: Path) -> None:
    from migrator.link.planning import plan
    from migrator.link.units import Unit, units
    from migrator.read.source import read

    def unit() -> Unit:
        (found,) = units([read(tmp_path / "block.py")])
        return found

    (tmp_path / "part.py").write_text("import torch.nn as nn\n\n\nclass Part(nn.Module):\n    pass\n")
    text = "import torch.nn as nn\nfrom part import Part\n\n\nclass Attention(nn.Module):\n    part = Part\n"
    (tmp_path / "block.py").write_text(text)
    cache = Cache(tmp_path / ".cache", "[]", "1")
    assert len(unit().members) == 2
    cache.keep(unit(), plan(unit(), phase=Phase.DROP_IN))
    assert cache.plans(unit()) is not None
    (tmp_path / "part.py").write_text("import torch.nn as nn\n\n\nclass Part(nn.Module):\n    other = 1\n")
    assert cache.plans(unit()) is None


def test_the_tool_is_known_by_every_module_that_decides() -> None:
    from migrator.run.cache import _tool

    for name in ("rotary.py", "engine.py", "dataflow.py", "prefilter.py", "codemod.py"):
        assert any(line.startswith(name + " ") for line in _tool().splitlines())


def test_a_cache_that_cannot_be_written_is_no_fault(tree: Path) -> None:
    (tree / ".cache").write_text("a file where a directory should be")
    document, (code, *_) = findings(tree)
    assert code == "1" and any(file["findings"] for file in document["files"])


def test_runs_at_the_same_time_agree(tree: Path) -> None:
    command = [sys.executable, "-m", "migrator", ".", "--check", "--format", "json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tree / ".cache")}
    together = [
        subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    outputs = {process.communicate(timeout=120) for process in together}
    assert len(outputs) == 1
    assert len(entries(tree)) == len(CASES)


def test_nothing_is_kept_of_a_run_that_writes(tree: Path) -> None:
    run(".", "--dry-run", cwd=tree)
    run(".", "--check", "--format", "sarif", cwd=tree)
    assert entries(tree) == []


def test_work_that_only_findings_tell_of_is_work_left(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes((ROOT / "fixtures/attention/single_head_tril_buffer/before.py").read_bytes())
    for _ in range(2):
        assert "work left: run `migrate m.py --phase 1`" in run("m.py", "--check", cwd=tmp_path).stdout


def test_ctrl_c_ends_all_processes_without_a_trace(tmp_path: Path) -> None:
    text = (ROOT / "fixtures/latent_drift_trajectory.py").read_bytes()
    for number in range(60):
        (tmp_path / f"m{number}.py").write_bytes(text)
    command = [sys.executable, "-m", "migrator", ".", "--check", "--no-cache", "--phase", "2", "-j", "3"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, start_new_session=True)
    time.sleep(2)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, b"")
    assert errors.strip() == b"interrupted: every file is either as it was, or wholly rewritten"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
