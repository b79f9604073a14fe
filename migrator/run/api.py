"""What other programs may call: `migrator.plan`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from migrator.codemod import Phase
from migrator.read.source import parse
from migrator.rewrite import engine
from migrator.rewrite.plan import Outcome, Plan, Stage
from migrator.rewrite.registry import all_codemods, check_names

__all__ = ["Outcome", "Plan", "Stage", "plan"]


def plan(
    source: str,
    *,
    path: str | Path = "<text>",
    phase: int = 1,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    positions: str = "rotary",
    feed_forward: str = "neutral",
) -> Plan:
    """What `migrate` would do to a text. Pure: it reads no file and no configuration, and runs none of the code.

    Args:
        source: the text of a Python file.
        path: what messages call it.
        phase, only, skip, positions, feed_forward: as on the command line; `only` and `skip` are names of codemods.

    Returns:
        a `Plan`: `text` is the new text, `outcomes` says what was found where, `stages` are the steps with their
        claims. Nothing of it is proved.

    Raises:
        ValueError: no such phase, codemod, kind of positions or of feed-forward.
        MigrateError: the text is no Python, or nested deeper than Python allows.
    """
    if phase not in set(Phase):
        raise ValueError(f"there is no phase {phase}; there are 1 to {max(Phase)}")
    choices = {"positions": positions, "feed_forward": feed_forward}
    for option, value in choices.items():
        there = {codemod.choice[1] for codemod in all_codemods() if codemod.choice and codemod.choice[0] == option}
        if value not in there:
            raise ValueError(f"{option} is one of {', '.join(sorted(there))}, not {value!r}")
    check_names({*only, *skip})
    parse(Path(path), source)
    return engine.plan(
        Path(path),
        source,
        phase=Phase(phase),
        only=frozenset(only),
        skip=frozenset(skip),
        choices=choices,
    )
