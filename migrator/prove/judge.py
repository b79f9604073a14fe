"""The judge: takes a plan stage by stage, has every check run, and gives the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable

from migrator.codemod import Promise
from migrator.prove import parity, probe, scope
from migrator.prove.abilities import prove_abilities
from migrator.prove.bench import Bench
from migrator.prove.nursery import Nursery
from migrator.prove.remote import BoxError, OutOfTime
from migrator.prove.result import Status, TensorRow, Verification
from migrator.prove.summary import summarise
from migrator.recognise.index import FileIndex
from migrator.rewrite.plan import Plan, Stage


def verify(plan: Plan, nursery: Nursery, deadline: float, progress: Callable[[str], None]) -> Verification:
    """The verdict on a plan, at the deadline at the latest."""
    began = time.monotonic()
    bench = Bench(nursery, plan.path.resolve(), deadline, progress, tolerances=plan.tolerances)
    bench.ledger.notes.extend(plan.tolerances.changes())
    tensors: tuple[TensorRow, ...] = ()
    counts: tuple[tuple[str, int, int], ...] = ()
    try:
        _prove(bench, plan)
        if not bench.ledger.failed and not bench.ledger.unable:
            tensors, counts = summarise(bench, plan)
    except OutOfTime:
        seconds = time.monotonic() - began
        bench.ledger.unable.insert(0, f"the proof was not done after {seconds:.0f} s; a longer --timeout may help")
    finally:
        bench.close()
    ledger = bench.ledger
    status: Status = "failed" if ledger.failed else "not verified" if ledger.unable else "proved"
    notes = tuple(dict.fromkeys([*ledger.unable, *ledger.notes]))
    seconds = time.monotonic() - began
    return Verification(status, tuple(ledger.checks), notes, tensors, counts, seconds, nursery.means)


def _prove(bench: Bench, plan: Plan) -> None:
    ledger = bench.ledger
    for stage in plan.stages:
        ledger.stage = ", ".join(stage.codemods)
        scope.check_scope(ledger, stage)
    if any(not check.passed for check in ledger.checks):
        return
    ledger.stage = ""
    bench.tick("importing the file")
    try:
        bench.open_first(plan.source)
    except BoxError as error:
        ledger.unable.append(f"the file can't be run: {error}")
        return
    bench.tick("finding out how its classes are built and called")
    index = FileIndex(plan.source)
    claims = [claim for stage in plan.stages for claim in stage.claims]
    bench.probes = probe.find(index, claims, lambda: bench.scratch(plan.source), plan.probes)
    bench.release(())
    _report_probes(bench, probe.claimed(index, claims))
    for stage in plan.stages:
        ledger.stage = ", ".join(stage.codemods)
        try:
            _prove_stage(bench, index, stage)
        except BoxError as error:
            ledger.cannot("proof", ledger.stage, str(error))
        bench.release((plan.source, stage.after))
        if ledger.failed:
            return


def _report_probes(bench: Bench, wanted: list[str]) -> None:
    probes, ledger = bench.probes, bench.ledger
    for name in wanted:
        if name not in probes.cases and not any(user in probes.cases for user in probes.users.get(name, ())):
            why = probes.missing.get(name, "no model of the file was seen to use it")
            ledger.cannot("probe", name, f"{why}; a `probe()` in the file can say how it is built")
    for name in probes.roots:
        if name in probes.missing and name not in wanted:
            ledger.note(f"{name} could not be built ({probes.missing[name]}), so only the parts inside it were proved")
    found = sum(name in probes.cases for name in wanted)
    sources = dict.fromkeys(f"{name} by {source}" for name, source in probes.sources.items() if name in probes.cases)
    helped = any("probe" in source for source in sources)
    ledger.note(
        f"probes for {found} of {len(wanted)} classes {'' if helped else 'without help '}(built: {'; '.join(sources)})"
    )


def _prove_stage(bench: Bench, index: FileIndex, stage: Stage) -> None:
    symbols = probe.claimed(index, stage.claims)
    symbols = [user for name in symbols for user in (name, *bench.probes.users.get(name, ()))]
    roots = [name for name in bench.probes.roots if name in bench.probes.cases]
    try:
        bench.box("the migrated code", stage.after)
    except BoxError as error:
        bench.ledger.add("import", next(iter(symbols), "the file"), False, f"the migrated text can't be run: {error}")
        return
    if stage.promise == Promise.EXACT:
        parity.prove_exact(bench, stage, symbols, roots)
        if not bench.ledger.failed:
            prove_abilities(bench, stage)
    elif stage.promise == Promise.WARM:
        from migrator.prove.warm import prove_warm

        prove_warm(bench, stage, symbols, roots)
    else:
        from migrator.prove.stages import prove_new

        prove_new(bench, stage, symbols, roots)
