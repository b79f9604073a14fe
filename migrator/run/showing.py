"""What a run prints, and where: the report on standard output, errors on standard error."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TextIO

import click

from migrator.errors import MigrateError
from migrator.report.result import DRY_RUN, PROVED, FileResult, RunResult
from migrator.run.options import Options


def show(run: RunResult, options: Options) -> None:
    """Print a run in the format that was asked for; a format is a module of the report that renders it.

    Raises:
        MigrateError: it cannot be printed; what was done is done. Who has closed the pipe has seen enough, though.
    """
    try:
        _show(run, options)
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python would try again at its end
        if not isinstance(error, BrokenPipeError):
            written = sum(file.written for file in run.files)
            cause = f"the report cannot be printed ({error.strerror}); files written: {written}"
            raise MigrateError("not-printed", cause, "free some space, and look with --check") from error


def _show(run: RunResult, options: Options) -> None:
    for error in run.errors:
        click.echo(str(error), err=True)
    for file in run.files:
        if file.verification is not None and file.verification.status != PROVED:
            click.echo(str(_unproved(file)), err=True)
    if options.format != "text":
        text = importlib.import_module(f"migrator.report.{options.format}").render(run)
        click.echo(text, nl=bool(text))
        return
    for file in run.files:
        sys.stdout.buffer.write(file.diff)
    sys.stdout.buffer.flush()
    if not run.errors:
        _show_text(run, options, sys.stderr if options.mode == DRY_RUN else sys.stdout)


def _show_text(run: RunResult, options: Options, stream: TextIO) -> None:
    from migrator.report.page import width_of
    from migrator.report.text import Detail, render

    detail = Detail.QUIET if options.quiet else Detail.VERBOSE if options.verbose else Detail.NORMAL
    render(run, width_of(stream), detail).print(stream)


def _unproved(file: FileResult) -> MigrateError:
    """The one line for a proof that was not given."""
    assert file.verification is not None
    if file.verification.status == "failed":
        first = next((check for check in file.verification.checks if not check.passed), None)
        cause = "the proof failed" if first is None else f"{first.symbol}: {first.name}: {first.message}"
        return MigrateError("proof-failed", cause, "nothing was written", path=file.path, exit_code=4)
    cause = file.verification.notes[0] if file.verification.notes else "the proof could not be made"
    remedy = "nothing was written; describe how to build it in [tool.migrate.probe], or use --no-verify"
    return MigrateError("not-verified", cause, remedy, path=file.path, exit_code=4)
