"""`# migrate: keep(CODEMOD) reason`: what it keeps, and what is said where it keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Outcome, Plan

ROOT = Path(__file__).parents[2]
ATTENTION = """\
import math

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, C)
"""
LATENT = (ROOT / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")
KEEP = "# migrate: keep(attention) the numbers of the paper"


def planned(text: str, phase: int = 1, **options: object) -> Plan:
    return plan(Path("model.py"), text, phase=Phase(phase), **options)  # type: ignore[arg-type]


def rows(result: Plan, status: str) -> list[Outcome]:
    return [outcome for outcome in result.outcomes if outcome.status == status]


def codes(result: Plan) -> list[str | None]:
    return [outcome.code for outcome in rows(result, "refused")]


def put(text: str, at: str, instead: str) -> str:
    assert text.count(at) == 1
    return text.replace(at, instead)


CLASS, FORWARD = "class Attention(nn.Module):\n", "    def forward(self, x):\n"
PLACES = {
    "on the line of the class": (CLASS, f"class Attention(nn.Module):  {KEEP}\n"),
    "above the class": (CLASS, f"{KEEP}\n{CLASS}"),
    "among other comments above it": (CLASS, f"# one\n{KEEP}\n# two\n{CLASS}"),
    "above a decorator": (CLASS, f"{KEEP}\n@torch.no_grad\n{CLASS}"),
    "between decorator and class": (CLASS, f"@torch.no_grad\n{KEEP}\n{CLASS}"),
    "first in the body": (CLASS, f"{CLASS}    {KEEP}\n"),
    "on the method": (FORWARD, f"    def forward(self, x):  {KEEP}\n"),
    "above the method": (FORWARD, f"    {KEEP}\n{FORWARD}"),
    "over several lines": (FORWARD, f"    def forward(\n        self, x  {KEEP}\n    ):\n"),
    "several codemods": (CLASS, f"{CLASS.rstrip()}  # migrate: keep(block, attention): the numbers\n"),
    "without blanks": (CLASS, f"{CLASS.rstrip()}  #migrate:keep(attention)numbers\n"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("findings_only", [False, True])
def test_what_is_kept_stays_and_stays_visible(place: str, findings_only: bool) -> None:
    text = put(ATTENTION, *PLACES[place])
    result = planned(text, findings_only=findings_only)
    assert result.text == text
    assert not rows(result, "migrated")
    (kept,) = rows(result, "kept")
    assert (kept.codemod, kept.symbol) == ("attention", "Attention.forward")
    assert "softmax attention" in kept.message and "numbers" in kept.message
    assert codes(result) == (["keep-nothing"] if place == "several codemods" else [])


def test_the_text_without_a_comment_is_migrated() -> None:
    assert rows(planned(ATTENTION), "migrated")
    assert rows(planned(ATTENTION + "\n# an ordinary remark on migrate\n"), "migrated")


def test_a_keep_on_one_class_leaves_the_other_to_be_migrated() -> None:
    other = ATTENTION[ATTENTION.index(CLASS) :].replace("Attention", "Other")
    result = planned(put(ATTENTION, CLASS, f"{CLASS.rstrip()}  {KEEP}\n") + "\n\n" + other)
    assert [row.symbol for row in rows(result, "kept")] == ["Attention.forward"]
    assert [row.symbol for row in rows(result, "migrated")] == ["Other.forward"]
    assert result.text.count("softmax") == 1


def test_a_keep_on_one_method_leaves_the_others() -> None:
    second = ATTENTION[ATTENTION.index(FORWARD) :].replace("forward", "second")
    result = planned(put(ATTENTION, FORWARD, f"    def forward(self, x):  {KEEP}\n") + "\n" + second)
    assert [row.symbol for row in rows(result, "kept")] == ["Attention.forward"]
    assert [row.symbol for row in rows(result, "migrated")] == ["Attention.second"]


def test_a_refusal_that_is_kept_keeps_its_code() -> None:
    text = put(ATTENTION, "scores.softmax(dim=-1)", "scores.softmax()")
    (code,) = codes(planned(text))
    result = planned(put(text, CLASS, f"{CLASS.rstrip()}  {KEEP}\n"))
    (kept,) = rows(result, "kept")
    assert kept.code == code
    assert codes(result) == []


@pytest.mark.parametrize("owner", ["QKVAttention", "PosteriorEncoder"])
def test_a_change_that_spans_classes_is_kept_as_a_whole(owner: str) -> None:
    line = next(line for line in LATENT.splitlines(True) if line.startswith(f"class {owner}("))
    text = put(LATENT, line, f"{line.rstrip()}  # migrate: keep(rotary) as in the paper\n")
    result = planned(text, 2)
    assert [row.codemod for row in rows(result, "kept")] == ["rotary"]
    assert "RotaryEmbedding" not in result.text
    assert not [row for row in rows(result, "migrated") if row.codemod == "rotary"]
    assert [row for row in rows(result, "migrated") if row.codemod == "swiglu"]


def test_the_class_that_is_kept_is_named_where_the_finding_is_elsewhere() -> None:
    text = put(LATENT, "class QKVAttention(nn.Module):", "class QKVAttention(nn.Module):  # migrate: keep(rotary) so")
    (kept,) = rows(planned(text, 2), "kept")
    assert kept.message.endswith("; kept (on QKVAttention): so")


WRONG = {
    "keep-without-reason": f"{CLASS.rstrip()}  # migrate: keep(attention)\n",
    "keep-unknown": f"{CLASS.rstrip()}  # migrate: keep(atention) it is better\n",
    "keep-nothing": f"{CLASS.rstrip()}  # migrate: keep(positional_encoding) it is better\n",
    "keep-unclear": f"{CLASS.rstrip()}  # migrate: skip attention\n",
    "keep-misplaced": f"# migrate: keep(attention) it is better\n\nx = 1\n{CLASS}",
}


@pytest.mark.parametrize("code", WRONG)
def test_what_is_wrong_with_a_keep_is_said(code: str) -> None:
    result = planned(put(ATTENTION, CLASS, WRONG[code]))
    assert codes(result) == [code]
    (row,) = rows(result, "refused")
    assert row.codemod == "keep" and row.remedy
    assert (row.line, row.symbol) == (7, "" if code == "keep-misplaced" else "Attention")
    assert bool(rows(result, "migrated")) is (code != "keep-without-reason")


def test_an_unknown_name_comes_with_the_nearest() -> None:
    (row,) = rows(planned(put(ATTENTION, CLASS, WRONG["keep-unknown"])), "refused")
    assert row.message == "no codemod is called 'atention'; did you mean 'attention'?"


def test_brackets_without_a_name() -> None:
    assert codes(planned(put(ATTENTION, CLASS, f"{CLASS.rstrip()}  # migrate: keep() why\n"))) == ["keep-unclear"]


def test_a_comment_behind_a_statement_does_not_speak_of_the_class_below() -> None:
    text = put(ATTENTION, CLASS, f"x = 1  {KEEP}\n{CLASS}")
    assert codes(planned(text)) == ["keep-misplaced"]
    text = put(ATTENTION, CLASS, f"{KEEP}\nx = 1  # one\n{CLASS}")
    assert codes(planned(text)) == ["keep-misplaced"]


def test_a_codemod_that_does_not_run_is_not_missed() -> None:
    text = put(ATTENTION, CLASS, f"{CLASS.rstrip()}  # migrate: keep(rotary, alibi) later\n")
    assert codes(planned(text)) == []
    assert codes(planned(text, 2)) == ["keep-nothing"]  # rotary ran; alibi was not chosen
    assert codes(planned(text, 2, skip=frozenset({"rotary"}))) == []


def test_a_keep_in_a_string_is_none() -> None:
    text = put(ATTENTION, CLASS, f'{CLASS}    """Say\n\n    {KEEP}\n    """\n')
    assert rows(planned(text), "migrated") and not codes(planned(text))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends(ends: str) -> None:
    text = put(ATTENTION, CLASS, f"{CLASS.rstrip()}  {KEEP}\n").replace("\n", ends)
    assert [row.codemod for row in rows(planned(text), "kept")] == ["attention"]


def test_lines_are_those_of_the_file_though_a_pass_has_moved_them() -> None:
    line = "class TransformerBlock(nn.Module):"
    text = put(LATENT, line, f"{line}  # migrate: keep(swiglu) as in the paper")
    (kept,) = rows(planned(text, 2), "kept")
    (moved,) = [row for row in planned(LATENT, 2).outcomes if row.codemod == "swiglu"]
    assert (kept.line, kept.end_line) == (moved.line, moved.end_line)
