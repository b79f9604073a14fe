"""The report as SARIF 2.1.0, for code scanning: results with rules, locations, suppressions and fixes.

The changes of a file build on one another, so a file has one fix, with all of them, at its first result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from migrator.report.replacing import replacements
from migrator.report.result import FileResult, RunResult

if TYPE_CHECKING:
    from migrator.errors import MigrateError
    from migrator.rewrite.plan import Outcome

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_KEEP = "A comment `# migrate: keep(CODEMOD) reason` keeps what it names, and says why."


def render(run: RunResult) -> str:
    """The whole document, without a line end."""
    return json.dumps(document(run), indent=2, ensure_ascii=False)


def document(run: RunResult) -> dict[str, Any]:
    """One run. A kept finding is a suppressed result, a modern part one that passed."""
    from migrator import __version__

    rules = _rules(run)
    places = {rule["id"]: place for place, rule in enumerate(rules)}
    driver = {"name": "migrate", "semanticVersion": __version__, "rules": rules}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(run)],
                "results": [result for file in run.files for result in _results(file, places)],
            }
        ],
    }


def _invocation(run: RunResult) -> dict[str, Any]:
    return {
        "executionSuccessful": not run.errors,
        "exitCode": run.exit_code,
        "toolExecutionNotifications": [
            *map(_notification, run.errors),
            *(_warning(file, text) for file in run.files for text in file.warnings),
        ],
    }


def _notification(error: MigrateError) -> dict[str, Any]:
    text = error.cause + (f"; {error.remedy}" if error.remedy else "")
    notification: dict[str, Any] = {"level": "error", "message": {"text": text}, "descriptor": {"id": error.code}}
    if error.path is not None:
        region = {} if error.line is None else {"region": {"startLine": error.line}}
        notification["locations"] = [{"physicalLocation": {"artifactLocation": _artifact(Path(error.path)), **region}}]
    return notification


def _warning(file: FileResult, text: str) -> dict[str, Any]:
    """Somebody else uses what changes in this file."""
    location = {"physicalLocation": {"artifactLocation": _artifact(file.path)}}
    descriptor = {"id": "used-elsewhere"}
    return {"level": "warning", "message": {"text": text}, "descriptor": descriptor, "locations": [location]}


# --- rules ---------------------------------------------------------------------------------------------------------


def _rules(run: RunResult) -> list[dict[str, Any]]:
    """A rule for each codemod that has results here, and one for each of its refusals."""
    from migrator.rewrite.registry import all_codemods, name_of

    codemods = {name_of(codemod): codemod for codemod in all_codemods()}
    used = {_rule_id(found): found for file in run.files for found in file.outcomes}
    rules = []
    for rule, found in sorted(used.items()):
        codemod = codemods.get(found.codemod)
        meaning = codemod.refusals.get(found.code or "", "") if codemod is not None else ""
        why = codemod.rationale if codemod is not None else _KEEP
        text = meaning or why
        reference = "" if codemod is None else f" Reference: {codemod.reference}"
        rules.append({"id": rule, "shortDescription": {"text": text}, "help": {"text": why + reference}})
    return rules


def _rule_id(found: Outcome) -> str:
    return found.codemod if found.code is None else f"{found.codemod}/{found.code}"


# --- results -------------------------------------------------------------------------------------------------------


def _results(file: FileResult, rules: dict[str, int]) -> Iterator[dict[str, Any]]:
    fixes = _fixes(file)
    for found in file.outcomes:
        result = _result(file, found, rules)
        if found.status == "migrated" and fixes:
            result["fixes"] = fixes
            fixes = []
        yield result


def _result(file: FileResult, found: Outcome, rules: dict[str, int]) -> dict[str, Any]:
    rule = _rule_id(found)
    remedy = f"; {found.remedy}" if found.remedy else ""
    kind, level = _severity(file, found)
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": _artifact(file.path),
            "region": {"startLine": found.line, "endLine": found.end_line},
        }
    }
    if found.symbol:
        location["logicalLocations"] = [{"fullyQualifiedName": found.symbol}]
    result = {
        "ruleId": rule,
        "ruleIndex": rules[rule],
        "kind": kind,
        "level": level,
        "message": {"text": found.message + remedy},
        "locations": [location],
        "partialFingerprints": {"migrate/v1": _fingerprint(file, found)},
        "properties": {"phase": found.phase, "promise": str(found.promise), "status": found.status},
    }
    if found.status == "kept":
        result["suppressions"] = [{"kind": "inSource", "justification": found.message}]
    return result


def _severity(file: FileResult, found: Outcome) -> tuple[str, str]:
    """Kind and level: what is done is information, what is modern has passed, all else should be looked at."""
    if found.status == "modern":
        return "pass", "none"
    if found.status == "migrated" and file.written:
        return "informational", "none"
    return "fail", "note" if found.status == "kept" else "warning"


def _fingerprint(file: FileResult, found: Outcome) -> str:
    """The same for the same finding, wherever in its file it stands."""
    return hashlib.sha256("\0".join([_rule_id(found), file.path.name, found.symbol]).encode()).hexdigest()[:32]


def _fixes(file: FileResult) -> list[dict[str, Any]]:
    if file.texts is None or file.written:
        return []
    changes = [
        {
            "deletedRegion": {
                "startLine": start[0], "startColumn": start[1], "endLine": end[0], "endColumn": end[1],
            },
            "insertedContent": {"text": text},
        }
        for start, end, text in replacements(*file.texts)
    ]  # fmt: skip
    change = {"artifactLocation": _artifact(file.path), "replacements": changes}
    return [{"description": {"text": "all changes of this file"}, "artifactChanges": [change]}] if changes else []


def _artifact(path: Path) -> dict[str, str]:
    """Relative to where the run was started, as code scanning wants it, for all that lies below."""
    absolute = Path(os.path.abspath(path))
    if absolute.is_relative_to(Path.cwd()):
        return {"uri": quote(absolute.relative_to(Path.cwd()).as_posix())}
    return {"uri": absolute.as_uri()}
