"""Plans for many files: from the cache, or made here or in several processes, always in the order of the files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from migrator.errors import MigrateError
from migrator.report.result import CHECK
from migrator.run.cache import Cache
from migrator.run.options import Options

if TYPE_CHECKING:
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan


def plans(options: Options, sources: Sequence[Source]) -> Iterator[Plan | MigrateError]:
    """The plan of each file, or why there is none."""
    cache = Cache.of(options) if findings_only(options) and options.cache else None
    known = [cache.plan(source) if cache is not None else None for source in sources]
    made = _made(options, [source for source, plan in zip(sources, known, strict=True) if plan is None])
    for source, plan in zip(sources, known, strict=True):
        if plan is not None:
            yield plan
            continue
        new = next(made)
        if cache is not None and not isinstance(new, MigrateError):
            cache.keep(source, new)
        yield new


def findings_only(options: Options) -> bool:
    """Whether the new texts are not asked for; SARIF has them as fixes."""
    return options.mode == CHECK and options.format != "sarif"


def _made(options: Options, sources: Sequence[Source]) -> Iterator[Plan | MigrateError]:
    if options.jobs == 1 or len(sources) < 2:
        yield from map(functools.partial(_plan, options), sources)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from migrator.rewrite.registry import all_codemods

    all_codemods()  # loaded once, and not in every process
    # Forking is at once; where it is not safe beside threads of the system, processes start from nothing.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(options.jobs, len(sources)), context, _leave_interrupts_to_the_parent) as pool:
        try:
            yield from pool.map(functools.partial(_plan, options), sources, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _plan(options: Options, source: Source) -> Plan | MigrateError:
    """One plan, or, with --interactive, the one that the user's answers leave."""
    if not options.interactive:
        return _planned(options, source, frozenset())
    from migrator.run.asking import decided

    return decided(lambda left_out: _planned(options, source, left_out))


def _planned(options: Options, source: Source, left_out: frozenset[tuple[str, str]]) -> Plan | MigrateError:
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
            findings_only=findings_only(options),
            left_out=left_out,
        )
    except (SyntaxError, RecursionError, MemoryError) as error:
        if options.debug:
            raise
        return not_python(source.path, error)
    except MigrateError as error:
        error.path = error.path or str(source.path)
        return error
