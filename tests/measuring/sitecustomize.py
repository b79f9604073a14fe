"""For `make coverage` alone: lets the processes of a proof say which of their lines ran.

They are ended without notice, and a box is confined to a folder that goes with it. While lines are counted boxes are not
confined, and all get a signal to save their figures before they are ended. Python loads this at its start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

_NOTICE = 0.2  # seconds to save in


def _save(number: int, frame: FrameType | None) -> None:
    import coverage

    current = coverage.Coverage.current()
    if current is not None:
        current.save()


def _unconfined(home: os.PathLike[str], *inherited: int) -> str:
    os.chdir(home)
    return "nothing"


def _give_notice(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(_NOTICE)


def _open_boxes(nursery: Any) -> None:
    end = nursery._end

    def with_notice(pid: int, *arguments: Any) -> str:
        _give_notice(pid)
        return str(end(pid, *arguments))

    nursery.confine, nursery._end = _unconfined, with_notice


def _warn_workers(prove: Any) -> None:
    close = prove.Prover.close

    def with_notice(prover: Any) -> None:
        if prover._process is not None and prover._process.poll() is None:
            _give_notice(prover._process.pid)
        close(prover)

    prove.Prover.close = with_notice


_CHANGES = {"migrator.prove.nursery": _open_boxes, "migrator.prove": _warn_workers}


class _Opening(MetaPathFinder):
    """Changes these modules as soon as somebody has imported them."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _CHANGES else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                _CHANGES[name](module)

            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


signal.signal(signal.SIGUSR1, _save)
sys.meta_path.insert(0, _Opening())
