"""Isolation: with the old and the new component both switched off, the two texts compute the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from migrator.codemod import (
    AlibiPart,
    Claim,
    DepthInitPart,
    MovedNormPart,
    NormPart,
    Part,
    RotaryPart,
    Swap,
    SwiGLUPart,
)
from migrator.prove.bench import Bench, parts_of
from migrator.prove.comparing import Scale, compare
from migrator.prove.ledger import Ledger, Tally
from migrator.prove.probe import Case
from migrator.prove.remote import Box, BoxError, Model, Run, both, ran
from migrator.prove.states import Matched, matched, paths_of, renaming, under
from migrator.recognise.index import FileIndex
from migrator.recognise.syntax import split_lines
from migrator.rewrite.plan import Stage


def switched_off(text: str, swaps: Iterable[Swap]) -> str:
    """`text` with the old component off. Raises ValueError if a swap points at no expression."""
    lines = [line.encode() for line in split_lines(text)]
    for swap in sorted(swaps, key=lambda swap: (swap.line, swap.column), reverse=True):
        if not 1 <= swap.line <= swap.end_line <= len(lines):
            raise ValueError(f"line {swap.line} is not in the text")
        first, last = lines[swap.line - 1], lines[swap.end_line - 1]
        lines[swap.line - 1 : swap.end_line] = [first[: swap.column] + swap.text.encode() + last[swap.end_column :]]
        # Later swaps stand further up, so that their lines are still where they were.
    result = b"".join(lines).decode()
    ast.parse(result)
    return result


def off_text(stage: Stage) -> str:
    return switched_off(stage.before, dict.fromkeys(swap for claim in stage.claims for swap in claim.off))


@dataclass(frozen=True)
class Twins:
    """One case in two boxes, with weights under which both have to compute the same."""

    case: Case
    before: Model
    after: Model
    states: Matched
    rename: Callable[[str], str]
    scale: Scale


def twins(bench: Bench, first: Box, second: Box, case: Case, claims: Sequence[Claim]) -> Twins:
    """Build a case on both sides and load matching weights. Raises Unbuilt for the text before, else BoxError."""
    try:
        before = bench.model(first, case)
    except BoxError as error:
        raise Unbuilt(str(error)) from None
    after = bench.model(second, case)
    rename = renaming(before, [entry for claim in claims for entry in claim.renamed])
    states = matched(before, after, rename)
    before.load(states.before)
    after.load(states.after)
    return Twins(case, before, after, states, rename, bench.float64)


class Unbuilt(BoxError):
    """The text before the change can't be built."""


def unpaired(tally: Tally, error: BoxError) -> None:
    """Say why there are no twins: that is no fault of the change where the code before it can't be built."""
    if isinstance(error, Unbuilt):
        tally.cannot(f"the code before the change can't be built: {error}")
    else:
        tally.fail(f"the two texts can't be given the same weights: {error}")


def check_isolation(bench: Bench, stage: Stage, cases: Sequence[Case]) -> None:
    parts = parts_of(stage.claims)
    try:
        swiglu = [part for part in parts if isinstance(part, SwiGLUPart)]
        before = bench.box("the code before the change", off_text(stage), neutral=swiglu)
    except (BoxError, ValueError, SyntaxError) as error:
        bench.ledger.cannot("isolation", _first(cases), f"the old component can't be switched off: {error}")
        return
    try:
        after = bench.box(
            "the migrated code", stage.after, neutral=[p for p in parts if not isinstance(p, DepthInitPart)]
        )
    except BoxError as error:
        bench.ledger.cannot("isolation", _first(cases), f"the new component can't be switched off: {error}")
        return
    for symbol in dict.fromkeys(case.symbol for case in cases):
        bench.tick(f"{symbol}: isolation")
        with bench.ledger.tally("isolation", symbol, bench.float64.limit) as tally:
            for case in (case for case in cases if case.symbol == symbol):
                isolated(bench, tally, before, after, case, stage)
            tally.words = f"all else is equal: {tally.count} comparisons of outputs and gradients"
    _all_neutralised(bench.ledger, bench, after, parts, cases)


