"""A run over files: read, plan, prove, and write all of them or none.

Whatever is not needed by every run is imported where it is used: a file without any transformer is answered within
a few milliseconds of Python's own start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from migrator.codemod import Phase
from migrator.config import Config, nearest
from migrator.errors import MigrateError
from migrator.read.files import python_files
from migrator.read.ignoring import Rules
from migrator.report.result import CHECK, DRY_RUN, WRITE, FileResult, RunResult
from migrator.rewrite.renaming import RUNTIME, renamed
from migrator.run import vendoring
from migrator.run.options import Options
from migrator.run.planning import plans
from migrator.run.watching import watching
from migrator.write.vendor import is_copy

if TYPE_CHECKING:
    from migrator.prove import Prover, Verification
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan

FEW = 10  # files that are read before anybody looks


@dataclass(frozen=True)
class Work:
    """A file that is read, and what becomes of it.

    Args:
        module: where it imports the runtime from.
        closely: whether something may be found in it; else only if it is read as one with such a file.
    """

    source: Source
    result: FileResult
    module: str
    closely: bool

    @property
    def after(self) -> bytes:
        assert self.result.plan is not None
        return self.source.encode(renamed(self.result.plan.text, RUNTIME, self.module))

    @property
    def changed(self) -> bool:
        return self.result.plan is not None and self.after != self.source.data


def execute(options: Options) -> RunResult:
    """Read, plan, prove, and write all files or none."""
    errors: list[MigrateError] = []
    files: list[FileResult] = []
    restored: tuple[Path, ...] = ()
    try:
        named = python_files(options.paths, _excluded(options.config))
        restored = _recover(options, [file.path for file in named])
        works: list[Work] = []
        for file in named:
            with _collect(errors):
                result = FileResult(file.path)
                source, closely = _source(file.path, file.explicit)
                files.append(result)
                if source is not None:
                    module = vendoring.module_of(options, source)
                    works.append(Work(vendoring.as_runtime(source, module), result, module, closely))
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


def _source(path: Path, explicit: bool) -> tuple[Source | None, bool]:
    """The text of a file, and whether its bytes allow for a part of a transformer; None if for nothing of torch's."""
    from migrator.read import prefilter, source

    data = source.read_bytes(path)
    if prefilter.may_contain_transformer(data):
        return source.decode(path, data), True
    if explicit:
        # Who names a file is told if it is no Python, even if there is nothing to do in it.
        source.parse(path, source.decode(path, data).text)
    if prefilter.may_belong_to_one(data):
        with suppress(MigrateError):
            return source.decode(path, data), False
    return None, False


def _work(options: Options, works: Sequence[Work], errors: list[MigrateError]) -> None:
    if not any(work.closely for work in works):
        return
    proving = options.mode == WRITE and options.verify and not errors
    with _provers(min(options.jobs, len(works)) if proving else 0) as provers:
        _plan(options, works, errors)
        works = [work for work in works if work.result.plan is not None]
        _complain(options, works)
        changed = [work for work in works if work.changed]
        if options.format == "sarif" or options.phase == Phase.VALIDATION:
            _keep_texts(changed)
        if errors or options.mode == CHECK:
            return
        copies = _copies(options, works)
        if options.mode == DRY_RUN:
            _diff(changed, copies)
            return
        _check_writable(changed)
        errors += _uncommitted(options, changed, copies)
        if errors:
            return
        if provers:
            _prove(options, provers, [work for work in changed if work.result.changed])
    if (changed or copies) and _wanted(options, changed):
        _write(options, changed, copies)
    if options.phase == Phase.VALIDATION:
        from migrator.run.validating import measure

        measure(options, [work.result for work in changed if work.result.written])


def _wanted(options: Options, works: Sequence[Work]) -> bool:
    if not options.interactive or not works or any(work.result.unproved for work in works):
        return True
    from migrator.run.asking import may_write

    wanted = may_write(work.result for work in works)
    for work in works:
        work.result.declined = not wanted
    return wanted


def _complain(options: Options, works: Iterable[Work]) -> None:
    """A copy of the runtime that is out of date is a finding too, unless this run renews it."""
    for work in works:
        plan = work.result.plan
        rows = tuple(vendoring.complaints(work.source, work.module))
        if plan is not None and rows and not (options.vendor and options.mode != CHECK):
            work.result.plan = replace(plan, outcomes=(*plan.outcomes, *rows))


def _copies(options: Options, works: Iterable[Work]) -> dict[Path, bytes]:
    """The modules of the runtime that have to be put beside the files."""
    needs = []
    for work in works:
        folder = vendoring.folder_of(work.source, work.module)
        ours = is_copy(folder)
        if work.changed or options.vendor:
            vendoring.check_free(work.source, work.module)
        if work.result.plan is not None and (options.vendor or (ours and work.changed)):
            needs.append((folder, work.result.plan.text))
    copies = vendoring.copies(needs)
    for work in works:
        work.result.copies = tuple(
            path for path in copies if path.parent == vendoring.folder_of(work.source, work.module)
        )
    return copies


