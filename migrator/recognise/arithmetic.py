"""What the operations on numbers compute, where a recogniser tries values out."""

from __future__ import annotations

import math
from collections.abc import Callable

FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "div": (2, lambda a, b: a / b),
    "pow": (2, lambda a, b: a**b),
    "mod": (2, lambda a, b: a % b),
    "floordiv": (2, lambda a, b: a // b),
    "neg": (1, lambda a: -a),
    "sin": (1, math.sin),
    "cos": (1, math.cos),
    "exp": (1, math.exp),
    "log": (1, math.log),
    "sqrt": (1, math.sqrt),
}
