"""For `make coverage` alone: lets boxes say which of their lines ran.

A box is confined to a folder that goes with it, and ended without notice. While lines are counted it is not confined,
and gets a signal to save its figures by before it is ended. Python loads this module at its start from PYTHONPATH.
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
    signal.signal(signal.SIGUSR1, _save)
    os.chdir(home)
    return "nothing"


def _open_boxes(nursery: ModuleType) -> None:
    end = nursery._end

    def with_notice(pid: int, *arguments: Any) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
            time.sleep(_NOTICE)
        return str(end(pid, *arguments))

    nursery.confine, nursery._end = _unconfined, with_notice  # type: ignore[attr-defined]


class _Opening(MetaPathFinder):
    """Changes the nursery as soon as somebody has imported it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "migrator.prove.nursery" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                _open_boxes(module)

            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Opening())
