"""The report of a validation in its three forms: for people at a terminal, as JSON, as one page of HTML."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
import types
import typing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migrator.prove.result import Check, Verification
from migrator.report import figures
from migrator.report.html import render as page
from migrator.report.hunks import Hunk, Reason, hunks
from migrator.report.validation import render
from migrator.rewrite.engine import plan
from migrator.validate.result import (
    SIDES,
    Attention,
    Curve,
    DivergenceRow,
    Environment,
    GradientRow,
    Gradients,
    Growth,
    Head,
    LengthRow,
    Memory,
    MemoryRow,
    Promised,
    Quality,
    ScaleRow,
    Scaling,
    Sensitivity,
    Speed,
    SpeedRow,
    Spread,
    Subject,
    Unmeasured,
    Validation,
    Verdict,
)

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "migrator" / "report" / "validation.schema.json"
WORSE = Verdict("worse", "no gradient reaches <script>alert(1)</script>")
SPREAD = Spread(0.123, 0.1, 0.15, 7)


def full() -> Validation:
    """Every section measured, with figures that can be told apart."""
    return Validation(
        "old.py", "new.py", Subject("Tiny", "its defaults", False, 2, {"legacy": 1234, "migrated": 5678}),
        Environment("3.11.7", "2.13.0", "cpu", 1, "a processor", "Linux", "0.1.0"),
        Gradients(
            tuple(GradientRow(side, 2, steps, 3, (0.51, 0.27), 1.89, 0, 1, ("a.b",)) for steps in (0, 20) for side in SIDES),
            (WORSE,), "a note",
        ),
        Attention(
            8, tuple(Head(side, layer, head, 0.91, 3.25, 0.0417, ((1.0, 0.0), (0.5, 0.5))) for side in SIDES for layer in range(6) for head in range(2)),
            (Sensitivity("legacy", 0.0123), Sensitivity("migrated", 0.0456)), (Verdict("same", "positions as before"),),
        ),
        Memory(
            "torch's allocator", tuple(MemoryRow(side, what, 1, n, n * 4096) for n in (16, 32) for what in ("forward", "training step") for side in SIDES),
            (Growth("legacy", "forward", 1.96), Growth("migrated", "forward", 1.02)), (Verdict("better", "less memory"),),
        ),
        Speed(
            tuple(SpeedRow(side, "forward", "", 2, n, SPREAD, 321.0) for n in (16, 32) for side in SIDES)
            + (SpeedRow("legacy", "generation", "", 2, 16, SPREAD, 111.0), SpeedRow("migrated", "generation", "cached", 2, 16, SPREAD, 222.0),
               SpeedRow("migrated", "generation", "uncached", 2, 16, SPREAD, 333.0)),
            (Verdict("better", "faster"),),
        ),
        Quality(
            "a task", 1e-3, tuple(Curve(side, seed, (1, 2), (2.0, 1.0)) for side in SIDES for seed in range(2)), dict.fromkeys(SIDES, SPREAD),
            (LengthRow("legacy", 1, SPREAD), LengthRow("migrated", 1, SPREAD), LengthRow("legacy", 2, None, "too long"), LengthRow("migrated", 2, SPREAD)),
            tuple(DivergenceRow(side, 3e-2, 1, 2) for side in SIDES), (Verdict("same", "as good"),),
        ),
        Scaling(2, "gloo", (ScaleRow("DDP", "", (1.0,), (1.0,), 1.5e-7, True, "a remark"),), (Verdict("same", "equal losses"),)),
        (Promised("faster generation", "1.9x", "7.0x", "tokens"), Promised("better", "5 %", "", "no data")), ("one note",), 12.5,
    )  # fmt: skip


def empty() -> Validation:
    nothing = Unmeasured("there was <nothing> to measure")
    return dataclasses.replace(
        full(), gradients=nothing, attention=nothing, memory=nothing, speed=nothing, quality=nothing, scaling=nothing,
        promised=(), notes=(),
    )  # fmt: skip


def strange() -> Validation:
    row = GradientRow("legacy", 2, 0, 1, (math.inf, math.nan), math.nan, 1, 1, ())
    return dataclasses.replace(empty(), gradients=Gradients((row, dataclasses.replace(row, side="migrated")), ()))


ALL = pytest.mark.parametrize("validation", [full(), empty(), strange()], ids=["full", "empty", "strange"])

# --- for people ---------------------------------------------------------------------------------------------------


def test_the_page_for_a_terminal() -> None:
    text = render(full(), 100).plain()
    assert "Tiny, built by its defaults, smaller than its file builds it; 1,234 -> 5,678 parameters" in text
    assert "worse  no gradient reaches" in text and "1 of 6 findings are worse" in text
    assert re.search(r"forward, 32 tokens +128.0 KiB +128.0 KiB +1.00x", text)
    assert re.search(r"generation, 16 tokens, uncached +123 ms +123 ms +1.00x +7", text)
    assert re.search(r"2 times the length, new data +too long +0.123 \(0.1 to 0.15\)", text)
    assert "claimed 5 %, measured: not measurable here (no data)" in text
    assert re.search(r"DDP +1.50e-07 +yes", text)


@ALL
def test_any_validation_fits_a_narrow_terminal_or_says_its_tables_whole(validation: Validation) -> None:
    text = render(validation, 40).plain()
    assert text.count("not measured: there was <nothing>") == sum(
        isinstance(s, Unmeasured) for _, s in validation.sections()
    )


# --- for programs -------------------------------------------------------------------------------------------------


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of what `to_json` makes of a dataclass."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {
            "type": "object",
            "properties": {name: schema_of(hint) for name, hint in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    simple = {str: "string", int: "integer", bool: "boolean", types.NoneType: "null"}
    if kind is float:
        return {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}]}
    return {"type": simple[kind]}


def published() -> dict[str, Any]:
    schema = schema_of(Validation)
    schema["properties"] = {"version": {"const": 1}, **schema["properties"]}
    schema["required"] = ["version", *schema["required"]]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:transformer-migrator:validation:1",
        "title": "The report of migrate validate, version 1",
    }
    return {**head, **schema}


def test_the_published_schema_is_that_of_the_data() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == published(), "python -m tests.report.test_validation"


@ALL
def test_every_validation_is_valid(validation: Validation) -> None:
    data = json.loads(json.dumps(validation.to_json(), allow_nan=False))
    jsonschema.validate(data, published())
    text = json.dumps(Validation.from_json(data).to_json(), allow_nan=False)  # NaN is not equal to itself
    assert json.loads(text) == data


def test_a_wrong_document_is_not_valid() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**full().to_json(), "version": 2}, published())


# --- the page -----------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """All tags and their attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside != "style" else ""


