"""From the files that a user names to the two texts, and what the legacy one says of generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from migrator.codemod import CachedGeneration, Phase
from migrator.config import nearest
from migrator.errors import MigrateError
from migrator.read import source
from migrator.rewrite import engine
from migrator.rewrite.plan import Outcome
from migrator.validate.request import Text


def texts(legacy: Path, migrated: Path | None) -> tuple[Text, Text, tuple[Outcome, ...]]:
    """Both texts, and what is known of why they differ.

    Without a migrated file, it is what a migration up to the last phase would make of the legacy one.

    Raises:
        MigrateError: a file cannot be read or is no Python, or the two do not differ.
    """
    old = _text(legacy)
    plan = engine.plan(old.path, old.text, phase=max(Phase))
    if migrated is not None:
        new = _text(migrated)
        remedy = "name the legacy file first and the migrated one second"
    else:
        new = replace(old, text=plan.text, name=f"{legacy} after --phase {Phase.ACCELERATION.value}")
        remedy = "name the migrated file too, or its legacy form first"
    if old.text == new.text:
        raise MigrateError("nothing-to-compare", "the two texts are the same", remedy, path=legacy)
    return old, new, plan.outcomes


def _text(path: Path) -> Text:
    read = source.read(path)
    source.parse(path, read.text)
    return Text(read.target.resolve(), read.text, nearest(read.target).probes, str(path))


def samplers(legacy: Text) -> tuple[str, ...]:
    """Functions that generate with a model, as the last phase recognises them."""
    plan = engine.plan(legacy.path, legacy.text, phase=max(Phase))
    abilities = [ability for stage in plan.stages for claim in stage.claims for ability in claim.abilities]
    found = [ability.function for ability in abilities if isinstance(ability, CachedGeneration)]
    return tuple(dict.fromkeys(found))
