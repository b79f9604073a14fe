"""A migration in figures: the legacy and the migrated model side by side. Needs torch, but only in a child process.

parent (no torch) -- worker (never runs user code) -- nursery (forks) -- boxes (each runs one text)
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from migrator.errors import MigrateError
from migrator.prove.confinement import without_secrets
from migrator.validate.request import Request, Text
from migrator.validate.result import Validation

__all__ = ["Request", "Text", "Validation", "validate"]

_START = "import sys; sys.path.append(sys.argv[1]); from migrator.validate.worker import main; main()"


def validate(request: Request, progress: Callable[[str], None] | None = None) -> Validation:
    """Have a worker measure it.

    Raises:
        MigrateError: no model could be built in both texts.
    """
    report = progress or (lambda text: None)
    answer = _ask(request, report)
    if "validation" in answer:
        return Validation.from_json(answer["validation"])
    raise MigrateError(*answer["error"], path=request.legacy.path)


def _ask(request: Request, progress: Callable[[str], None]) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**without_secrets(os.environ), "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, env=environment, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        # Pickle, because both ends are this package; what comes back from there is JSON.
        process.stdin.write(pickle.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "progress" not in message:
                return message
            progress(message["progress"])
    except (BrokenPipeError, ValueError):
        pass
    finally:
        process.kill()  # the nursery sees the end of its connection, and ends the boxes
        process.wait()
    cause = "the process that measures ended; is torch installed, and is there enough memory?"
    return {"error": ["no-answer", cause, ""]}
