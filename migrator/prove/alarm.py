"""A limit on how long one piece of user code may run, within a box that is to go on living."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the code inside after some seconds. What it does not stop, the judge's own limit does."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it did not come to an end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