HUNKS = (
    Hunk(
        "lines 1 to 2",
        (("-", "x = '<script>'"), ("+", "x = 1")),
        (Reason("rotary", "new", "a & b", "Because.", "A paper"),),
    ),
)
PROOF = Verification("proved", (Check("parity", "Tiny", True, "equal", 1.5e-16, 1e-10, "attention"),), ("a remark",))


@ALL
def test_the_page_asks_for_nothing_and_runs_nothing(validation: Validation) -> None:
    found = _Page(page(validation, HUNKS, PROOF))
    assert "script" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, name, value)
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy


def test_what_users_write_is_shown_and_not_run() -> None:
    text = page(full(), HUNKS, PROOF)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&#39;&lt;script&gt;&#39;" in text


def test_every_figure_is_in_the_page() -> None:
    text = _Page(page(full(), HUNKS, PROOF)).text
    for part in ("1,234", "5,678", "1.89", "0.51 0.27", "a.b", "0.0417", "0.0123", "0.0456", "64.0 KiB", "128.0 KiB", "123 ms (100 ms to 150 ms)",
                 "321", "222", "333", "too long", "0.123 (0.1 to 0.15)", "1.50e-07", "7.0x", "not measurable here", "one note", "12.50 s", "1.50e-16",
                 "Because.", "A paper", "a remark"):  # fmt: skip
        assert part in text, part


def test_the_summary_names_what_got_worse_first() -> None:
    text = page(full())
    summary = text[text.index('id="summary"') : text.index('id="gradients"')]
    assert summary.index("no gradient reaches") < summary.index("less memory")


def test_plots_take_the_colours_of_the_page() -> None:
    text = page(full())
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2 + 2 + 1 + 1 + 1
    assert all("#0102" not in picture for picture in pictures)
    assert sum("var(--migrated)" in picture and "var(--legacy)" in picture for picture in pictures) == 5


def test_equal_figures_give_an_equal_page() -> None:
    assert page(full(), HUNKS, PROOF) == page(full(), HUNKS, PROOF)


def test_without_the_extra_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from migrator.errors import MigrateError

    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MigrateError, match="no-report") as caught:
        page(full())
    assert "pip install 'transformer-migrator[report]'" in caught.value.remedy


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to open it in")
def test_a_browser_has_nothing_to_complain_of(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(full(), HUNKS, PROOF), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
        f"file://{file}",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Tiny: legacy and migrated, measured" in run.stdout
    assert "CONSOLE" not in run.stderr


# --- hunks --------------------------------------------------------------------------------------------------------


def test_hunks_have_the_reasons_of_their_class() -> None:
    path = ROOT / "fixtures" / "latent_drift_trajectory.py"
    found = plan(path, path.read_text(encoding="utf-8"), phase=2)
    pieces = hunks(found.source, found.text, found.outcomes)
    attention = next(piece for piece in pieces if piece.title.endswith("QKVAttention"))
    assert {reason.codemod for reason in attention.reasons} == {"attention", "rotary"}
    assert all(reason.rationale and reason.reference for piece in pieces for reason in piece.reasons)
    removed = [line for piece in pieces for sign, line in piece.lines if sign == "-"]
    assert removed and set(removed) <= set(found.source.splitlines())


def test_figures_are_written_shortly() -> None:
    assert [figures.number(value) for value in (0.0, 1234.5, 2.345, 1e-7, math.inf)] == [
        "0",
        "1,234",
        "2.35",
        "1.00e-07",
        "inf",
    ]
    assert [figures.size(count) for count in (12, 2048, 3 << 20, 5 << 30)] == ["12 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
    assert [figures.duration(seconds) for seconds in (0.00123, 12.345)] == ["1.23 ms", "12.35 s"]


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(published(), indent=2) + "\n", encoding="utf-8")
