"""`migrate validate LEGACY MIGRATED`: what a migration did to a model, in figures measured here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.validate.request import SECTIONS

if TYPE_CHECKING:
    from migrator.validate import Validation

_WORSE = 3


@click.command()
@click.argument("legacy", type=click.Path(path_type=Path))
@click.argument("migrated", type=click.Path(path_type=Path), required=False)
@click.option("--model", default="", metavar="CLASS", help="The class to measure; without it, one is looked for.")
@click.option("--build", default="", metavar="CALL", help="How it is built: 'Model(vocab=11, dim=16)'.")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, metavar="S",
              help="For all measurements together; more seconds make more of them.")  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice(SECTIONS), metavar="SECTION",
              help=f"Measure only this; repeatable: {', '.join(SECTIONS)}.")  # fmt: skip
@click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Train by N processes too, with DDP and FSDP2.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as one page of HTML.")
@click.option("--json", "json_", type=click.Path(path_type=Path), metavar="FILE", help="Write it as JSON.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="How to report on standard output.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def command(
    legacy: Path, migrated: Path | None, model: str, build: str, seconds: float, only: tuple[str, ...],
    nproc: int, html: Path | None, json_: Path | None, format_: str, debug: bool,
) -> int:  # fmt: skip
    """Measure a legacy file and its migrated form side by side: gradients, attention, memory, speed, quality.

    Without MIGRATED, what `--phase 3` would make of LEGACY is measured. No file is changed.

    Exit codes: 0 measured; 2 there was no model to measure; 3 measured, and something got worse.
    """
    from migrator.run.watching import watching
    from migrator.validate import Request, validate
    from migrator.validate.asking import samplers, texts

    if build and not model:
        raise click.UsageError("--build needs --model, the class that it builds")
    if html is not None:
        from migrator.report.html import check_installed

        check_installed()
    old, new, outcomes = texts(legacy, migrated)
    with watching("measuring") as show:
        done = validate(Request(old, new, model, build, samplers(old), seconds, only, nproc), show)
    if html is not None:
        from migrator.report.html import render as page
        from migrator.report.hunks import hunks

        _write(html, page(done, hunks(old.text, new.text, outcomes)))
    if json_ is not None:
        _write(json_, json.dumps(done.to_json(), indent=2) + "\n")
    _print(done, format_)
    return _WORSE if done.worse else 0


def _write(path: Path, text: str) -> None:
    from migrator.errors import MigrateError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        cause = f"the report cannot be written ({error.strerror})"
        raise MigrateError("not-written", cause, "name another file", path=path) from error


def _print(done: Validation, format_: str) -> None:
    if format_ == "json":
        click.echo(json.dumps(done.to_json(), indent=2))
        return
    from migrator.report.page import width_of
    from migrator.report.validation import render

    render(done, width_of(sys.stdout)).print(sys.stdout)
