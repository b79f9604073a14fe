"""Two processes: the migrated model under DDP and FSDP2 loses what it loses in a single one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.validate import Request, Text, validate
from migrator.validate.result import Scaling
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
