"""The command line: the only place that sees all rooms, from reading to reporting.

Whatever is not needed by every run is imported where it is used: a file without any transformer is answered within
a few milliseconds of Python's own start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.errors import MigrateError
from migrator.report.result import CHECK, DRY_RUN, PROVED, WRITE, FileResult, RunResult

if TYPE_CHECKING:
    from migrator.prove import Prover
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan

INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    paths: tuple[Path, ...]
    phase: int
    mode: str
    verify: bool
    keep_failed: bool
    timeout: float
    format: str
    only: frozenset[str]
    skip: frozenset[str]
    positions: str
    debug: bool


@dataclass(frozen=True)
class Work:
    """A file that is looked at closely, and what becomes of it."""

    source: Source
    result: FileResult

    @property
    def after(self) -> bytes:
        assert self.result.plan is not None
        return self.source.encode(self.result.plan.text)


def _names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """Codemod names from a repeatable, comma-separated option; a wrong one is a usage error."""
    names = frozenset(name.strip() for value in values for name in value.split(",") if name.strip())
    if not names:
        return names
    from migrator.rewrite import registry

    known = registry.names()
    for name in sorted(names - set(known)):
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise click.BadParameter(f"no codemod is called {name!r}; {hint}")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--phase", type=click.Choice(["1", "2", "3", "4"]), default="1", show_default=True,
              help="1: same function, same weights; 2: the architecture too.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print a patch for `git apply`; write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if anything is left to do.")
@click.option("--no-verify", is_flag=True, help="Write without a proof.")
@click.option("--keep-failed", is_flag=True, help="Keep a text that was not proved as FILE.candidate.py.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
              metavar="S", help="Seconds for the proof of one file.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="How to report.")  # fmt: skip
@click.option("--only", multiple=True, callback=_names, metavar="CODEMOD", help="Run only these; repeatable, or a,b.")
@click.option("--skip", multiple=True, callback=_names, metavar="CODEMOD", help="Leave these out; repeatable, or a,b.")
@click.option("--positions", type=click.Choice(["rotary", "alibi"]), default="rotary", show_default=True,
              help="What replaces additive positions in phase 2.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(package_name="transformer-migrator", prog_name="migrate", message="%(prog)s %(version)s")
def migrate(
    paths: tuple[Path, ...], phase: str, dry_run: bool, check: bool, no_verify: bool, keep_failed: bool,
    timeout: float, format_: str, only: frozenset[str], skip: frozenset[str], positions: str, debug: bool,
) -> int:  # fmt: skip
    """Modernise the PyTorch transformers in PATH (files or directories).

    Every change is proved in a process of its own before any file is written.

    Exit codes: 0 done or nothing to do; 1 work left (--check); 2 usage, unreadable input or our own fault; 3 migrated,
    but something was refused; 4 the proof failed, nothing was written.
    """
    if dry_run and check:
        raise click.UsageError("--dry-run and --check exclude each other")
    mode = CHECK if check else DRY_RUN if dry_run else WRITE
    options = Options(
        paths, int(phase), mode, not no_verify, keep_failed, timeout, format_, only, skip, positions, debug
    )
    _check_phases(options)
    run = execute(options)
    _report(run, options)
    return run.exit_code


def _check_phases(options: Options) -> None:
    """A phase without codemods, or an --only that its phase leaves out, would do nothing without saying so."""
    if options.phase <= 2 and not options.only:
        return
    from migrator.rewrite.registry import all_codemods, name_of

    phases = {name_of(codemod): int(codemod.phase) for codemod in all_codemods()}
    last = max(phases.values())
    if options.phase > last:
        raise click.UsageError(f"--phase {options.phase} has no codemods yet; there are phases up to {last}")
    for name in sorted(options.only):
        if phases[name] > options.phase:
            raise click.UsageError(f"--only {name} needs --phase {phases[name]}")


def execute(options: Options) -> RunResult:
    """Read, plan, prove, and write all files or none."""
    from migrator.read.files import python_files

    errors: list[MigrateError] = []
    files: list[FileResult] = []
    restored: tuple[Path, ...] = ()
    try:
        named = python_files(options.paths)
        restored = _recover(options, [file.path for file in named])
        works = []
        for file in named:
            with _collect(errors):
                result = FileResult(file.path)
                source = _source(file.path, file.explicit)
                files.append(result)
                if source is not None:
                    works.append(Work(source, result))
        _work(options, works, errors)
    except MigrateError as error:
        errors.append(error)
    return RunResult(tuple(files), options.phase, options.mode, options.verify, tuple(errors), restored)


def _recover(options: Options, files: Iterable[Path]) -> tuple[Path, ...]:
    """Make whole what a killed run left half-done, or say that it is, where nothing may be written."""
    from migrator.write import journal

    real = [file.resolve() for file in files]
    unfinished = journal.unfinished(real)
    if not unfinished:
        return ()
    if options.mode != WRITE:
        cause = "a run that was killed has left its files half-written"
        raise MigrateError("unfinished", cause, "run migrate without --check and --dry-run", path=unfinished[0].parent)
    from migrator.write.transaction import recover

    return tuple(recover(real))


@contextmanager
def _collect(errors: list[MigrateError]) -> Iterator[None]:
    try:
        yield
    except MigrateError as error:
        errors.append(error)


def _source(path: Path, explicit: bool) -> Source | None:
    """The text of a file, or None if its bytes say that it has no part of a transformer."""
    from migrator.read import prefilter, source

    data = source.read_bytes(path)
    if prefilter.may_contain_transformer(data):
        return source.decode(path, data)
    if explicit:
        # Who names a file is told if it is no Python, even if there is nothing to do in it.
        source.parse(path, source.decode(path, data).text)
    return None


def _work(options: Options, works: Sequence[Work], errors: list[MigrateError]) -> None:
    if not works:
        return
    proving = options.mode == WRITE and options.verify and not errors
    with _prover() if proving else nullcontext() as prover:
        for work in works:
            with _collect(errors):
                work.result.plan = _plan(options, work.source)
        changed = [work for work in works if work.result.changed]
        if errors or not changed or options.mode == CHECK:
            return
        if options.mode == DRY_RUN:
            _diff(changed)
            return
        _check_writable(changed)
        if prover is not None:
            _prove(options, prover, changed)
    _write(options, changed)


def _prover() -> AbstractContextManager[Prover | None]:
    """Started before there is anything to prove, so that its import of torch hides the rewriting."""
    from migrator import prove

    return prove.start()


def _plan(options: Options, source: Source) -> Plan:
    from migrator.codemod import Phase
    from migrator.read.source import not_python
    from migrator.rewrite import engine

    try:
        return engine.plan(
            source.path,
            source.text,
            phase=Phase(options.phase),
            only=options.only,
            skip=options.skip,
            choices={"positions": options.positions},
            findings_only=options.mode == CHECK,
        )
    except (SyntaxError, RecursionError, MemoryError) as error:
        if options.debug:
            raise
        raise not_python(source.path, error) from error
    except MigrateError as error:
        error.path = error.path or str(source.path)
        raise


def _diff(works: Iterable[Work]) -> None:
    from migrator.report.diff import patch_name, unified

    for work in works:
        work.result.diff = unified(work.source.data, work.after, patch_name(work.source.target))


def _check_writable(works: Iterable[Work]) -> None:
    from migrator.write.transaction import check_writable

    for work in works:
        check_writable(work.source.target)
        assert work.after  # raises if the file's encoding lacks a character of the new text


def _prove(options: Options, prover: Prover, works: Sequence[Work]) -> None:
    from migrator.config import probes_for

    with _spinner() as show:
        for work in works:
            assert work.result.plan is not None
            progress = _labelled(show, str(work.source.path)) if show is not None else None
            # The proof works in a directory of its own, so that it has to be told where the file is.
            plan = replace(work.result.plan, path=work.source.target, probes=probes_for(work.source.target))
            work.result.verification = prover.prove(plan, timeout=options.timeout, progress=progress)


def _labelled(show: Callable[[str], None], label: str) -> Callable[[str], None]:
    return lambda text: show(f"{label}: {text}")


@contextmanager
def _spinner() -> Iterator[Callable[[str], None] | None]:
    """Shows what is being proved, to somebody who watches."""
    from migrator.report.page import colourful

    if not colourful(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("proving") as status:
        yield lambda text: status.update(escape(text))


def _write(options: Options, works: Sequence[Work]) -> None:
    from migrator.write.transaction import Change, replace_all

    if not any(work.result.unproved for work in works):
        replace_all([Change(work.source.target, work.source.data, work.after) for work in works])
        for work in works:
            work.result.written = True
    elif options.keep_failed:
        for work in works:
            if work.result.unproved:
                candidate = work.source.path.with_suffix(".candidate.py")
                candidate.write_bytes(work.after)
                work.result.candidate = candidate


def _report(run: RunResult, options: Options) -> None:
    for error in run.errors:
        click.echo(str(error), err=True)
    for file in run.files:
        if file.verification is not None and file.verification.status != PROVED:
            click.echo(str(_unproved(file)), err=True)
    if options.format == "json":
        from migrator.report.json import render as render_json

        click.echo(render_json(run))
        return
    if options.mode == DRY_RUN:
        for file in run.files:
            sys.stdout.buffer.write(file.diff)
        sys.stdout.buffer.flush()
    if not run.errors:
        from migrator.report.page import width_of
        from migrator.report.text import render

        stream = sys.stderr if options.mode == DRY_RUN else sys.stdout
        render(run, width_of(stream)).print(stream)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and turn whatever happens into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(200_000, 20, 20)  # syntax trees are many objects and no garbage: collecting costs a tenth of a run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may hold what the terminal's encoding lacks
    try:
        code = migrate.main(list(arguments), prog_name="migrate", standalone_mode=False)
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
    sys.exit(code)
