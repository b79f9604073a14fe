"""Checkpoints of the legacy model become checkpoints of the migrated one. Needs torch, but only in a child process.

parent (no torch) -- worker (reads and writes tensors, never runs user code) -- nursery -- box (builds the model)
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from migrator.checkpoint.request import Conversion, Request
from migrator.errors import MigrateError

__all__ = ["Conversion", "Request", "convert"]

_START = "import sys; sys.path.append(sys.argv[1]); from migrator.checkpoint.worker import main; main()"


def convert(request: Request, *, timeout: float) -> Conversion:
    """Have a worker do it.

    Raises:
        MigrateError: the checkpoint can't be read, the model can't be built, or the two don't belong together.
    """
    answer = _ask(request, timeout)
    if "done" in answer:
        return Conversion.from_json(answer["done"])
    raise MigrateError(*answer["error"], path=answer["path"])


def _ask(request: Request, timeout: float) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, env=environment, cwd="/",
    )  # fmt: skip
    try:
        # Pickle, because both ends are this package; what comes back from there is JSON.
        out, _ = process.communicate(pickle.dumps((request, timeout)), timeout + 5)
        answer: dict[str, Any] = json.loads(out)
        return answer
    except subprocess.TimeoutExpired as error:
        raise MigrateError("timeout", f"not done after {timeout:g} s", "give it more by --timeout") from error
    except ValueError as error:
        cause = "the process that converts it ended; is torch installed, and is there enough memory?"
        raise MigrateError("no-answer", cause, path=request.old) from error
    finally:
        process.kill()  # the nursery sees the end of its connection, and ends the boxes
        process.wait()
