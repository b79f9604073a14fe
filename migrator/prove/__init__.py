"""The proof: does each stage of a plan keep its promise? Needs torch, but only in processes of its own.

parent (no torch) -- judge (never runs user code) -- nursery (forks) -- boxes (each runs one text)
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from migrator.prove.confinement import without_secrets
from migrator.prove.result import Check, TensorRow, Verification
from migrator.rewrite.plan import Plan

__all__ = ["Check", "Prover", "TensorRow", "Verification", "start"]

Progress = Callable[[str], None]
_GRACE = 2.0
_START = "import sys; sys.path.append(sys.argv[1]); from migrator.prove.worker import main; main()"


def start(python: str = sys.executable) -> Prover:
    """Start the worker at once: its import of torch then overlaps with whatever the caller does next."""
    return Prover(python)


class Prover:
    """A worker process that proves plans, one after another."""

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._process: subprocess.Popen[bytes] | None = self._spawn()

    def __enter__(self) -> Prover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prove(self, plan: Plan, *, timeout: float, progress: Progress | None = None) -> Verification:
        """The verdict on `plan`, after `timeout` seconds at the latest."""
        began = time.monotonic()
        if not plan.stages:
            return Verification("skipped", notes=("there is nothing to prove: the text does not change",))
        if self._process is None or self._process.poll() is not None:
            self._process = self._spawn()
        report = progress or (lambda text: None)
        try:
            self._ask(self._process, plan, timeout)
            answer = self._answer(self._process, began + timeout, report)
        except BrokenPipeError:
            answer = {"error": "the proof's own process could not be started; is torch installed?"}
        if "verification" in answer:
            return Verification.from_json(answer["verification"])
        self.close()
        return Verification("not verified", notes=(answer["error"],), seconds=time.monotonic() - began)

    def close(self) -> None:
        """End the worker and every process below it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGCONT)  # where nothing confines a box, it can have stopped the nursery
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        process.kill()  # the nursery sees the end of its connection, and ends the boxes
        process.wait(_GRACE)

    def _spawn(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        environment = {**without_secrets(os.environ), "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [self.python, "-P", "-c", _START, root],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env=environment, cwd="/",
        )  # fmt: skip

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], plan: Plan, timeout: float) -> None:
        # Pickle, because both ends are this package; what comes from user code is never unpickled.
        data = pickle.dumps((plan, timeout))
        assert process.stdin is not None
        process.stdin.write(struct.pack("<Q", len(data)) + data)
        process.stdin.flush()

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], deadline: float, progress: Progress) -> dict[str, Any]:
        assert process.stdout is not None
        doing, buffer = "starting", b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline + _GRACE / 4 - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return {"error": f"the proof was not done in time (at: {doing}); a longer --timeout may help"}
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return {"error": "the proof's own process ended; is torch installed, and is there enough memory?"}
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "progress" not in message:
                        return dict(message)
                    doing = message["progress"]
                    progress(doing)
