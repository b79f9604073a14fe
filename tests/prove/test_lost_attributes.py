"""An attribute may go with what a stage switched off, and with nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from migrator.codemod import Claim, Promise, Swap
from migrator.prove.isolation import lost_attribute
from migrator.rewrite.plan import Stage

TEXT = """from torch import nn


class Positions(nn.Module):
    pass


class Embedding(nn.Module):
    pass


class Encoder(nn.Module):
    def forward(self, x):
        return self.pos(self.embed(x))
"""
OFF = Swap(14, 15, 14, 38, "self.pos.dropout(self.embed(x))")
BEFORE = {"": ("Encoder", ["pos", "embed"]), "pos": ("Positions", ["table"]), "embed": ("Embedding", ["dim"])}


def side(modules: dict[str, tuple[str, list[str]]]) -> Any:
    return SimpleNamespace(
        attributes={path: names for path, (_, names) in modules.items()},
        modules={path: {"classes": [name]} for path, (name, _) in modules.items()},
    )


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({}, None),
        ({"pos": ("Dropout", [])}, None),
        ({"pos": ("Positions", [])}, "its attribute pos.table is gone, and no claim covers it"),
        ({"embed": ("Embedding", [])}, "its attribute embed.dim is gone, and no claim covers it"),
    ],
)
def test_what_may_be_lost(changed: dict[str, tuple[str, list[str]]], lost: str | None) -> None:
    pair: Any = SimpleNamespace(before=side(BEFORE), after=side({**BEFORE, **changed}))
    stage = Stage(("rotary",), Promise.NEW, TEXT, TEXT, (Claim(("Encoder",), ("Encoder",), (OFF,)),))
    assert lost_attribute(pair, stage) == lost
