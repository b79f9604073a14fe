"""The nursery: a process that has imported torch, computed nothing, and forks one box after another.

Forking before any operation matters: a pool of OpenMP threads does not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from migrator.prove.confinement import MEANS, adopt_orphans, confine, end_with_parent

_MEMORY = 8 << 30
_FILE_SIZE = 256 << 20


class Nursery:
    """The judge's side: asks the nursery for boxes and has them ended."""

    means = ""  # what confines the boxes, as soon as there is one

    def __init__(self, install: Sequence[str] = ()) -> None:
        """`install` are modules that add requests to those a box answers, by a function of this name."""
        self._connection, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(theirs, install)
        theirs.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        os.waitpid(self._pid, 0)

    def spawn(self, seconds: float, memory: int = _MEMORY) -> tuple[int, socket.socket, int]:
        """A new box: its process id, a connection to it, and a descriptor with what it prints."""
        ours, theirs = socket.socketpair()
        output, theirs_output = os.pipe()
        request = json.dumps({"seconds": int(seconds) + 5, "memory": memory}).encode()
        socket.send_fds(self._connection, [request], [theirs.fileno(), theirs_output])
        theirs.close()
        os.close(theirs_output)
        answer = json.loads(self._connection.recv(4096))
        pid, self.means = answer["pid"], answer["means"]
        os.set_blocking(output, False)
        return pid, ours, output

    def end(self, pid: int, *, patient: bool = False) -> str:
        """End a box with all it has started, and say how it had ended by itself, if it had.

        `patient` gives it a moment for that, because its connection closes before it is gone.
        """
        self._connection.send(json.dumps({"end": pid, "patient": patient}).encode())
        return str(json.loads(self._connection.recv(4096))["ended"])


def _serve(connection: socket.socket, install: Sequence[str]) -> NoReturn:
    """The nursery's own life, until the judge is gone."""
    homes = tempfile.mkdtemp(prefix="migrate-")
    try:
        adopt_orphans()
        _prepare(install)
        _loop(connection, homes, _tried(Path(homes)))
    finally:
        shutil.rmtree(homes, ignore_errors=True)
        os._exit(0)


def _prepare(install: Sequence[str]) -> None:
    for name in ("torch.distributions", "torch.utils.data", "migrator.prove.box", "migrator.prove.discovery"):
        importlib.import_module(name)
    from migrator.prove import switches

    switches.install()
    for name in install:
        importlib.import_module(name).install()
    for name in ("runtime", "numpy.random"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what all boxes share stays shared, and no collection in a box looks through it


def _tried(home: Path) -> str:
    """What will confine the boxes on this system."""
    trial = os.fork()
    if not trial:
        try:
            os._exit(MEANS.index(confine(home)))
        finally:
            os._exit(len(MEANS) - 1)
    return MEANS[os.waitstatus_to_exitcode(os.waitpid(trial, 0)[1])]


def _loop(connection: socket.socket, homes: str, means: str) -> None:
    alive: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        if not data:
            break
        request = json.loads(data)
        if "end" in request:
            answer: dict[str, object] = {"ended": _end(request["end"], alive, homes, 20 if request["patient"] else 1)}
        else:
            pid = os.fork()
            if not pid:
                connection.close()
                _become_box(descriptors, homes, request)
            alive.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            answer = {"pid": pid, "means": means}
        connection.send(json.dumps(answer).encode())
    for pid in list(alive):
        _end(pid, alive, homes, 1)


def _end(pid: int, alive: set[int], homes: str, patience: int) -> str:
    ended = _status(pid, patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if ended is None:
        os.waitpid(pid, 0)
    alive.discard(pid)
    _end_orphans(alive)
    shutil.rmtree(Path(homes, str(pid)), ignore_errors=True)
    return ended or "it was still running"


def _status(pid: int, patience: int) -> str | None:
    """How a box ended by itself, if it did within some tries."""
    for remaining in reversed(range(patience)):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return f"it exited with status {code}" if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
        time.sleep(0.005 if remaining else 0)
    return None


def _end_orphans(alive: set[int]) -> None:
    """End what left its box's process group: as the nearest subreaper, the nursery has become its parent."""
    ended: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, parent = int(entry.parent.name), int(entry.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and pid not in alive:
                os.kill(pid, signal.SIGKILL)
                ended.add(pid)
    # In any order: the first process of a namespace is not gone before the others of it were collected.
    until = time.monotonic() + 2
    while ended and time.monotonic() < until:
        ended = {pid for pid in ended if os.waitpid(pid, os.WNOHANG)[0] == 0}
        time.sleep(0.001 if ended else 0)


def _become_box(descriptors: list[int], homes: str, request: dict[str, int]) -> NoReturn:
    try:
        os.setsid()
        end_with_parent()
        home = Path(homes, str(os.getpid()))
        home.mkdir()
        confine(home, *descriptors)
        os.environ.update(HOME=str(home), TMPDIR=str(home), MPLBACKEND="Agg")
        tempfile.tempdir = None
        _redirect(descriptors[1])
        _limit(request)
        from migrator.prove import box

        box.serve(socket.socket(fileno=descriptors[0]))
    finally:
        os._exit(70)


def _redirect(output: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    for descriptor, mode in ((0, "r"), (1, "w"), (2, "w")):
        stream = os.fdopen(descriptor, mode, closefd=False, errors="backslashreplace")
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], stream)


def _limit(request: dict[str, int]) -> None:
    limits = {
        "RLIMIT_CPU": request["seconds"],
        "RLIMIT_DATA": request["memory"],
        "RLIMIT_AS": _mapped() + request["memory"],  # shared memory is no data
        "RLIMIT_FSIZE": _FILE_SIZE,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))


def _mapped() -> int:
    """How much address space this process has already, most of it for the libraries of torch."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 64 << 30
