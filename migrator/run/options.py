"""What a user asked for, of a run over files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from migrator.config import Config


@dataclass(frozen=True)
class Options:
    """The command line of `migrate PATH...`, after the project's configuration has filled its gaps."""

    paths: tuple[Path, ...]
    phase: int
    mode: str
    only: frozenset[str]
    skip: frozenset[str]
    positions: str
    feed_forward: str
    config: Config = Config()
    verify: bool = True
    keep_failed: bool = False
    timeout: float = 120.0
    seconds: float = 120.0
    report: Path | None = None
    format: str = "text"
    quiet: bool = False
    verbose: bool = False
    jobs: int = 1
    cache: bool = True
    vendor: bool = False
    runtime_name: str = "runtime"
    interactive: bool = False
    allow_dirty: bool = False
    debug: bool = False
