"""The worker process: forks the nursery while it is still clean, then reads, converts and writes one checkpoint."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import time
import traceback
from typing import Any

from migrator.errors import MigrateError


def main() -> None:
    """Do what standard input says, and tell standard output how it went."""
    # Comes from the parent, over a pipe that nothing else can write to.
    request, timeout = pickle.loads(sys.stdin.buffer.read())
    try:
        import torch  # noqa: F401

        from migrator.prove.nursery import Nursery
    except ImportError as error:
        _say({"error": ["no-torch", f"torch could not be imported ({error})", "install it"], "path": None})
        return
    with Nursery() as nursery:
        _limit_memory(request.old.stat().st_size)
        _say(_answer(request, nursery, time.monotonic() + timeout))


def _answer(request: Any, nursery: Any, deadline: float) -> dict[str, Any]:
    from migrator.checkpoint.converting import convert
    from migrator.prove.remote import OutOfTime

    try:
        return {"done": convert(request, nursery, deadline).to_json()}
    except MigrateError as error:
        return {"error": [error.code, error.cause, error.remedy], "path": error.path}
    except OutOfTime:
        return {
            "error": ["timeout", "the model was not built in the time there is", "give it more by --timeout"],
            "path": None,
        }
    except MemoryError:
        return {"error": ["too-large", "there is not enough memory for it", ""], "path": str(request.old)}
    except Exception:
        cause = "internal error: " + " | ".join(traceback.format_exc().split("\n")[-4:])
        return {"error": ["internal", cause, "please report it"], "path": str(request.old)}


def _limit_memory(size: int) -> None:
    """A file whose few bytes speak of many runs into this, and not into the machine's memory."""
    import resource

    limit = (4 << 30) + 6 * size
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message))
    sys.stdout.flush()
