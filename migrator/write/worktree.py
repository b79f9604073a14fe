"""What git knows of files before they are replaced: a change that is not committed must not get mixed with ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from migrator.errors import MigrateError

_STATUS = ["status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=all", "--"]


def uncommitted(files: Iterable[Path]) -> list[MigrateError]:
    """One error for each file that git tracks and that differs from what was committed last.

    Files outside of a repository and files that git doesn't track are fine: `migrate undo` has their bytes. So is
    everything where there is no git to ask.
    """
    by_repository: dict[Path, list[Path]] = {}
    for file in files:
        repository = next((folder for folder in file.parents if (folder / ".git").exists()), None)
        if repository is not None:
            by_repository.setdefault(repository, []).append(file)
    return [error for repository, inside in by_repository.items() for error in _in_repository(repository, inside)]


def _in_repository(repository: Path, files: list[Path]) -> list[MigrateError]:
    remedy = "commit or stash them first, or use --allow-dirty; nothing was written"
    names = [file.relative_to(repository).as_posix() for file in files]
    # Neither the index is refreshed, nor a file watcher of the repository started.
    command = ["git", "--literal-pathspecs", "--no-optional-locks", "-c", "core.fsmonitor=false", *_STATUS, *names]
    try:
        run = subprocess.run(
            command, cwd=repository, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        return [MigrateError("uncommitted-changes", f"git gave no answer ({error})", remedy, path=repository)]
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip().partition("\n")[0]
        cause = f"git cannot say what is committed ({said})"
        return [MigrateError("uncommitted-changes", cause, "mend that, or use --allow-dirty", path=repository)]
    # "XY name", then NUL; a name that was renamed is followed by the old one, which is none of ours or listed itself.
    dirty = {os.fsdecode(entry[3:]) for entry in run.stdout.split(b"\0")}
    cause = "the file has changes that are not committed"
    return [
        MigrateError("uncommitted-changes", cause, remedy, path=file)
        for file, name in zip(files, names, strict=True)
        if name in dirty
    ]
