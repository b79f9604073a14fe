"""How the figures of a validation are written."""

from __future__ import annotations

import math
from collections.abc import Callable

from migrator.validate.result import Spread


def number(value: float) -> str:
    """Three digits that matter."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(count) >= 2**power:
            return f"{count / 2**power:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def spread(value: Spread, say: Callable[[float], str] = number) -> str:
    """`2.1 (1.9 to 2.4)`."""
    return f"{say(value.median)} ({say(value.low)} to {say(value.high)})"


def time_spread(value: Spread) -> str:
    return spread(value, duration)
