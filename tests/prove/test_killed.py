"""A run that is killed in the middle of a proof leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import torch
from torch import nn

while True:
    pass


class Attention(nn.Module):
    def forward(self, q, k, v):
        return torch.softmax(q @ k.transpose(-2, -1) / 4.0, dim=-1) @ v
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_goes_on_when_the_run_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "slow.py"
    file.write_text(SLOW)
    mark = {"MIGRATE_TEST_MARK": str(tmp_path)}
    run = subprocess.Popen(
        [sys.executable, "-m", "migrator", str(file)], env={**os.environ, **mark}, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 30
    while len(marked(tmp_path)) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(number)
    error = run.communicate(timeout=20)[1]
    assert b"Traceback" not in error
    until = time.monotonic() + 10
    while marked(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(tmp_path) == []
    assert file.read_text() == SLOW


def marked(folder: Path) -> list[str]:
    """The processes of this test, by their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MIGRATE_TEST_MARK={folder}".encode() in entry.read_bytes().split(b"\0"):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found