def _first(cases: Sequence[Case]) -> str:
    return cases[0].symbol if cases else "the file"


def isolated(bench: Bench, tally: Tally, before: Box, after: Box, case: Case, stage: Stage) -> None:
    try:
        pair = twins(bench, before, after, case, stage.claims)
    except BoxError as error:
        unpaired(tally, error)
        return
    problem = unexpected(pair, stage.claims) or lost_attribute(pair, stage)
    if problem is not None:
        tally.fail(problem)
        return
    for run, train in case.calls:
        where = f"{run.words}, {'train' if train else 'eval'}, switched off"
        same_run(tally, pair, run, where, train=train)


def same_run(tally: Tally, pair: Twins, run: Run, where: str, *, train: bool) -> None:
    """Outputs, and gradients of the tensors that both have, agree in float64."""
    old, new = both(pair.before.ask(run, train=train), pair.after.ask(run, train=train), ran)
    if isinstance(old, BoxError):
        tally.cannot(f"the code before the change failed: {old}")
    elif isinstance(new, BoxError):
        tally.fail(f"the migrated code failed: {new} ({where})")
    elif not old.outputs:
        tally.cannot("it returns no tensor")
    elif not old.finite:
        tally.cannot(f"the code before the change gives no finite number ({where})")
    else:
        compare(tally, old, new, pair.scale, where, pair.rename)


def unexpected(pair: Twins, claims: Sequence[Claim]) -> str | None:
    """A tensor that appeared, or changed its size, without being part of a claim."""
    allowed = [
        path for claim in claims for part in claim.parts for path in paths_of(pair.after, part.owner, attributes(part))
    ]
    for name in (*pair.states.new, *pair.states.resized):
        if not under(name, allowed):
            what = "is new" if name in pair.states.new else "has another size"
            return f"the tensor {name} {what}, and no claim covers it"
    return None


def lost_attribute(pair: Twins, stage: Stage) -> str | None:
    """A public attribute of a class of the file that is gone, and was not what the stage switched off."""
    own = set(FileIndex(stage.before).modules)
    lines = split_lines(stage.before)
    swapped = {line for claim in stage.claims for swap in claim.off for line in range(swap.line, swap.end_line + 1)}
    off = {name for line in swapped for name in re.findall(r"\.(\w+)", lines[line - 1])}
    off |= {attribute for claim in stage.claims for _, attribute in claim.dropped}
    for path, names in pair.before.attributes.items():
        if path not in pair.after.attributes:
            continue
        old, new = (set(side.modules[path]["classes"]) for side in (pair.before, pair.after))
        if path.rpartition(".")[2] in off and old != new:
            continue  # what was switched off has left something else in its place
        if own & old:
            gone = [name for name in names if name not in pair.after.attributes[path] and name not in off]
            if gone:
                return f"its attribute {f'{path}.' if path else ''}{gone[0]} is gone, and no claim covers it"
    return None


def attributes(part: Part) -> tuple[str, ...]:
    """The submodules of its owner that a part is about."""
    if isinstance(part, SwiGLUPart):
        return part.gate, part.up, part.down
    if isinstance(part, DepthInitPart):
        return ()
    return (part.attribute,)


def _all_neutralised(ledger: Ledger, bench: Bench, box: Box, parts: Sequence[Part], cases: Sequence[Case]) -> None:
    """Each claimed part stands in at least one module that was built; else its isolation said nothing."""
    for part in parts:
        if not isinstance(part, RotaryPart | AlibiPart | NormPart | MovedNormPart | SwiGLUPart):
            continue
        models = [model for case in cases if (model := _built(bench, box, case)) is not None]
        known = {path for model in models for path in model.modules}
        names = ", ".join(attributes(part))
        if not any(model.owners(part.owner) for model in models):
            ledger.cannot("isolation", part.owner, "nothing that holds one could be built")
        elif not any(path in known for m in models for path in paths_of(m, part.owner, attributes(part))):
            ledger.add("isolation", part.owner, False, f"it has no {names}, which the claim speaks of")


def _built(bench: Bench, box: Box, case: Case) -> Model | None:
    try:
        return bench.model(box, case)
    except BoxError:
        return None
