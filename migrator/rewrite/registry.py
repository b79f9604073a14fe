"""All codemods there are: one class in each module of `codemods`, and those that other distributions bring along.

Another distribution names its modules as entry points: `[project.entry-points."transformer_migrator.codemods"]` with a
line such as `focal = "their_package.focal"`. The name is that of the module, as it is for ours.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.codemod import Codemod, Phase
from migrator.errors import MigrateError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "transformer_migrator.codemods"

# What is chosen where a user says nothing.
DEFAULTS: Mapping[str, str] = {"positions": "rotary", "feed_forward": "neutral"}


def name_of(codemod: type[Codemod]) -> str:
    """The codemod's name: that of its module."""
    return codemod.__module__.rpartition(".")[2]


@cache
def all_codemods() -> tuple[type[Codemod], ...]:
    """Every codemod, by phase and then in the order that `after` asks for."""
    found = [codemod for module in _modules().values() for codemod in _of_module(module)]
    return tuple(codemod for phase in Phase for codemod in _ordered([c for c in found if c.phase == phase]))


@cache
def names() -> list[str]:
    """The names alone, without loading any codemod."""
    return sorted(_modules())


@cache
def _modules() -> dict[str, str]:
    """The module of each codemod, by name.

    Raises:
        MigrateError: an entry point of another distribution is not usable.
    """
    package = importlib.import_module("codemods")
    modules = {item.name: f"codemods.{item.name}" for item in pkgutil.iter_modules(package.__path__)}
    for entry in _entry_points():
        if entry.name in modules:
            raise _unusable(entry, f"there is a codemod {entry.name} already")
        if entry.attr or entry.module.rpartition(".")[2] != entry.name:
            raise _unusable(entry, f"{entry.value!r} is no module that is called {entry.name}")
        modules[entry.name] = entry.module
    return modules


def announcements() -> list[Path]:
    """The files on the module path in which installed distributions announce codemods."""
    files = (file for folder in sys.path for file in sorted(Path(folder).glob("*-info/entry_points.txt")))
    return [file for file in files if GROUP in file.read_text(encoding="utf-8", errors="replace")]


def _entry_points() -> list[EntryPoint]:
    if not announcements():
        return []
    from importlib.metadata import entry_points  # takes longer to load than a file takes to check

    return list(entry_points(group=GROUP))


def _unusable(entry: EntryPoint, cause: str) -> MigrateError:
    whose = "another distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return MigrateError("codemod", f"the codemod {entry.name} of {whose}: {cause}", "mend or uninstall it")


def check_names(asked: Iterable[str]) -> None:
    """See that there are codemods of these names.

    Raises:
        ValueError: there is none of one of them; with the nearest name, or all of them.
    """
    for name in sorted(set(asked) - set(names())):
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}"
        raise ValueError(f"no codemod is called {name!r}; {hint}")


def chosen(phase: Phase, only: frozenset[str], skip: frozenset[str], choices: Mapping[str, str]) -> list[type[Codemod]]:
    """The codemods of one phase that a user's options leave."""
    return [
        codemod
        for codemod in all_codemods()
        if codemod.phase == phase
        and (not only or name_of(codemod) in only)
        and name_of(codemod) not in skip
        and (codemod.choice is None or {**DEFAULTS, **choices}[codemod.choice[0]] == codemod.choice[1])
    ]


def _of_module(name: str) -> list[type[Codemod]]:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if name.startswith("codemods."):
            raise
        cause = f"{name} cannot be loaded ({type(error).__name__}: {error})"
        raise MigrateError("codemod", cause, "mend or uninstall the distribution that it comes from") from error
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Codemod) and value.__module__ == name
    ]


def _ordered(codemods: list[type[Codemod]]) -> list[type[Codemod]]:
    by_name = {name_of(codemod): codemod for codemod in codemods}
    sorter = TopologicalSorter({name: sorted(set(codemod.after) & set(by_name)) for name, codemod in by_name.items()})
    return [by_name[name] for name in sorter.static_order()]