@contextmanager
def _provers(number: int) -> Iterator[list[Prover]]:
    """Started before there is anything to prove, so that their import of torch hides the rewriting."""
    with ExitStack() as stack:
        if number:
            from migrator import prove

            yield [stack.enter_context(prove.start()) for _ in range(number)]
        else:
            yield []


def _plan(options: Options, works: Sequence[Work], errors: list[MigrateError]) -> None:
    by_source = {work.source.target: work for work in works}
    closely = [work.source for work in works if work.closely]
    others = [work.source for work in works if not work.closely]
    with watching("reading", len(closely) > FEW) as show:
        for number, (source, plan) in enumerate(plans(options, closely, others), 1):
            show(f"{number} of {len(closely)}: {source.path}")
            if isinstance(plan, MigrateError):
                errors.append(plan)
            else:
                by_source[source.target].result.plan = plan


def _keep_texts(works: Iterable[Work]) -> None:
    for work in works:
        encoding = work.source.encoding
        work.result.texts = (work.source.data.decode(encoding), work.after.decode(encoding))


def _diff(works: Iterable[Work], copies: Mapping[Path, bytes]) -> None:
    from migrator.report.diff import patch_name, unified

    left = dict(copies)
    for work in works:
        work.result.diff = unified(work.source.data, work.after, patch_name(work.source.target))
        for path in work.result.copies:
            if path in left:
                before = path.read_bytes() if path.is_file() else None
                work.result.diff += unified(before, left.pop(path), patch_name(path))


def _check_writable(works: Iterable[Work]) -> None:
    from migrator.write.transaction import check_writable

    for work in works:
        check_writable(work.source.target)
        assert work.after  # raises if the file's encoding lacks a character of the new text


def _uncommitted(options: Options, works: Sequence[Work], copies: Mapping[Path, bytes]) -> list[MigrateError]:
    """What git has to say against writing; then the user gets to see what would have been written."""
    from migrator.write.worktree import uncommitted

    errors = [] if options.allow_dirty else uncommitted(work.source.target for work in works)
    if errors:
        _diff(works, copies)
    return errors


def _prove(options: Options, provers: Sequence[Prover], works: Sequence[Work]) -> None:
    """Each unit of files by the prover that is free next."""
    free: SimpleQueue[Prover] = SimpleQueue()
    for prover in provers:
        free.put(prover)
    with watching("proving") as show:

        def prove(unit: list[Work]) -> None:
            prover = free.get()
            _prove_unit(options, prover, unit, lambda text: show(f"{unit[0].source.path}: {text}"))
            free.put(prover)

        if len(provers) == 1:
            for unit in _units(works):
                prove(unit)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(provers)) as pool:
            try:
                list(pool.map(prove, _units(works)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for prover in provers:
                    prover.close()  # ends what the threads wait for
                raise


def _units(works: Sequence[Work]) -> list[list[Work]]:
    """Files whose changes are proved together."""
    units: dict[int, list[Work]] = {}
    for work in works:
        units.setdefault(id(work.result.planned), []).append(work)
    return list(units.values())


def _prove_unit(options: Options, prover: Prover, unit: Sequence[Work], progress: Callable[[str], None]) -> None:
    """The file that builds on the others gets the verdict with all its figures, these refer to it."""
    planned = unit[0].result.planned
    main = next((work for work in unit if work.source.target == planned.path), unit[-1])
    # The proof works in a directory of its own, so that it has to be told where the file is.
    path = planned.path if planned.extents else main.source.target
    config = nearest(path)
    plan = replace(planned, path=path, probes=config.probes, tolerances=config.tolerances)
    verification = prover.prove(plan, timeout=options.timeout * len(unit), progress=progress)
    verification = _in_files(verification, plan)
    note = f"in one proof with {main.source.path}"
    for work in unit:
        work.result.verification = replace(verification, checks=(), tensors=(), parameters=(), notes=(note,))
    main.result.verification = verification


def _in_files(verification: Verification, plan: Plan) -> Verification:
    """The verdict in words of the files, where several were proved as one text."""
    if not plan.extents:
        return verification
    from migrator.link.telling import in_files

    checks = tuple(replace(check, message=in_files(check.message, plan.extents)) for check in verification.checks)
    notes = tuple(in_files(note, plan.extents) for note in verification.notes)
    return replace(verification, checks=checks, notes=notes)


def _write(options: Options, works: Sequence[Work], copies: Mapping[Path, bytes]) -> None:
    from migrator.write.transaction import Change, created, replace_all
    from migrator.write.vendor import put

    if not any(work.result.unproved for work in works):
        with put(copies) if copies else nullcontext():
            replace_all([Change(work.source.target, work.source.data, work.after) for work in works])
        for work in works:
            work.result.written = True
    elif options.keep_failed:
        for work in works:
            if work.result.unproved:
                candidate = work.source.path.with_suffix(".candidate.py")
                with created(candidate, force=True) as file:
                    file.write_bytes(work.after)
                work.result.candidate = candidate
