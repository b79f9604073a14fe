"""Two processes: the migrated model under DDP and FSDP2 loses what it loses in a single one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.validate import Request, Text, ranks, scaling, validate
from migrator.validate.result import Scaling
from migrator.validate.subject import CannotMeasure
from tests.validate.texts import LEGACY, PATH, migrated, spoilt

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
TINY = "Tiny(vocab=11, dim=16, heads=2, layers=2, window=32)"


def scaled(text: str, legacy: str = LEGACY, path: Path = PATH, model: str = "Tiny", build: str = TINY) -> Scaling:
    request = Request(
        Text(path, legacy), Text(path, text), model, build, only=("scaling",), processes=2, compiler="aot_eager"
    )  # fmt: skip
    found = validate(request).scaling
    assert isinstance(found, Scaling), found
    return found


def test_every_mode_with_every_option_equals_a_single_process() -> None:
    found = scaled(migrated())
    assert [(row.mode, row.options) for row in found.rows] == [
        (mode, option) for mode in ("DDP", "FSDP2") for option in ("", "checkpointing", "torch.compile (aot_eager)")
    ]
    for row in found.rows:
        assert row.equal and row.difference < 1e-5, row
        assert len(row.losses) == 6 and row.losses[-1] < row.losses[0]
    assert [verdict.level for verdict in found.verdicts] == ["same"] and found.note == ""


def test_the_bundled_model_which_has_parameters_without_a_gradient() -> None:
    path = Path(__file__).parents[2] / "fixtures" / "latent_drift_trajectory.py"
    legacy = path.read_text(encoding="utf-8")
    text = plan(path, legacy, phase=Phase.ACCELERATION).text
    build = "DeterministicLatentODE(vocab_size=vocab_size, latent_size=8, hidden_size=16, embed_size=8, num_slices=8)"
    found = scaled(text, legacy, path, "DeterministicLatentODE", build)
    assert all(row.equal for row in found.rows), found.verdicts
    assert {row.mode for row in found.rows} == {"DDP", "FSDP2"}
    assert "p_init_distr.m" in found.note and "find_unused_parameters=True" in found.note


def test_a_model_that_does_something_else_in_the_second_process_is_found_out() -> None:
    wrong = "        x = x + self.attn(self.ln1(x), past_kv=past_kv)\n        if torch.distributed.is_initialized() and torch.distributed.get_rank():\n            x = x * 1.01\n"
    found = scaled(spoilt(migrated(), "        x = x + self.attn(self.ln1(x), past_kv=past_kv)\n", wrong))
    assert not any(row.equal for row in found.rows)
    assert {verdict.level for verdict in found.verdicts} == {"worse"}


def test_a_model_that_cannot_be_run_together_says_why() -> None:
    wrong = "    def forward(self, idx, past_kv=None, use_cache=False):\n        if type(self).__name__ != 'Tiny':\n            raise RuntimeError('no shards')\n"
    found = scaled(spoilt(migrated(), "    def forward(self, idx, past_kv=None, use_cache=False):\n", wrong))
    assert {row.mode: row.equal for row in found.rows} == {"DDP": True, "FSDP2": False}
    assert any("no shards" in verdict.text for verdict in found.verdicts if verdict.level == "worse")


def test_a_model_that_fails_in_one_process_says_why_though_the_other_waits() -> None:
    """The first process waits for gradients of the second, and would for as long as there is time."""
    wrong = "        if torch.distributed.is_initialized() and torch.distributed.get_rank():\n            raise RuntimeError('not here')\n"
    head = "    def forward(self, idx, past_kv=None, use_cache=False):\n"
    found = scaled(spoilt(migrated(), head, head + wrong))
    assert found.rows[0].note.startswith("process 1: RuntimeError: not here"), found.rows[0]
    assert not any(row.equal for row in found.rows)


# --- what several processes say of a run --------------------------------------------------------------------------


def said(own: tuple[float, str], other: tuple[float, str] | None) -> str | None:
    """What the first of two processes finds; the other says nothing if `other` is None."""
    store = dist.HashStore()
    if other is not None:
        store.set("end of 1", json.dumps([other[0], 1, other[1]]))
    trainer: Any = SimpleNamespace(rank=0, world=2)
    return ranks._first_failure(trainer, store, *own)


def test_the_first_failure_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_PATIENCE", timedelta(seconds=0.4))
    assert said((0.0, ""), (0.0, "")) == ""
    assert said((1.0, "no shards"), (2.0, "no shards")) == "no shards"
    assert said((2.0, "connection closed"), (1.0, "not here")) == "process 1: not here"
    assert said((1.0, "not here"), (2.0, "connection closed")) == "process 0: not here"
    assert said((0.0, ""), (1.0, "not here")) == "process 1: not here"
    assert said((1.0, "not here"), None) is None


# --- processes ----------------------------------------------------------------------------------------------------

NEVER_ENDS = {
    "text": "while True:\n    pass\n", "path": "endless.py", "definitions_only": False, "build": {}, "specs": [],
    "initialiser": "", "seed": 0, "steps": 1, "processes": 2, "batch": 4, "compiler": "aot_eager", "length": 8,
}  # fmt: skip
RUN = "import json, sys\nfrom migrator.validate import scaling\nscaling._run(json.loads(sys.argv[1]), 300.0, None)"


def marked(mark: str, word: str = "") -> list[int]:
    """Processes with a variable in their environment, and a word in their command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"MARK={mark}".encode() in variables.split(b"\0") and word.encode() in command:
            found.append(int(process.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    return true()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends processes with the one that started them")
def test_no_process_outlives_the_one_that_asked(tmp_path: Path) -> None:
    """torchrun gives each process a session of its own, so that ending its group would not reach them."""
    caller = subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(NEVER_ENDS)], env={**os.environ, "MARK": str(tmp_path)}
    )  # fmt: skip
    try:
        assert wait_until(lambda: len(marked(str(tmp_path), "migrator.validate.ranks")) == 2, 60)
    finally:
        caller.kill()
        caller.wait()
    ended = wait_until(lambda: not marked(str(tmp_path)), 10)
    for process in marked(str(tmp_path)):
        os.kill(process, signal.SIGKILL)
    assert ended


def test_an_answer_that_makes_no_sense_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ("{}", "[]", "no", ""):
        monkeypatch.setattr(scaling, "_START", f"print('namespaces'); print({answer!r}, end='')")
        with pytest.raises(CannotMeasure, match="makes no sense|without an answer"):
            scaling._measured(*scaling._run(NEVER_ENDS, 60.0, None), 2)
