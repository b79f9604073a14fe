"""What the two formats say of a made-up run that has everything in it a report can show."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.prove.result import Check, TensorRow, Verification
from migrator.report import json as as_json
from migrator.report import text as as_text
from migrator.report.page import Page, width_of
from migrator.report.proof import number
from migrator.report.result import CHECK, DRY_RUN, WRITE, FileResult, RunResult
from migrator.rewrite.plan import Outcome, Plan

FILE = Path("model.py")
SYMBOL = "QKVAttention"


def outcome(status: str, promise: str = "exact", line: int = 7, code: str | None = None) -> Outcome:
    message = f"{status} {promise}: the scores of all heads, one product after another, run on one fused call"
    remedy = "write the mask as a boolean" if code else ""
    return Outcome("attention", 1, promise, status, code, message, SYMBOL, line, line + 9, remedy)


ALL = (
    outcome("migrated", line=7),
    outcome("migrated", "new", line=1007),
    outcome("modern", line=30),
    outcome("kept", line=40),
    outcome("refused", line=50, code="weights-escape"),
)


def proof(status: str = "proved") -> Verification:
    good = (
        Check("outputs, float64", SYMBOL, True, "", 5.6e-16, 1e-10, "attention"),
        Check("strict load", SYMBOL, True, "4 tensors", stage="attention"),
    )
    bad = Check(
        "gradients, float64",
        "Encoder",
        False,
        "w_o differs by 3 % at (0, 5): the causal mask is lost",
        0.03,
        1e-10,
        "rotary",
    )
    return Verification(
        status,
        good if status == "proved" else (*good, bad),
        notes=("dropout above 0 was not compared: the random streams differ, and so no two runs agree",),
        tensors=(
            TensorRow("w_q", "reused", "(4, 8, 32)", "(4, 8, 32)"),
            *(TensorRow(f"block.{i}.ffn_up.weight", "new", "", "(88, 32)") for i in range(6)),
            TensorRow("table", "dropped", "(1, 64)", ""),
        ),
        parameters=(("TransformerBlock", 12_544, 12_612), ("Encoder", 100_000, 100_000)),
        seconds=12.34,
        confinement="namespaces",
    )


def file_result(outcomes: tuple[Outcome, ...] = ALL, text: str = "new\n", status: str | None = "proved") -> FileResult:
    plan = Plan(FILE, "old\n", text, (), outcomes)
    verification = None if status is None else proof(status)
    return FileResult(FILE, plan, verification, written=status == "proved" and text != "old\n")


def run_of(*files: FileResult, mode: str = WRITE, verify: bool = True) -> RunResult:
    return RunResult(files, 2, mode, verify)


def page(run: RunResult, width: int = 80) -> str:
    return as_text.render(run, width).plain()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# --- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WRITE, CHECK, DRY_RUN])
@pytest.mark.parametrize("status", ["proved", "failed", "not verified", None])
def test_eighty_columns_are_enough(mode: str, status: str | None) -> None:
    lines = page(run_of(file_result(status=status), mode=mode)).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


def test_a_narrower_page_says_the_same_words() -> None:
    run = run_of(file_result())
    assert page(run, 60).split() == page(run, 80).split()
    assert len(page(run, 60).splitlines()) > len(page(run, 80).splitlines())


def test_findings_are_grouped_by_what_became_of_them() -> None:
    text = page(run_of(file_result()))
    titles = ["migrated, exact: same function", "migrated, new: the function", "already modern", "kept, as", "refused"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "1007  attention: QKVAttention: migrated new" in text


def test_a_refusal_reads_file_line_code_cause_remedy() -> None:
    text = " ".join(page(run_of(file_result())).split())
    assert "model.py:50: weights-escape: QKVAttention: refused exact: the scores" in text
    assert "one fused call; write the mask as a boolean [attention]" in text


def test_a_symbol_that_the_message_names_is_not_repeated() -> None:
    named = Outcome("block", 1, "exact", "modern", None, "QKVAttention is pre-norm", SYMBOL, 3, 4)
    assert "  3  block: QKVAttention is pre-norm\n" in page(run_of(file_result((named,), "old\n", None)))


def test_checks_are_aligned_with_figure_and_limit() -> None:
    lines = page(run_of(file_result(status="failed"))).splitlines()
    start = lines.index("proof")
    assert lines[start + 1 : start + 12] == [
        "  failed: 2 of 3 checks passed, 12.3 s",
        "  confined by namespaces: no writing outside, no network, no other process",
        "  attention",
        "    QKVAttention",
        "      ok      outputs, float64    5.6e-16  <= 1e-10",
        "      ok      strict load         4 tensors",
        "  rotary",
        "    Encoder",
        "      FAILED  gradients, float64     0.03  <= 1e-10",
        "                w_o differs by 3 % at (0, 5): the causal mask is lost",
        "",
    ]


def test_tensors_and_parameters_are_summed_up() -> None:
    text = page(run_of(file_result()))
    assert "  1 reused: same name, same shape, same values\n" in text
    assert "  6 new:\n    block.*.ffn_up.weight (88,32), 6 of them\n" in text
    assert "  1 dropped:\n    table (1,64)\n" in text
    assert "  TransformerBlock        12,544 -> 12,612  (+0.54 %)\n" in text
    assert "  Encoder                100,000 -> 100,000\n" in text


def test_what_was_not_checked_is_said() -> None:
    assert "  - dropout above 0 was not compared:" in page(run_of(file_result()))


@pytest.mark.parametrize(
    ("file", "mode", "verify", "ending"),
    [
        (file_result(), WRITE, True, "proved and written: model.py"),
        (file_result(status="failed"), WRITE, True, "nothing written: the proof failed; model.py is as it was"),
        (file_result(status="not verified"), WRITE, True, "nothing written: the proof could not be made; model.py is"),
        (file_result(status=None), WRITE, True, "nothing written: another file of this run was not proved;"),
        (
            file_result(ALL[2:], text="old\n", status=None),
            WRITE,
            True,
            "unchanged: model.py has nothing to rewrite in phase 2",
        ),
        (file_result(status=None), CHECK, True, "work left: run `migrate model.py --phase 2`"),
        (file_result(status=None), DRY_RUN, True, "nothing written: --dry-run; the patch for model.py is on standard"),
    ],
)
def test_the_last_line_says_what_was_written(file: FileResult, mode: str, verify: bool, ending: str) -> None:
    assert page(run_of(file, mode=mode, verify=verify)).rstrip().splitlines()[-1].startswith(ending)


def test_no_verify_is_said_loudly() -> None:
    file = file_result(status=None)
    file.written = True
    text = page(run_of(file, verify=False))
    assert "NOT VERIFIED: --no-verify skipped the proof" in text
    assert "\nwritten: model.py\n" in text


def test_a_file_that_was_not_written_is_not_called_migrated() -> None:
    text = page(run_of(file_result(status="failed")))
    assert "found but not written, exact" in text
    assert "migrated, exact" not in text


def test_files_with_nothing_to_say_are_counted() -> None:
    quiet = FileResult(Path("quiet.py"))
    assert page(run_of(quiet)) == "quiet.py: nothing to migrate, no part of a transformer in it\n"
    assert page(run_of(file_result(), quiet, quiet)).endswith(
        "2 of 3 files: nothing to migrate, no part of a transformer in them\n"
    )


def test_restored_files_are_named() -> None:
    run = RunResult((), 1, restored=(Path("a.py"),))
    assert page(run).startswith("restored  a.py: a run that was killed")


def printed(stream: io.StringIO) -> str:
    as_text.render(run_of(file_result())).print(stream)
    return stream.getvalue()


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = printed(Terminal())
    assert "\x1b[" in coloured
    assert "\x1b" not in printed(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in printed(Terminal())


def test_brackets_in_messages_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    view = Page()
    view.line("x[bold] :smile: [/bold]")
    view.print(stream)
    assert stream.getvalue() == "x[bold] :smile: [/bold]\n"


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    assert width_of(io.StringIO()) == 80
    for columns, width in (("20", 40), ("72", 72), ("300", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert width_of(Terminal()) == width


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.0, "0"), (5.56e-16, "5.6e-16"), (1e-10, "1e-10"), (1.25, "1.25"), (123456.0, "1.2e+05"),
     (math.nan, "nan"), (math.inf, "inf"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


# --- json ----------------------------------------------------------------------------------------------------------


def test_the_document_is_schema_version_1() -> None:
    document = json.loads(as_json.render(run_of(file_result())))
    assert document["version"] == 1
    (file,) = document["files"]
    assert file["path"] == "model.py"
    assert file["findings"][-1] == {
        "codemod": "attention",
        "phase": 1,
        "promise": "exact",
        "status": "refused",
        "code": "weights-escape",
        "message": ALL[-1].message,
        "remedy": "write the mask as a boolean",
        "symbol": SYMBOL,
        "line": 50,
        "end_line": 59,
    }
    assert [finding["status"] for finding in file["findings"]] == ["migrated", "migrated", "modern", "kept", "refused"]
    assert file["verification"]["status"] == "proved"
    assert file["verification"]["confinement"] == "namespaces"
    assert file["verification"]["checks"][0]["figure"] == 5.6e-16
    assert file["verification"]["parameters"][0] == {"what": "TransformerBlock", "before": 12544, "after": 12612}
    assert "diff" not in file


def test_a_dry_run_has_the_diff_and_no_proof() -> None:
    file = file_result(status=None)
    file.diff = b"--- a/model.py\n"
    document = json.loads(as_json.render(run_of(file, mode=DRY_RUN)))
    assert document["files"][0]["diff"] == "--- a/model.py\n"
    assert document["files"][0]["verification"] == {"status": "skipped"}


def test_figures_that_json_lacks_become_null() -> None:
    file = file_result()
    file.verification = Verification("failed", (Check("outputs", "A", False, "is NaN", math.nan, math.inf),))
    (check,) = json.loads(as_json.render(run_of(file)))["files"][0]["verification"]["checks"]
    assert (check["figure"], check["limit"]) == (None, None)


def test_errors_are_in_the_document() -> None:
    run = RunResult((), 1, errors=(MigrateError("syntax-error", "bad", "fix it", path="a.py", line=3),))
    document = json.loads(as_json.render(run))
    assert document["exit_code"] == 2
    assert document["errors"] == [
        {"path": "a.py", "line": 3, "code": "syntax-error", "cause": "bad", "remedy": "fix it"}
    ]


# --- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "mode", "status", "code"),
    [
        ((), WRITE, None, 0),
        (("migrated", "modern", "kept"), WRITE, "proved", 0),
        (("modern", "kept"), CHECK, None, 0),
        (("migrated",), CHECK, None, 1),
        (("refused",), CHECK, None, 1),
        (("migrated", "refused"), DRY_RUN, None, 0),
        (("refused",), WRITE, None, 3),
        (("migrated", "refused"), WRITE, "proved", 3),
        (("migrated", "refused"), WRITE, "failed", 4),
        (("migrated",), WRITE, "not verified", 4),
    ],
)
def test_exit_codes(outcomes: tuple[str, ...], mode: str, status: str | None, code: int) -> None:
    file = file_result(tuple(outcome(name) for name in outcomes), status=status)
    assert run_of(file, mode=mode).exit_code == code


def test_an_error_goes_before_everything_else() -> None:
    error = MigrateError("syntax-error", "bad")
    assert RunResult((file_result(status="failed"),), 1, errors=(error,)).exit_code == 2
