"""Fused attention under a condition: the proof has to see both sides of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from migrator import prove
from migrator.codemod import Phase
from migrator.prove.result import Verification
from migrator.rewrite.engine import plan

LEGACY = """
import math

import torch
import torch.nn as nn


class SelfAttention(nn.Module):
    def __init__(self, embed_dim=16, num_heads=2, output_attentions=False):
        super().__init__()
        self.num_heads = num_heads
        self.output_attentions = output_attentions
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)

    def forward(self, x, head_mask=None):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))
        probs = nn.Softmax(dim=-1)(scores)
        if head_mask is not None:
            probs = probs * head_mask
        context = torch.matmul(probs, v).transpose(1, 2).reshape(B, T, C)
        return (context, probs) if self.output_attentions else (context,)
"""
CONDITION = "if head_mask is None and not self.output_attentions:"


@pytest.fixture(scope="module")
def prover() -> Iterator[prove.Prover]:
    with prove.start() as prover:
        yield prover


def proved(prover: prove.Prover, old: str, new: str) -> Verification:
    """The verdict on the migrated text in which `new` stands for `old`."""
    planned = plan(Path("model.py"), LEGACY, phase=Phase.DROP_IN)
    (stage,) = planned.stages
    assert stage.after.count(old) == 1
    stage = replace(stage, after=stage.after.replace(old, new))
    return prover.prove(replace(planned, text=stage.after, stages=(stage,)), timeout=60)


def test_the_migrated_text_is_proved(prover: prove.Prover) -> None:
    verification = proved(prover, CONDITION, CONDITION)
    assert verification.status == "proved", verification


@pytest.mark.parametrize(
    "wrong",
    [
        "if head_mask is None:",  # the weights are None where they are asked for
        "if not self.output_attentions:",  # the head mask is forgotten
        "if head_mask is not None and not self.output_attentions:",
        "if True:",
    ],
)
def test_a_wrong_condition_is_found_out(prover: prove.Prover, wrong: str) -> None:
    assert proved(prover, CONDITION, wrong).status == "failed"


@pytest.mark.parametrize(
    ("old", "new"),
    [("attention(q, k, v)", "attention(k, q, v)"), ("attention(q, k, v)", "attention(q, k, v, scale=0.3)"),
     ("probs = probs * head_mask", "probs = probs + head_mask")],
)  # fmt: skip
def test_a_wrong_side_is_found_out(prover: prove.Prover, old: str, new: str) -> None:
    assert proved(prover, old, new).status == "failed"
