"""What is asked of a validation: plain data, no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

SECTIONS = ("gradients", "attention", "memory", "speed", "quality")
SECONDS = 120.0  # for all sections together, on two slow cores


@dataclass(frozen=True)
class Text:
    """One of the two texts: where it would stand, the probes that its project configures, and what to call it."""

    path: Path
    text: str
    probes: tuple[tuple[str, str], ...] = ()
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or str(self.path)


@dataclass(frozen=True)
class Request:
    """One validation.

    Args:
        legacy, migrated: the two texts.
        symbol: the model's class, "" to look for it.
        build: an expression that constructs it, "" to look for one.
        samplers: functions of the legacy text that generate, as `f` or `Class.f`.
        seconds: what all sections may take together.
        only: the sections to measure, none for all.
        processes: how many train together in the section on scaling; 1 leaves it out.
        compiler: the backend of torch.compile there; "" for inductor where there is a C++ compiler.
        gpus: which of them the processes may use, as `CUDA_VISIBLE_DEVICES` says it; None is all.
    """

    legacy: Text
    migrated: Text
    symbol: str = ""
    build: str = ""
    samplers: tuple[str, ...] = ()
    seconds: float = SECONDS
    only: tuple[str, ...] = ()
    processes: int = 1
    compiler: str = ""
    gpus: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
