"""The worker process: it forks the nursery while it is still clean, and then judges plan after plan.

It never runs user code: that happens in boxes, which the nursery forks.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import struct
import sys
import threading
import time
import traceback
from typing import Any


def main() -> None:
    """Serve the parent until it closes the connection."""
    try:
        import torch

        from migrator.prove.nursery import Nursery
    except ImportError as error:
        _say({"error": f"the proof needs torch, which could not be imported ({error})"})
        return
    with Nursery() as nursery:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        from migrator.prove.judge import verify

        torch.set_num_threads(1)
        while (request := _request()) is not None:
            plan, timeout = request
            try:
                verification = verify(plan, nursery, time.monotonic() + timeout, _progress)
                _say({"verification": verification.to_json()})
            except Exception:
                _say({"error": "internal error of the proof: " + " | ".join(traceback.format_exc().split("\n")[-4:])})


def _end_with_parent() -> None:
    """End at once when the parent is gone, even if it was killed in the middle of a proof."""
    pipe = select.poll()
    pipe.register(0, 0)  # nothing but the end of the other side
    pipe.poll()
    os._exit(1)


def _request() -> Any:
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        return None
    # Comes from the parent, over a pipe that nothing else can write to.
    return pickle.loads(sys.stdin.buffer.read(struct.unpack("<Q", head)[0]))


def _progress(text: str) -> None:
    _say({"progress": text})


def _say(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(1) from None
