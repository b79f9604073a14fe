"""Probes: how each class that a plan changes, and the models around it, are built and called.

They are found on the file as the user has it; constructors and calls stay what they are in every later text.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from migrator.codemod import CachedGeneration, Claim
from migrator.prove import inputs
from migrator.prove.codec import renumbered
from migrator.prove.guesses import Guess, guesses
from migrator.prove.remote import Box, BoxError, Run
from migrator.recognise.index import FileIndex

Build = dict[str, Any]
_TRIES = 40


@dataclass(frozen=True)
class Case:
    """One way to build a class and some calls of it.

    `kind`: `root` (a whole model), `inner` (as the model around it builds it), or a variation of one: `even`, `odd`,
    `flip`, `dropout`. Where the arguments could not be handed over, `path` says where in the model the class is found.
    """

    symbol: str
    kind: str
    build: Build
    tensors: tuple[Tensor, ...]
    runs: tuple[Run, ...]
    path: str = ""

    @property
    def largest(self) -> Run:
        return max((run for run in self.runs if run.method == "forward"), key=_size, default=self.runs[0])

    @property
    def calls(self) -> list[tuple[Run, bool]]:
        """Calls to compare, each with whether it is in train mode: that is asked for once.

        Of whole models and of variations, which repeat what the classes inside were asked, two sizes do.
        """
        chosen: list[tuple[Run, bool]] = []
        for method in dict.fromkeys(run.method for run in self.runs):
            runs = sorted((run for run in self.runs if run.method == method), key=_size, reverse=True)
            if method == "forward" or not chosen or self.kind == "inner":
                chosen.append((runs[0], True))
            count = len(runs) if self.kind == "inner" else 2 if method == "forward" else 1
            chosen += [(run, False) for run in runs[:count]]
        return chosen


@dataclass
class Probes:
    """All cases, and why some classes have none."""

    cases: dict[str, list[Case]] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    full: dict[str, tuple[Build, tuple[Tensor, ...]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)

    def of(self, symbols: Iterable[str], kinds: Sequence[str]) -> list[Case]:
        chosen = [case for symbol in dict.fromkeys(symbols) for case in self.cases.get(symbol, ())]
        return [case for case in chosen if case.kind in kinds]


def find(
    index: FileIndex,
    claims: Sequence[Claim],
    box: Callable[[], Box],
    configured: Sequence[tuple[str, str]] = (),
) -> Probes:
    """Probes for all that the claims speak of; `box` gives a living box, should guesses have killed one.

    `configured` are expressions that build a class, from the project's configuration; they come before any guess.
    """
    names = claimed(index, claims)
    functions = [name for name in names if name not in index.modules]
    users = {name: users_of(index, name) for name in functions}
    wanted = [name for name in names if name in index.modules]
    wanted += [user for found in users.values() for user in found if user not in wanted]
    given, given_tensors = _given(box())
    probes = Probes(roots=roots_of(index, wanted), users=users)
    for name in [*probes.roots, *wanted, *functions]:
        if name in probes.cases and name not in probes.roots:
            continue
        tries = [_as_module(name)] if name in functions else list(guesses(index, name))[:_TRIES]
        own: list[Tensor] = []
        if name in given:
            tries, own = [Guess(given[name], given[name], "its probe()"), *tries], given_tensors
        said = [{"cls": name, "setup": [], "call": text} for symbol, text in configured if symbol == name]
        tries = [*(Guess(build, build, "[tool.migrate.probe]") for build in said), *tries]
        _discover(index, box(), name, wanted, tries, own, probes)
    for name in wanted:
        if name in probes.cases:
            probes.missing.pop(name, None)
            _vary(box(), probes.cases[name])
    return probes


def claimed(index: FileIndex, claims: Sequence[Claim]) -> list[str]:
    """Every module class and function of the file that a claim names, and that can run by itself."""
    known = {*index.modules, *index.functions} - {name for claim in claims for name in claim.inside}
    named = [n for claim in claims for n in (*claim.models, *claim.definitions, *(part.owner for part in claim.parts))]
    abilities = [ability for claim in claims for ability in claim.abilities]
    named += [ability.owner for ability in abilities if not isinstance(ability, CachedGeneration)]
    # Functions that sample are called with whole models, and checked for that alone.
    sampling = {ability.function for ability in abilities if isinstance(ability, CachedGeneration)}
    return [name for name in dict.fromkeys(named) if name in known - sampling]


def users_of(index: FileIndex, name: str) -> list[str]:
    """Module classes that call a function, or another function that calls it."""
    callers = [other for other, d in index.functions.items() if other != name and _mentions_name(d.tree, name)]
    return [cls for cls, info in index.modules.items() if any(_mentions_name(info.node, n) for n in (name, *callers))]


def _mentions_name(tree: ast.AST, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


def _as_module(name: str) -> Guess:
    """A function of the file, to be called as if it were a module's forward."""
    build = {"cls": name, "function": True}
    return Guess(build, build, "its parameters")


