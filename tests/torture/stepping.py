"""`migrate`, ended by a signal before one chosen step of what it does to files.

Python reports every open, rename and removal to audit hooks, so no step is forgotten when the code changes. A server
that has everything imported forks for each run, because there are hundreds of them; hooks cannot be taken away again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.cli import main
from migrator.rewrite.plan import Plan

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_NEVER = 1 << 30


@dataclass(frozen=True)
class Ending:
    """How a run ended: its exit code, whether it came to the step and so got the signal, and what it printed."""

    code: int
    reached: bool
    output: str


class Stepper:
    """The side of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder.parent / "output"
        environment = {**os.environ, "XDG_STATE_HOME": str(folder.parent / "state")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.stepping", str(folder), str(self.output)],
            cwd=Path(__file__).parents[2], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)

    def run(self, *arguments: str | Path, step: int = _NEVER, number: int = signal.SIGKILL) -> Ending:
        """`migrate` with these arguments, which gets the signal just before step `step`, counted from 0."""
        assert self._server.stdin is not None and self._server.stdout is not None
        json.dump({"arguments": [*map(str, arguments)], "step": step, "number": number}, self._server.stdin)
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        code, reached = json.loads(self._server.stdout.readline())
        ending = Ending(code, reached, self.output.read_text())
        assert "Traceback" not in ending.output, ending.output
        return ending


def _serve(folder: str, output: str) -> None:
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _signal_at(request["step"], request["number"], (folder, os.environ["XDG_STATE_HOME"]), writing)
            _become_migrate(request["arguments"], output)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, bool(os.read(reading, 1))]), flush=True)
        os.close(reading)


def _signal_at(step: int, number: int, folders: Sequence[str], report: int) -> None:
    """Send ourselves a signal before a step in one of these folders."""
    left = step

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _STEPS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if os.fsdecode(arguments[0]).startswith(tuple(folders)):
            left -= 1
            if left == -1:
                os.write(report, b"x")
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _become_migrate(arguments: list[str], output: str) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        main(arguments)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(70)


def _warm_up() -> None:
    """Have everything imported, and the one text planned once: what is tried here comes after that."""
    from migrator.rewrite import engine
    from tests.torture.running import OLD

    plan, plans = engine.plan, dict[str, Plan]()
    engine.plan = lambda path, text, **options: plans.get(text) or plans.setdefault(text, plan(path, text, **options))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.py").write_text(OLD)
        for arguments in (["--no-verify", folder], ["--no-verify", folder], ["undo", folder]):
            with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.suppress(SystemExit):
                main(arguments)
    gc.freeze()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
