"""The table of a conversion."""

from __future__ import annotations

from pathlib import Path

from migrator.checkpoint.request import Conversion, Row
from migrator.report.checkpoint import render

DONE = Conversion(
    "GPT(2) of gpt.py, seed 0",
    (
        Row("wte.weight", "reused", "(9, 4)", "(9, 4)"),
        Row("h.0.ffn.0.weight -> h.0.ffn.gate.weight", "converted", "(8, 4)", "(8, 4)", "8 * old; within 0.0349 of ReLU per unit"),
        Row("h.1.ffn.0.weight -> h.1.ffn.gate.weight", "converted", "(8, 4)", "(8, 4)", "8 * old; within 0.0349 of ReLU per unit"),
        Row("h.0.ffn.up.bias", "converted", "", "(8,)", "1/8"),
        Row("h.0.fc.weight", "resized", "(8, 4)", "(16, 4)"),
        Row("ln.weight", "new", "", "(4,)"),
        Row("mask", "dropped", "(3, 3)", ""),
    ),
    (1234, 5678),
    ("kept as they were: step",),
    ("optimizer: dropped",),
)  # fmt: skip
PAGE = """\
old.pt -> new.pt
layout: GPT(2) of gpt.py, seed 0

      wte.weight                               (9,4)            reused     as it was
  2 x h.*.ffn.0.weight -> h.*.ffn.gate.weight  (8,4)            converted  8 * old; within 0.0349 of ReLU per unit
      h.*.ffn.up.bias                          (8,)             converted  1/8
      ln.weight                                (4,)             new        initial values
      h.*.fc.weight                            (8,4) -> (16,4)  resized    initial values
      mask                                     (3,3)            dropped

1 reused, 3 converted, 1 new, 1 resized, 1 dropped
1,234 -> 5,678 parameters
  - kept as they were: step
  - optimizer: dropped

written: new.pt
"""


def test_page() -> None:
    assert render(DONE, Path("old.pt"), Path("new.pt"), 80).plain() == PAGE


def test_json_round_trip() -> None:
    assert Conversion.from_json(DONE.to_json()) == DONE
