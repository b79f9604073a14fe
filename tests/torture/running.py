"""What the torture has in common: a model, what becomes of it, and a run of the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

_CASE = Path(__file__).parents[2] / "fixtures" / "attention" / "single_head_tril_buffer"
OLD, NEW = ((_CASE / name).read_text(encoding="utf-8") for name in ("before.py", "after.py"))


def count(default: int) -> int:
    """How many cases: a sample, unless MIGRATE_TORTURE asks for more."""
    return int(os.environ.get("MIGRATE_TORTURE", default))


def start(home: Path, *arguments: str | Path, **streams: IO[bytes]) -> subprocess.Popen[bytes]:
    """`migrate` with these arguments, and what it keeps for `undo` below `home`."""
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    environment = {**os.environ, "XDG_STATE_HOME": str(home)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(command, env=environment, **pipes)


def finish(run: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit code, and what stands on standard error, which is never a traceback."""
    error = run.communicate(timeout=60)[1].decode()
    assert "Traceback" not in error, error
    return run.returncode, error
