"""What an attention consists of, once it is understood; and what is said of one that is not."""

from __future__ import annotations

import ast
import math
import sys
from dataclasses import dataclass, field

from migrator.recognise.index import ClassInfo
from migrator.recognise.values import Flow, Value

LOWEST = -sys.float_info.max  # a fill: the lowest number of the scores' own dtype, `torch.finfo(scores.dtype).min`


@dataclass(eq=False)
class Mask:
    """One step between scores and softmax. kind: "hide" and "keep" (boolean), "bias" (added), "causal".

    A causal mask has a `value` only if it may leave rows without any key.

    `condition` is the value under which the step happens; `None` means always.
    """

    kind: str
    value: Value | None
    fill: float = -math.inf
    condition: Value | None = None
    numeric: bool = False  # the mask is of the numbers 0 and 1


@dataclass(eq=False)
class Attention:
    """softmax(scale * q k^T + masks) v. `output` is the product with v, in the layout that `layout` moves it to."""

    flow: Flow
    q: Value
    k: Value
    v: Value
    output: Value
    node: ast.expr
    kind: str = "legacy"  # legacy | runtime | sdpa
    softmax: Value | None = None
    k_transposed: bool = True
    scale: Value | None = None  # None: 1/sqrt(head_dim), or `unscaled`
    scale_op: str = "none"  # none | default | div | mul
    scale_condition: Value | None = None  # the scores are scaled where this holds
    masks: list[Mask] = field(default_factory=list)
    dropout: Value | None = None
    dropout_condition: Value | None = None
    k_as_multiplied: Value | None = None  # the right factor of the product, k^T
    passed: list[Value] = field(default_factory=list)  # what has the shape (T, S) between the two products
    permutations: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of q, k, v and output, where needed

    @property
    def owner(self) -> ClassInfo | None:
        return self.flow.owner


@dataclass(eq=False)
class Obstacle:
    """Attention by its look, and the first thing about it that was not understood; or strange positions."""

    flow: Flow
    node: ast.expr
    code: str
    seen: str
    remedy: str = ""


class Stop(Exception):
    """Raised at the first thing that is not understood."""

    def __init__(self, code: str, seen: str, node: ast.expr | None = None) -> None:
        super().__init__(code)
        self.code, self.seen, self.node = code, seen, node


def text_of(value: Value) -> str:
    """A value for a message."""
    node = value.node or value.statement
    if value.op == "param":
        return str(value.data)
    return ast.unparse(node).partition("\n")[0] if node is not None else value.op
