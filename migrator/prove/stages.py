"""Stages that promise `new`: the change is the only change, it is what it says it is, and nothing else is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from migrator.codemod import DepthInitPart
from migrator.prove.bench import Bench, parts_of
from migrator.prove.gradients import check_gradients
from migrator.prove.invariants import check_invariants
from migrator.prove.isolation import check_isolation
from migrator.prove.oracle import check_parts
from migrator.prove.probe import Case
from migrator.prove.remote import BoxError
from migrator.rewrite.plan import Stage


def prove_new(bench: Bench, stage: Stage, symbols: Sequence[str], roots: Sequence[str]) -> None:
    """Isolation first: if the change is not alone, the other checks would only repeat it."""
    everything = list(dict.fromkeys([*symbols, *roots]))
    cases = bench.probes.of(everything, ("root", "inner", "even", "flip"))
    for case in cases:
        _try_out(bench, stage, case)
    cases = [case for case in cases if _possible(bench, stage, case)]
    check_isolation(bench, stage, cases)
    if bench.ledger.failed:
        return
    check_parts(bench, stage, cases)
    if bench.ledger.failed or _initial_values_only(stage):
        return
    check_invariants(bench, stage, cases)
    check_gradients(bench, stage, cases)


def _try_out(bench: Bench, stage: Stage, case: Case) -> None:
    """Find out whether the text before runs in float64; if it does not run at all, the checks will say so."""
    with contextlib.suppress(BoxError):
        bench.legacy(bench.box("the code before the change", stage.before), case)


def _initial_values_only(stage: Stage) -> bool:
    """Whether nothing was switched off, so that isolation has already said that the function is the same."""
    parts = parts_of(stage.claims)
    none_off = not any(claim.off for claim in stage.claims)
    return bool(parts) and none_off and all(isinstance(part, DepthInitPart) for part in parts)


def _possible(bench: Bench, stage: Stage, case: Case) -> bool:
    """Whether a variation that the file itself never builds can be built at all: rotation needs even widths."""
    if case.kind in ("root", "inner"):
        return True
    try:
        bench.model(bench.box("the migrated code", stage.after), case)
    except BoxError as error:
        given = ", ".join(
            f"{name}={value}" for name, value in case.build["kwargs"]["dict"] if type(value) in (int, bool, float)
        )
        bench.ledger.note(f"{case.symbol}({given}) can no longer be built: {str(error).partition(' (line')[0]}")
        return False
    return True
