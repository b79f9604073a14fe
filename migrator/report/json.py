"""The report for programs: one JSON document with a versioned schema."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from migrator.report.result import DRY_RUN, FileResult, RunResult

if TYPE_CHECKING:
    from migrator.errors import MigrateError
    from migrator.prove.result import Check, TensorRow, Verification
    from migrator.rewrite.plan import Outcome

VERSION = 1


def render(run: RunResult) -> str:
    """The whole document, without a line end."""
    return json.dumps(document(run), indent=2, ensure_ascii=False, allow_nan=False)


def document(run: RunResult) -> dict[str, Any]:
    """Schema version 1: keys may be added to it within the version, none is renamed or removed."""
    return {
        "version": VERSION,
        "phase": run.phase,
        "mode": run.mode,
        "exit_code": run.exit_code,
        "files": [_file(run, file) for file in run.files],
        "errors": [_error(error) for error in run.errors],
        "restored": [str(path) for path in run.restored],
    }


def _file(run: RunResult, file: FileResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "path": str(file.path),
        "changed": file.changed,
        "written": file.written,
        "candidate": None if file.candidate is None else str(file.candidate),
        "copies": [str(path) for path in file.copies],
        "findings": [_finding(outcome) for outcome in file.outcomes],
        "warnings": list(file.warnings),
        "verification": {"status": "skipped"} if file.verification is None else _verification(file.verification),
    }
    if file.validation is not None:
        entry["validation"] = file.validation.to_json()
    elif file.unmeasured:
        entry["validation"] = {"reason": file.unmeasured}
    if run.mode == DRY_RUN:
        entry["diff"] = file.diff.decode("utf-8", "replace")
    return entry


def _finding(outcome: Outcome) -> dict[str, Any]:
    return {
        "codemod": outcome.codemod,
        "phase": outcome.phase,
        "promise": str(outcome.promise),
        "status": outcome.status,
        "code": outcome.code,
        "message": outcome.message,
        "remedy": outcome.remedy,
        "symbol": outcome.symbol,
        "line": outcome.line,
        "end_line": outcome.end_line,
    }


def _verification(verification: Verification) -> dict[str, Any]:
    return {
        "status": verification.status,
        "seconds": round(verification.seconds, 3),
        "confinement": verification.confinement or None,
        "checks": [_check(check) for check in verification.checks],
        "tensors": [_tensor(row) for row in verification.tensors],
        "parameters": [
            {"what": what, "before": before, "after": after} for what, before, after in verification.parameters
        ],
        "notes": list(verification.notes),
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "stage": check.stage,
        "name": check.name,
        "symbol": check.symbol,
        "passed": check.passed,
        "message": check.message,
        "figure": _finite(check.figure),
        "limit": _finite(check.limit),
    }


def _tensor(row: TensorRow) -> dict[str, Any]:
    return {"name": row.name, "status": row.status, "before": row.before, "after": row.after}


def _finite(value: float | None) -> float | None:
    # JSON has no NaN and no infinity; the check's message names them.
    return value if value is not None and math.isfinite(value) else None


def _error(error: MigrateError) -> dict[str, Any]:
    return {
        "path": error.path,
        "line": error.line,
        "code": error.code,
        "cause": error.cause,
        "remedy": error.remedy,
    }