def roots_of(index: FileIndex, wanted: Sequence[str]) -> list[str]:
    """Module classes that hold a wanted class, directly or not, and are held by no other module class."""
    holds = {name: _mentions(index, name) for name in index.modules}
    reached = {name: _closure(name, holds) for name in holds}
    above = [name for name in holds if name in wanted or reached[name] & set(wanted)]
    return [name for name in above if not any(name in reached[other] for other in above if other != name)]


def _mentions(index: FileIndex, name: str) -> set[str]:
    """Module classes that a class constructs or derives from."""
    names = {node.id for node in ast.walk(index.modules[name].node) if isinstance(node, ast.Name)}
    return {other for other in names if other in index.modules and other != name}


def held_by(index: FileIndex, name: str) -> set[str]:
    """Module classes that a class holds, directly or not, and itself."""
    return {name, *_closure(name, {other: _mentions(index, other) for other in index.modules})}


def _closure(name: str, holds: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = set(holds[name])
    while left:
        other = left.pop()
        if other not in found:
            found.add(other)
            left |= holds[other]
    return found


def _given(box: Box) -> tuple[dict[str, Build], list[Tensor]]:
    try:
        reply, tensors = box.call("probes")
    except BoxError:
        return {}, []
    return reply["builds"], tensors


def _discover(
    index: FileIndex, box: Box, name: str, wanted: list[str], tries: list[Guess], tensors: list[Tensor], probes: Probes
) -> None:
    builds = [guess.build for guess in tries]
    try:
        reply, found = box.call(
            "discover", tensors, cls=name, wanted=wanted, builds=builds, methods=_called_methods(index, name)
        )
    except BoxError as error:
        probes.missing[name] = str(error)
        return
    if "errors" in reply:
        probes.missing[name] = _summary(reply["errors"])
        return
    guess = tries[reply["build"]]
    probes.sources[name] = guess.source
    probes.full[name] = (guess.full, tuple(tensors))
    case = Case(name, "root", guess.build, tuple(tensors), runs_of(reply["methods"], reply["sizes"]))
    if name in wanted and reply["init"] is not None:
        first, count = reply["init"].pop("tensors")
        case = replace(case, build=reply["init"], tensors=tuple(found[first : first + count]))
    probes.cases[name] = [case, *probes.cases.get(name, [])]
    for record in reply["inner"]:
        if record["cls"] in wanted:
            probes.cases.setdefault(record["cls"], []).append(_inner(record, case, found))


def with_method(index: FileIndex, box: Box, case: Case, method: str) -> Case:
    """The case with calls of a method; if none were seen while its model ran, they are found by names and shapes."""
    if any(run.method == method for run in case.runs) or case.path:
        return case
    try:
        reply, _ = box.call("discover", case.tensors, cls=case.symbol, wanted=[], builds=[case.build], methods=[method])
    except BoxError:
        return case
    if method not in reply.get("methods", ()):
        return case
    found = {method: reply["methods"][method]}
    return replace(case, runs=(*case.runs, *runs_of(found, reply["sizes"])))


def _called_methods(index: FileIndex, name: str) -> list[str]:
    """Public methods besides forward that the file calls on something."""
    info = index.modules.get(name)
    if info is None:
        return []
    return [
        method for method in info.methods
        if not method.startswith("_") and method != "forward" and index.attribute_reads.get(method, 0) > 0
    ]  # fmt: skip


def _summary(errors: list[str]) -> str:
    """What the most ways to build a class failed of; an argument that could not be evaluated says the least."""
    different = Counter(errors)
    telling = [error for error in different if not error.startswith("NameError")] or list(different)
    first = max(telling, key=lambda error: different[error])
    return (
        first
        if len(different) == 1
        else f"{first} (and other errors in {len(errors) - different[first]} of {len(errors)} ways)"
    )


def _size(run: Run) -> int:
    return run.size[0] * run.size[1]


def runs_of(methods: dict[str, list[inputs.Spec]], sizes: dict[str, list[list[int]]]) -> tuple[Run, ...]:
    """Inputs of our own for each call and size that the model was seen to run with."""
    runs: list[Run] = []
    for method, specs in methods.items():
        for batch, length in sizes[method]:
            generator = torch.Generator().manual_seed(17 * batch + length)
            values = [inputs.make(spec, batch, length, generator) for spec in specs]
            tensors = [value for value in values if isinstance(value, Tensor)]
            args, place = [], 0
            for value in values:
                args.append({"tensor": place} if isinstance(value, Tensor) else value)
                place += isinstance(value, Tensor)
            runs.append(Run(method, args, {"dict": []}, tuple(tensors), (batch, length)))
    return tuple(runs)


def _inner(record: dict[str, Any], root: Case, found: list[Tensor]) -> Case:
    runs = []
    for number, run in enumerate(record["runs"]):
        first, count = run["tensors"]
        tensors = found[first : first + count]
        runs.append(
            Run(
                run["method"],
                run["args"],
                run["kwargs"],
                tuple(_renewed(tensors, number)),
                (run["size"][0], run["size"][1]),
            )
        )
    init = record["init"]
    if init is None:
        return Case(record["cls"], "inner", root.build, root.tensors, tuple(runs), record["path"])
    first, count = init.pop("tensors")
    return Case(record["cls"], "inner", init, tuple(found[first : first + count]), tuple(runs))


def _renewed(tensors: list[Tensor], number: int) -> list[Tensor]:
    """Inputs of our own in place of those that were seen, but for the first call: what is no noise has to stay."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(t.shape, generator=generator) if number and _is_noise(t) else t for t in tensors]


def _is_noise(tensor: Tensor) -> bool:
    """Many different finite numbers: no mask, and no table of a few values."""
    if not tensor.is_floating_point() or tensor.ndim < 2 or not bool(tensor.isfinite().all()):
        return False
    return len(set(tensor.flatten().tolist())) > 8


# --- variations ----------------------------------------------------------------------------------------------------


def _vary(box: Box, cases: list[Case]) -> None:
    """Other constructor arguments and masks that the class runs with, for some cases whose arguments are known."""
    known = [case for case in cases if case.kind == "inner" and not case.path][:2]
    own = [case for case in cases if not case.path and "cls" in case.build and "args" in case.build]
    for case in known or own[:1]:  # where a path leads to the class, the build is that of the model around it
        described, tensors = _described(case, 0 if case.kind == "root" else 2)
        try:
            reply, _ = box.call("vary", tensors, build=case.build, runs=described)
        except BoxError:
            continue
        for found in reply["builds"]:
            runs = runs_of(found["methods"], found["sizes"]) if "methods" in found else case.runs
            cases.append(Case(case.symbol, found["kind"], found["build"], case.tensors, runs))
    for number, case in enumerate(cases):
        if case.kind in ("root", "inner") and not case.path:
            cases[number] = _masked(box, case)


def _described(case: Case, count: int) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Some calls for a box, and the tensors of the constructor and of these calls, in one list."""
    tensors = list(case.tensors)
    described = []
    for run in ([run for run in case.runs if run.method == "forward"] or list(case.runs))[:count]:
        place = len(tensors)
        described.append({
            "method": run.method, "args": renumbered(run.args, place), "kwargs": renumbered(run.kwargs, place),
            "size": list(run.size),
        })  # fmt: skip
        tensors += run.tensors
    return described, tensors


def _masked(box: Box, case: Case) -> Case:
    """The case with further calls that give masks which may be left out."""
    described, tensors = _described(case, 1)
    try:
        reply, _ = box.call("masks", tensors, build=case.build, run=described[0])
    except BoxError:
        return case
    runs = list(case.runs)
    for name, spec in reply["masks"].items():
        for run in [run for run in case.runs if run.method == described[0]["method"]][:3]:
            mask = inputs.make(spec, *run.size, torch.Generator().manual_seed(len(runs)))
            kwargs = {**run.kwargs, "dict": [*run.kwargs["dict"], [name, {"tensor": len(run.tensors)}]]}
            runs.append(replace(run, kwargs=kwargs, tensors=(*run.tensors, mask)))
    return replace(case, runs=tuple(runs))
