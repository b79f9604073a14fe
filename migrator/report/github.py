"""The report as annotations of a GitHub workflow: one line for each thing that somebody should look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrator.report.result import FileResult, RunResult

if TYPE_CHECKING:
    from migrator.errors import MigrateError
    from migrator.rewrite.plan import Outcome


def render(run: RunResult) -> str:
    """Workflow commands, without a last line end. What is modern or kept is not mentioned."""
    return "\n".join([*map(_error, run.errors), *(line for file in run.files for line in _file(file))])


def _file(file: FileResult) -> Iterator[str]:
    for found in file.outcomes:
        if found.status == "migrated":
            level, what = ("notice", "migrated") if file.written else ("warning", "to migrate")
            yield _annotation(level, file, found, f"{found.codemod} ({found.promise}): {what}")
        elif found.status == "refused":
            yield _annotation("warning", file, found, f"{found.codemod}: {found.code}")
    for warning in file.warnings:
        yield _command("warning", warning, file=str(file.path), title="used elsewhere")
    if file.verification is not None and file.unproved:
        failed = [
            f"{check.symbol}: {check.name}: {check.message}" for check in file.verification.checks if not check.passed
        ]
        text = "; ".join(failed or file.verification.notes[:1])
        yield _command("error", text, file=str(file.path), title=f"proof: {file.verification.status}")


def _annotation(level: str, file: FileResult, found: Outcome, title: str) -> str:
    message = found.message + (f"; {found.remedy}" if found.remedy else "")
    message = message if found.symbol in message else f"{found.symbol}: {message}"
    return _command(level, message, file=str(file.path), line=str(found.line), endLine=str(found.end_line), title=title)


def _error(error: MigrateError) -> str:
    where = {"file": error.path, "line": None if error.line is None else str(error.line), "title": error.code}
    message = error.cause + (f"; {error.remedy}" if error.remedy else "")
    return _command("error", message, **{key: value for key, value in where.items() if value is not None})


def _command(level: str, message: str, **properties: str) -> str:
    listed = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{level} {listed}::{_escaped(message)}"


def _escaped(text: str, also: str = "") -> str:
    """What would end a command or a property is written as its code, the percent sign first."""
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
