"""What `--check` found in a file, kept until the file, the options or the tool change.

An entry is a file of its own that is replaced as a whole, so runs at the same time do each other no harm. Each file of
the user has one entry for each set of options: the cache grows with the code and not with time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.run.options import Options

if TYPE_CHECKING:
    from migrator.link.units import Unit
    from migrator.read.source import Source
    from migrator.rewrite.plan import Plan

NAME = "transformer-migrator"
_PACKAGE = Path(__file__).parents[1]
_DECIDING = ("read", "recognise", "rewrite", "link")  # the rooms whose code decides what is found


class Cache:
    """The entries for one set of options.

    Args:
        folder: where they lie.
        options: a text that is the same for the same options.
        tool: a digest of everything else that decides what is found.
    """

    def __init__(self, folder: Path, options: str, tool: str) -> None:
        self.folder, self.options, self.tool = folder, options, tool

    @classmethod
    def of(cls, options: Options) -> Cache | None:
        """None while codemods of other distributions are installed: when they change cannot be seen cheaply."""
        from platformdirs import user_cache_path

        from migrator.rewrite.registry import announcements

        if announcements():
            return None
        asked = [options.phase, sorted(options.only), sorted(options.skip), options.positions, options.feed_forward]
        return cls(user_cache_path(NAME) / "check", json.dumps(asked), _tool())

    def plans(self, unit: Unit) -> list[Plan] | None:
        """Plans with the outcomes of last time, if nothing has changed; their texts are the old ones."""
        plans = [self._plan(unit, source) for source in unit.given]
        return None if None in plans else [plan for plan in plans if plan is not None]

    def _plan(self, unit: Unit, source: Source) -> Plan | None:
        try:
            entry = json.loads(self._entry(source).read_bytes())
            if entry["key"] != self._key(unit, source):
                return None
            from migrator.rewrite.plan import Outcome, Plan

            outcomes = tuple(Outcome(**outcome) for outcome in entry["outcomes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # there is none, or somebody has damaged it
        return Plan(source.path, source.text, source.text, (), outcomes)

    def keep(self, unit: Unit, plans: list[Plan]) -> None:
        """Write the entries; where that is not possible, the next run takes as long as this one."""
        for source, plan in zip(unit.given, plans, strict=True):
            self._keep(self._entry(source), self._key(unit, source), plan)

    def _keep(self, path: Path, key: str, plan: Plan) -> None:
        entry = {"key": key, "outcomes": [asdict(outcome) for outcome in plan.outcomes]}
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(entry), encoding="ascii")
            os.replace(temporary, path)

    def _entry(self, source: Source) -> Path:
        name = _digest(os.fsencode(source.target), self.options.encode())
        return self.folder / name[:2] / name[2:]

    def _key(self, unit: Unit, source: Source) -> str:
        """Of the file, and of all that it is read as one with."""
        beside = [part for member in unit.members for part in (os.fsencode(member.path), member.source.text.encode())]
        return _digest(self.tool.encode(), source.data, source.text.encode(), *beside)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()


def _tool() -> str:
    """Python's version, and size and time of every module that decides: right for a release and for a checkout."""
    stamps = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _deciding_modules()]
    return "\n".join([sys.version, *stamps])


def _deciding_modules() -> Iterator[Path]:
    yield _PACKAGE / "codemod.py"
    for folder in (*(_PACKAGE / room for room in _DECIDING), _PACKAGE.parent / "codemods"):
        yield from sorted(folder.rglob("*.py"))
