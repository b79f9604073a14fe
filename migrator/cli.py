"""The entry point: runs the command line, and turns whatever happens into one line and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
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


_ENDS = (signal.SIGTERM, signal.SIGHUP)
_INTERRUPTS = (click.Abort, KeyboardInterrupt, Ended)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `migrate` with these arguments, or those of the process, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(200_000, 20, 20)  # syntax trees are many objects and no garbage: collecting costs a tenth of a run
    _open_streams()
    try:
        _listen()
        code = migrate.main(list(arguments), prog_name="migrate", standalone_mode=False)
        sys.stdout.flush()
        _stop_listening()
    except click.ClickException as error:
        _say(error.show)
        code = error.exit_code
    except (Exception, *_INTERRUPTS) as error:
        _stop_listening()
        if "--debug" in arguments and not isinstance(error, (MigrateError, *_INTERRUPTS)):
            raise
        line, code = _told(error)
        _say(lambda: click.echo(line, err=True))
    sys.exit(code or 0)


def _told(error: BaseException) -> tuple[str, int]:
    """The line that says what has ended the run, and the exit code for it."""
    if isinstance(error, _INTERRUPTS):
        code = error.exit_code if isinstance(error, Ended) else INTERRUPTED
        return "interrupted: every file is either as it was, or wholly rewritten", code
    if isinstance(error, OSError) and not _printable():
        cause = f"the output cannot be printed ({error.strerror}); what was done is done"
        error = MigrateError("not-printed", cause, "free some space")
    if isinstance(error, MigrateError):
        return str(error), error.exit_code
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {cause}; please report it, with the output of --debug", 2


def _printable() -> bool:
    """Whether standard output takes anything at all."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python would try again at its end
        return False
    return True


def _say(show: Callable[[], None]) -> None:
    """Print to standard error; where that fails too, the exit code has to do."""
    try:
        show()
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _open_streams() -> None:
    """Have all three: what is closed would else be the number of the next file that is opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may hold what the terminal's encoding lacks


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def _listen() -> None:
    """From here on signals are errors like others; before it, they just end the process."""
    sys.unraisablehook = _send_again
    for number in _ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop_listening() -> None:
    """All is done, and what is left to say is a line: from here on signals just end the process again."""
    for number in _ENDS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _send_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops what a destructor raises, also where a signal did it: then the signal comes a moment later."""
    if not isinstance(unraisable.exc_value, Ended | KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import threading

    number = unraisable.exc_value.exit_code - 128 if isinstance(unraisable.exc_value, Ended) else signal.SIGINT
    threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, number)).start()
