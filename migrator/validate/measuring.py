"""The order of a validation: the model is found, then section after section is measured, each within its own time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from migrator import __version__
from migrator.prove.nursery import Nursery
from migrator.prove.remote import BoxError, OutOfTime
from migrator.validate import attention, gradients, memory, quality, scaling, speed
from migrator.validate.finding import find
from migrator.validate.promised import promised
from migrator.validate.request import Request
from migrator.validate.result import Environment, Scaling, Unmeasured, Validation
from migrator.validate.subject import Budget, CannotMeasure, Subject

Measured = TypeVar("Measured")
_FINDING, _SCALING = 60.0, 240.0
# Shares of the time for all sections; what one does not use is the next one's.
_SHARES = {"gradients": 0.2, "attention": 0.1, "memory": 0.15, "speed": 0.25, "quality": 0.3}


def measure(request: Request, nursery: Nursery, progress: Callable[[str], None]) -> Validation:
    """Both texts, side by side.

    Raises:
        CannotMeasure: there is no model that could be built in both.
    """
    began = time.monotonic()
    deadline = began + request.seconds + _FINDING
    subject = find(request, nursery, deadline, progress)
    sections = _Sections(subject, request, progress)
    gradients_ = sections.measured("gradients", gradients.measure)
    attention_ = sections.measured("attention", attention.measure)
    memory_ = sections.measured("memory", memory.measure)
    speed_ = sections.measured("speed", lambda s, budget: speed.measure(s, budget, request.samplers))
    scaling_ = sections.scaled()
    quality_ = sections.measured("quality", quality.measure)
    return Validation(
        legacy=request.legacy.title,
        migrated=request.migrated.title,
        subject=subject.described,
        environment=_environment(),
        gradients=gradients_,
        attention=attention_,
        memory=memory_,
        speed=speed_,
        quality=quality_,
        scaling=scaling_,
        promised=promised(gradients_, memory_, speed_, quality_),
        notes=(),
        seconds=time.monotonic() - began,
    )


class _Sections:
    """Runs one section after the other, and notes what cannot be measured."""

    def __init__(self, subject: Subject, request: Request, progress: Callable[[str], None]) -> None:
        self.subject, self.request, self.progress, self.left = subject, request, progress, request.seconds
        self.shares = {name: share for name, share in _SHARES.items() if not request.only or name in request.only}

    def scaled(self) -> Scaling | Unmeasured:
        """Only where it is asked for, and then beside the time of the others."""
        asked = self.request
        if asked.processes < 2:
            return Unmeasured("asked for by --nproc")
        budget = Budget(time.monotonic() + _SCALING, lambda doing: self.progress(f"scaling: {doing}"))
        try:
            return scaling.measure(self.subject, budget, asked.processes, asked.compiler, asked.gpus)
        except CannotMeasure as error:
            return Unmeasured(str(error))

    def measured(self, name: str, section: Callable[[Subject, Budget], Measured]) -> Measured | Unmeasured:
        """The section's figures, or why there are none."""
        if name not in self.shares:
            return Unmeasured("not asked for")
        share = self.shares[name] / sum(self.shares.values())
        del self.shares[name]
        began = time.monotonic()
        end = began + self.left

        def said(doing: str) -> None:
            self.progress(f"{name}: {doing} (about {max(end - time.monotonic(), 0):.0f} s left)")

        budget = Budget(began + self.left * share, said)
        try:
            return section(self.subject, budget)
        except (CannotMeasure, BoxError) as error:
            return Unmeasured(str(error))
        except OutOfTime:
            return Unmeasured("there was no time left for it; --seconds gives more")
        finally:
            self.left -= time.monotonic() - began


def _environment() -> Environment:
    return Environment(
        python=platform.python_version(), torch=torch.__version__, device="cpu", threads=1,
        processor=_processor(), platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        tool=__version__,
    )  # fmt: skip


def _processor() -> str:
    """What Linux says of the processor, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
