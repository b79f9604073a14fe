"""The entry point: runs the command line, and turns whatever happens into one line and an exit code."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType

import click

from migrator.errors import MigrateError
from migrator.run.command import migrate

INTERRUPTED = 130


class Ended(BaseException):
    """Somebody ends the process with a signal: as Ctrl-C does, so that nothing is left running."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `migrate` with these arguments, or those of the process, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(200_000, 20, 20)  # syntax trees are many objects and no garbage: collecting costs a tenth of a run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may hold what the terminal's encoding lacks
    try:
        _listen()
        code = migrate.main(list(arguments), prog_name="migrate", standalone_mode=False)
    except MigrateError as error:
        click.echo(str(error), err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt, Ended) as error:
        click.echo("interrupted: every file is either as it was, or wholly rewritten", err=True)
        code = error.exit_code if isinstance(error, Ended) else INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        click.echo(f"internal error: {cause}; please report it, with the output of --debug", err=True)
        code = 2
    sys.exit(code or 0)


def _listen() -> None:
    """From here on signals are errors like others; before it, they just end the process."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored
            signal.signal(number, end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
