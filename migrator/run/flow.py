"""A run over files: read, plan, prove, and write all of them or none.

Whatever is not needed by every run is imported where it is used: a file without any transformer is answered within
a few milliseconds of Python's own start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.config import Config, nearest
from migrator.errors import MigrateError
from migrator.read.files import python_files
from migrator.read.ignoring import Rules
from migrator.report.result import CHECK, DRY_RUN, WRITE, FileResult, RunResult
from migrator.run.options import Options

if TYPE_CHECKING:
    from migrator.prove import Prover
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan


@dataclass(frozen=True)
class Work:
    """A file that is looked at closely, and what becomes of it."""

    source: Source
    result: FileResult

    @property
    def after(self) -> bytes:
        assert self.result.plan is not None
        return self.source.encode(self.result.plan.text)


def execute(options: Options) -> RunResult:
    """Read, plan, prove, and write all files or none."""
    errors: list[MigrateError] = []
    files: list[FileResult] = []
    restored: tuple[Path, ...] = ()
    try:
        named = python_files(options.paths, _excluded(options.config))
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


def _excluded(config: Config) -> Rules:
    return Rules().with_patterns(config.folder, config.exclude)


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
        if options.format == "sarif":
            _keep_texts(changed)
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
            choices={"positions": options.positions, "feed_forward": options.feed_forward},
            findings_only=options.mode == CHECK and options.format != "sarif",  # which has the fixes
        )
    except (SyntaxError, RecursionError, MemoryError) as error:
        if options.debug:
            raise
        raise not_python(source.path, error) from error
    except MigrateError as error:
        error.path = error.path or str(source.path)
        raise


def _keep_texts(works: Iterable[Work]) -> None:
    for work in works:
        encoding = work.source.encoding
        work.result.texts = (work.source.data.decode(encoding), work.after.decode(encoding))


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
    with _spinner() as show:
        for work in works:
            assert work.result.plan is not None
            progress = _labelled(show, str(work.source.path)) if show is not None else None
            # The proof works in a directory of its own, so that it has to be told where the file is.
            plan = replace(work.result.plan, path=work.source.target, probes=nearest(work.source.target).probes)
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
