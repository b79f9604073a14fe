"""The parent's side: no torch, progress, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from migrator import prove
from migrator.prove import Prover
from migrator.rewrite.plan import Plan
from tests.prove.texts import LEGACY, STAGES, one_stage

PATH = Path("small_model.py")


def test_the_parent_never_imports_torch() -> None:
    code = "import sys, migrator.prove; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_progress_says_what_is_being_done(prover: Prover) -> None:
    said: list[str] = []
    assert prover.prove(one_stage(STAGES["exact"], PATH), timeout=60, progress=said.append).status == "proved"
    assert any("Attention" in text for text in said) and any("training" in text for text in said)


def test_a_plan_without_stages_needs_no_proof(prover: Prover) -> None:
    assert prover.prove(Plan(PATH, LEGACY, LEGACY), timeout=60).status == "skipped"


def test_checks_belong_to_their_stage_and_say_their_figures(prover: Prover) -> None:
    verification = prover.prove(one_stage(STAGES["exact"], PATH), timeout=60)
    parity = next(check for check in verification.checks if check.name == "parity float64")
    assert parity.stage == "positional_encoding, attention"
    assert parity.figure is not None and 0 <= parity.figure <= (parity.limit or 0) == 1e-10
    assert verification.seconds > 0


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with prove.start() as own:
        own.prove(one_stage(STAGES["exact"], PATH), timeout=60)
        own.close()
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())
