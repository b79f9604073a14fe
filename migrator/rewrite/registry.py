"""All codemods there are: one class in each module of the `codemods` package, found by looking."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import TopologicalSorter

from migrator.codemod import Codemod, Phase

# What is chosen where a user says nothing.
DEFAULTS: Mapping[str, str] = {"positions": "rotary", "feed_forward": "neutral"}


def name_of(codemod: type[Codemod]) -> str:
    """The codemod's name: that of its file."""
    return codemod.__module__.rpartition(".")[2]


@cache
def all_codemods() -> tuple[type[Codemod], ...]:
    """Every codemod, by phase and then in the order that `after` asks for."""
    found = [codemod for name in names() for codemod in _of_module(f"codemods.{name}")]
    return tuple(codemod for phase in Phase for codemod in _ordered([c for c in found if c.phase == phase]))


@cache
def names() -> list[str]:
    """The names alone, without loading any codemod."""
    package = importlib.import_module("codemods")
    return sorted(item.name for item in pkgutil.iter_modules(package.__path__))


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
    module = importlib.import_module(name)
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Codemod) and value.__module__ == name
    ]


def _ordered(codemods: list[type[Codemod]]) -> list[type[Codemod]]:
    by_name = {name_of(codemod): codemod for codemod in codemods}
    sorter = TopologicalSorter({name: sorted(set(codemod.after) & set(by_name)) for name, codemod in by_name.items()})
    return [by_name[name] for name in sorter.static_order()]
