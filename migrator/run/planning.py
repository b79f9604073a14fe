"""Plans for many files: from the cache, or made here or in several processes, always in the order of the files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from migrator.errors import MigrateError
from migrator.report.result import CHECK
from migrator.run.cache import Cache
from migrator.run.options import Options

if TYPE_CHECKING:
    from migrator.link.units import Unit
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan

    Planned: TypeAlias = list[Plan] | MigrateError


def plans(
    options: Options, sources: Sequence[Source], others: Sequence[Source]
) -> Iterator[tuple[Source, Plan | MigrateError]]:
    """Each file with its plan, or why there is none; files that are read as one come together.

    Args:
        others: files that get a plan only if they are read as one with one of `sources`.
    """
    from migrator.link.units import units

    cache = Cache.of(options) if findings_only(options) and options.cache else None
    found = units(sources, others)
    known = [cache.plans(unit) if cache is not None else None for unit in found]
    made = _made(options, [unit for unit, plans in zip(found, known, strict=True) if plans is None])
    for unit, old in zip(found, known, strict=True):
        new = next(made) if old is None else old
        if isinstance(new, MigrateError):
            yield from ((source, new) for source in unit.given[:1])
            continue
        if cache is not None and old is None:
            cache.keep(unit, new)
        yield from zip(unit.given, new, strict=True)


def findings_only(options: Options) -> bool:
    """Whether the new texts are not asked for; SARIF has them as fixes."""
    return options.mode == CHECK and options.format != "sarif"


def _made(options: Options, units: Sequence[Unit]) -> Iterator[Planned]:
    if options.jobs == 1 or len(units) < 2:
        yield from map(functools.partial(_plan, options), units)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from migrator.rewrite.registry import all_codemods

    all_codemods()  # loaded once, and not in every process
    # Forking is at once; where it is not safe beside threads of the system, processes start from nothing.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(options.jobs, len(units)), context, _leave_interrupts_to_the_parent) as pool:
        try:
            yield from pool.map(functools.partial(_plan, options), units, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _plan(options: Options, unit: Unit) -> Planned:
    """The plans of a unit, or, with --interactive, those that the user's answers leave."""
    if not options.interactive:
        return _planned(options, unit, frozenset())
    from migrator.run.asking import decided

    return decided(lambda left_out: _planned(options, unit, left_out))


def _planned(options: Options, unit: Unit, left_out: frozenset[tuple[str, str]]) -> Planned:
    from migrator.codemod import Phase
    from migrator.link import planning
    from migrator.read.source import not_python

    path = unit.given[0].path
    try:
        return planning.plan(
            unit,
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
        return not_python(path, error)
    except MigrateError as error:
        error.path = error.path or str(path)
        return error
