"""`migrate validate LEGACY MIGRATED`: what a migration did to a model, in figures measured here."""

from __future__ import annotations

import json
from pathlib import Path

import click

_WORSE = 3


@click.command()
@click.argument("legacy", type=click.Path(path_type=Path))
@click.argument("migrated", type=click.Path(path_type=Path), required=False)
@click.option("--model", default="", metavar="CLASS", help="The class to measure; without it, one is looked for.")
@click.option("--build", default="", metavar="CALL", help="How it is built: 'Model(vocab=11, dim=16)'.")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, metavar="S",
              help="For all measurements together; more seconds make more of them.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["json"]), default="json", show_default=True,
              help="How to report.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def command(
    legacy: Path, migrated: Path | None, model: str, build: str, seconds: float, format_: str, debug: bool
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
    old, new = texts(legacy, migrated)
    with watching("measuring") as show:
        request = Request(old, new, model, build, samplers(old), seconds)
        done = validate(request, show)
    click.echo(json.dumps(done.to_json(), indent=2))
    return _WORSE if done.worse else 0
