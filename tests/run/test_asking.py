"""`--interactive`: every finding is asked about, the proof is shown, and only what is wanted is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LATENT = (ROOT / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")
ATTENTION = (ROOT / "fixtures/attention/single_head_tril_buffer/before.py").read_text(encoding="utf-8")
AFTER = (ROOT / "fixtures/attention/single_head_tril_buffer/after.py").read_text(encoding="utf-8")


def migrate(answers: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", "model.py", "-i", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, input=answers, capture_output=True, text=True, check=False, timeout=200)


def written(folder: Path, text: str) -> Path:
    path = folder / "model.py"
    path.write_text(text)
    return path


def test_yes_and_yes(tmp_path: Path) -> None:
    path = written(tmp_path, ATTENTION)
    run = migrate("y\ny\n", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert path.read_text() == AFTER
    why, proof, question = (run.stdout.index(word) for word in ("why: Fused attention", "proved: ", "write? [y/N]"))
    assert why < proof < question


def test_the_proof_is_shown_and_then_no_is_no(tmp_path: Path) -> None:
    path = written(tmp_path, ATTENTION)
    run = migrate("y\nn\n", cwd=tmp_path)
    assert run.returncode == 0
    assert path.read_text() == ATTENTION
    assert "nothing written, as you said; model.py is as it was" in run.stdout


def test_no_to_the_only_finding(tmp_path: Path) -> None:
    path = written(tmp_path, ATTENTION)
    run = migrate("n\n", cwd=tmp_path)
    assert run.returncode == 0
    assert path.read_text() == ATTENTION
    assert "left as it is in this run" in " ".join(run.stdout.split())
    assert "write?" not in run.stdout


def test_each_finding_is_asked_once_and_an_answer_counts(tmp_path: Path) -> None:
    path = written(tmp_path, LATENT)
    run = migrate("n\n" + "y\n" * 30, "--phase", "2", "--no-verify", cwd=tmp_path)
    assert run.returncode in (0, 3), run.stderr
    asked = [
        line.partition(": ")[2].partition(" (")[0]
        for line in run.stdout.splitlines()
        if line.startswith("model.py:") and " (" in line
    ]
    assert asked[0] == "positional_encoding" and "swiglu" in asked
    text = path.read_text()
    assert "SinusoidalPositionalEncoding" not in text and "swiglu_width" in text


def test_all_and_none(tmp_path: Path) -> None:
    path = written(tmp_path, LATENT)
    assert migrate("q\n", "--phase", "2", "--no-verify", cwd=tmp_path).returncode in (0, 3)
    assert path.read_text() == LATENT
    migrate("a\ny\n", "--phase", "2", "--no-verify", cwd=tmp_path)
    everything = path.read_text()
    path.write_text(LATENT)
    subprocess.run(
        [sys.executable, "-m", "migrator", "model.py", "--phase", "2", "--no-verify"], cwd=tmp_path, capture_output=True
    )
    assert path.read_text() == everything != LATENT


def test_a_wrong_answer_is_asked_again_and_no_answer_ends_it(tmp_path: Path) -> None:
    path = written(tmp_path, ATTENTION)
    run = migrate("what\nn\n", cwd=tmp_path)
    assert run.stdout.count("change it?") == 2
    assert migrate("", cwd=tmp_path).returncode == 130
    assert path.read_text() == ATTENTION


@pytest.mark.parametrize("other", [["--check"], ["--dry-run"], ["-j", "2"], ["--format", "json"]])
def test_what_it_does_not_go_with(tmp_path: Path, other: list[str]) -> None:
    written(tmp_path, ATTENTION)
    assert "--interactive goes with neither" in migrate("", *other, cwd=tmp_path).stderr
