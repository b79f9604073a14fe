"""What a user asked for, of a run over files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The command line of `migrate PATH...`, after the project's configuration has filled its gaps."""

    paths: tuple[Path, ...]
    phase: int
    mode: str
    verify: bool
    keep_failed: bool
    timeout: float
    format: str
    only: frozenset[str]
    skip: frozenset[str]
    positions: str
    feed_forward: str
    debug: bool
