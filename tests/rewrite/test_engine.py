"""Plans of whole files: what is left alone, in which order, and which lines the report names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from migrator.codemod import Phase
from migrator.recognise.index import FileIndex
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Plan
from tests.cases import FIXTURES, difference

WHOLE = [FIXTURES / "latent_drift_trajectory.py", *sorted((FIXTURES / "whole").glob("*.py"))]
TARGET = WHOLE[0]

ATTENTION = """\
class Attention(nn.Module):
    def forward(self, q, k, v):
        return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
"""


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def planned(text: str, phase: Phase = Phase.DROP_IN, **options: object) -> Plan:
    return plan(Path("model.py"), text, phase=phase, **options)  # type: ignore[arg-type]


def file_name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", WHOLE, ids=file_name)
@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_a_second_run_changes_nothing(path: Path, positions: str) -> None:
    once = planned(read(path), Phase.ARCHITECTURE, choices={"positions": positions})
    twice = planned(once.text, Phase.ARCHITECTURE, choices={"positions": positions})
    assert twice.text == once.text, difference(once.text, twice.text)
    assert not twice.stages
    assert not [outcome for outcome in twice.outcomes if outcome.status == "migrated"]


@pytest.mark.parametrize("path", WHOLE, ids=file_name)
@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_phase_1_then_2_is_phase_2(path: Path, positions: str) -> None:
    choices = {"positions": positions}
    first = planned(read(path), choices=choices)
    second = planned(first.text, Phase.ARCHITECTURE, choices=choices)
    at_once = planned(read(path), Phase.ARCHITECTURE, choices=choices)
    assert second.text == at_once.text, difference(at_once.text, second.text)


@pytest.mark.parametrize("path", WHOLE, ids=file_name)
def test_only_claimed_definitions_change(path: Path) -> None:
    """Statements that no claim names keep their bytes, and so does everything between statements."""
    run = planned(read(path), Phase.ARCHITECTURE)
    claimed = {name for stage in run.stages for claim in stage.claims for name in claim.definitions}
    before, after = unclaimed(run.source, claimed), unclaimed(run.text, claimed)
    assert after == before


def unclaimed(text: str, claimed: set[str]) -> list[str]:
    """The text without claimed definitions and imports from the runtime."""
    index = FileIndex(text)
    lines: list[str | None] = list(text.splitlines(keepends=True))
    for definition in index.definitions:
        if definition.name in claimed or "from runtime import" in definition.text:
            lines[definition.first_line - 1 : definition.last_line] = [None] * (
                definition.last_line - definition.first_line + 1
            )
    return [line for line in lines if line is not None]


@pytest.mark.parametrize("path", WHOLE, ids=file_name)
def test_reports_name_lines_of_the_file_as_it_is(path: Path) -> None:
    run = planned(read(path), Phase.ARCHITECTURE)
    index = FileIndex(run.source)
    for outcome in run.outcomes:
        names = [symbol.partition(".")[0] for symbol in outcome.symbol.split(", ")]
        inside = [d for d in index.definitions if d.name in names and d.first_line <= outcome.line <= d.last_line]
        assert inside and outcome.line <= outcome.end_line <= inside[0].last_line, outcome


def test_report_lines_point_at_what_they_speak_of() -> None:
    lines = read(TARGET).splitlines()
    run = planned(read(TARGET), Phase.ARCHITECTURE)
    words = {"attention": "einsum", "positional_encoding": "sin(", "rotary": "pos_enc", "swiglu": "relu"}
    seen = {outcome.codemod: lines[outcome.line - 1] for outcome in run.outcomes if outcome.codemod in words}
    assert {name: words[name] in line for name, line in seen.items()} == dict.fromkeys(words, True)


def test_exact_stages_are_merged_and_new_ones_stand_alone() -> None:
    run = planned(read(TARGET), Phase.ARCHITECTURE)
    exact = [stage for stage in run.stages if stage.promise == "exact"]
    assert len(exact) == 1 and set(exact[0].codemods) == {"attention", "positional_encoding"}
    assert all(len(stage.codemods) == 1 for stage in run.stages if stage.promise != "exact")
    assert run.stages[0].before == run.source and run.stages[-1].after == run.text
    for one, other in zip(run.stages, run.stages[1:], strict=False):
        assert one.after == other.before


@pytest.mark.parametrize("path", WHOLE, ids=file_name)
def test_findings_alone_are_those_of_the_whole_run(path: Path) -> None:
    """`--check` does not rewrite more than it must, and says the same."""
    whole = planned(read(path), Phase.ARCHITECTURE)
    quick = planned(read(path), Phase.ARCHITECTURE, findings_only=True)
    assert [(o.codemod, o.status, o.symbol, o.line) for o in quick.outcomes] == [
        (o.codemod, o.status, o.symbol, o.line) for o in whole.outcomes
    ]


def test_any_number_of_sites_is_migrated() -> None:
    text = "import torch\nfrom torch import nn\n" + "".join(
        ATTENTION.replace("Attention", f"Attention{number}") for number in range(12)
    )
    text += "\n\ndef many(q, k, v):\n" + "    q = torch.softmax(q @ k.mT, -1) @ v\n" * 10 + "    return q\n"
    run = planned(text)
    assert len(run.outcomes) == 22 and "softmax" not in run.text


def test_only_and_skip() -> None:
    text = read(TARGET)
    only = planned(text, Phase.ARCHITECTURE, only=frozenset({"attention"}))
    assert {outcome.codemod for outcome in only.outcomes} == {"attention"}
    skipped = planned(text, Phase.ARCHITECTURE, skip=frozenset({"attention", "rotary"}))
    assert not {outcome.codemod for outcome in skipped.outcomes} & {"attention", "rotary"}
    assert "softmax" in skipped.text and "softmax" in text


def test_text_outside_of_the_method_keeps_odd_bytes() -> None:
    """Form feeds, trailing blanks, tabs in comments, U+2028 and a missing last newline."""
    head = "import torch\nfrom torch import nn\n\x0c\nx = 1 \t\n# a\u2028b\n\n"
    text = head + ATTENTION + "\n\x0c\ny = [1,\n2 ]"
    run = planned(text)
    assert run.changed
    assert run.text.startswith(
        "import torch\nfrom torch import nn\nfrom runtime import attention\n\x0c\nx = 1 \t\n# a\u2028b\n"
    )
    assert run.text.endswith("return attention(q, k, v, scale=1.0)\n\n\x0c\ny = [1,\n2 ]")


def test_a_site_that_cannot_be_edited_does_not_stop_the_others() -> None:
    text = "import torch\nfrom torch import nn\n\n\n" + ATTENTION
    text += "\n\nclass Other(nn.Module):\n    def forward(self, q, k, v):\n"
    text += "        w = torch.softmax(q @ k.transpose(-2, -1), dim=-1); y = w @ v; return y\n"
    run = planned(text)
    assert [(o.status, o.code, o.symbol) for o in run.outcomes] == [
        ("migrated", None, "Attention.forward"),
        ("refused", "layout", "Other.forward"),
    ]
    assert run.text.partition("class Other")[2] == text.partition("class Other")[2]


def test_a_definition_that_shares_its_line_is_refused() -> None:
    text = (
        "import torch\nfrom torch import nn\n\n\ndef attend(q, k, v): return torch.softmax(q @ k.mT, -1) @ v; x = 1\n"
    )
    assert planned(text).changed  # `x = 1` is a part of the function
    text = "import torch\n\n\nx = 1; attend = 2\n"
    assert not planned(text).changed


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", '"""Doc."""', "x = 1", "class A:\n    pass\n"])
def test_files_without_anything(text: str) -> None:
    run = planned(text, Phase.ARCHITECTURE)
    assert (run.text, run.outcomes, run.stages) == (text, (), ())


def test_a_file_that_is_no_python_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        planned("def (:\n")


def test_deep_nesting_and_long_chains_do_not_matter_elsewhere() -> None:
    """What LibCST cannot parse may stand in other definitions."""
    chain = "x = a" + ".b" * 700 + "\n"
    text = f"import torch\nfrom torch import nn\na = 0\nif a:\n    {chain}\n\n{ATTENTION}"
    run = planned(text)
    assert run.changed and chain in run.text


def test_the_rewritten_target_is_formatted_as_it_was() -> None:
    """No line of ours is longer than 100 characters, none ends in blanks."""
    run = planned(read(TARGET), Phase.ARCHITECTURE)
    new = set(run.text.splitlines()) - set(run.source.splitlines())
    assert new and not [line for line in new if len(line) > 100 or line != line.rstrip()]
    ast.parse(run.text)


NAMED_PART = """\
import torch
from torch import nn
from runtime import attention


class Mix(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return self.out(attention(q, k, v).squeeze(1))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2, self.mix = nn.LayerNorm(dim), nn.LayerNorm(dim), Mix(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.mix(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Model(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


FROZEN = ["ffn.0.weight"]
"""


def test_a_refusal_speaks_of_the_file_as_the_user_has_it() -> None:
    """The scaling that another codemod adds addresses the same part by name, in a line that is not the user's."""
    found = planned(NAMED_PART, Phase.ARCHITECTURE)
    assert "ffn.2.weight" in found.text
    line = NAMED_PART[: NAMED_PART.index("FROZEN")].count("\n") + 1
    (refused,) = [outcome for outcome in found.outcomes if outcome.codemod == "swiglu"]
    assert refused.message.startswith(f"line {line} ")
