"""`migrate validate` and `--phase 4` from the command line, on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrator.cli import main
from tests.validate.texts import LEGACY, migrated

FEW = ["--only", "memory", "--seconds", "6", "--model", "Tiny", "--build", "Tiny(vocab=11, dim=16, heads=2, window=64)"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.py"
    path.write_text(LEGACY, encoding="utf-8")
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_one_file_is_measured_against_what_the_last_phase_makes_of_it(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("validate", file, *FEW, "--html", tmp_path / "r.html", "--json", tmp_path / "r.json")
    out = capsys.readouterr().out
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert code == (3 if any(v["level"] == "worse" for v in data["memory"]["verdicts"]) else 0)
    assert "tiny.py after --phase 3" in out and "not measured: not asked for" in out
    assert data["subject"]["built"] == "--build" and data["quality"] == {"reason": "not asked for"}
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "self.rotary = RotaryEmbedding" in page and "Su et al. 2021" in page
    assert file.read_text(encoding="utf-8") == LEGACY


def test_two_files(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "new.py"
    other.write_text(migrated(), encoding="utf-8")
    run("validate", file, other, *FEW, "--format", "json")
    data = json.loads(capsys.readouterr().out)
    assert (data["legacy"], data["migrated"]) == (str(file), str(other))
    assert data["memory"]["rows"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.py"], "missing.py"),
        (["tiny.py", "tiny.py"], "nothing-to-compare: the two texts are the same"),
        (["broken.py"], "syntax-error"),
        (["tiny.py", "--build", "Tiny()"], "--build needs --model"),
        (["tiny.py", "--model", "Nobody", "--seconds", "2"], "no-model: "),
        (["tiny.py", "--model", "Tiny", "--build", "Tiny(layers='x')", "--seconds", "2"], "no-model: "),
        (["tiny.py", "--only", "beauty"], "beauty"),
        (["tiny.py", *FEW, "--json", "nowhere/r.json"], "not-written: "),
    ],
)
def test_what_cannot_be_measured_ends_in_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(file.parent)
    (file.parent / "broken.py").write_text("class (\n", encoding="utf-8")
    assert run("validate", *arguments) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or "Usage:" in err


def test_a_report_needs_phase_4(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "--phase", "3", "--report", file.parent / "reports") == 2
    assert "--report needs --phase 4" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == LEGACY


def test_phase_4_migrates_and_then_measures(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = file.parent / "reports"
    code = run(file, "--phase", "4", "--no-verify", "--seconds", "8", "--format", "json", "--report", reports)
    data = json.loads(capsys.readouterr().out)
    (entry,) = data["files"]
    assert entry["written"] and "RotaryEmbedding" in file.read_text(encoding="utf-8")
    assert entry["validation"]["legacy"] == f"{file} as it was" and entry["validation"]["memory"]["rows"]
    assert code in (0, 3) and data["exit_code"] == code
    assert json.loads((reports / "tiny.json").read_text(encoding="utf-8")) == entry["validation"]
    page = (reports / "tiny.html").read_text(encoding="utf-8")
    assert "self.rotary = RotaryEmbedding" in page
    # A second run has nothing to compare with, and is done.
    assert run(file, "--phase", "4", "--format", "json") == 0
    assert "validation" not in json.loads(capsys.readouterr().out)["files"][0]
