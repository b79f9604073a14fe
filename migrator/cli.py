"""The entry point: runs the command line, and turns whatever happens into one line and an exit code."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from migrator.errors import MigrateError
from migrator.run.command import migrate

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `migrate` with these arguments, or those of the process, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(200_000, 20, 20)  # syntax trees are many objects and no garbage: collecting costs a tenth of a run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may hold what the terminal's encoding lacks
    try:
        code = migrate.main(list(arguments), prog_name="migrate", standalone_mode=False)
    except MigrateError as error:
        click.echo(str(error), err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("interrupted: every file is either as it was, or wholly rewritten", err=True)
        code = INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(f"internal error: {cause}; please report it, with the output of --debug", err=True)
        code = 2
    sys.exit(code or 0)
