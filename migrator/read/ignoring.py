"""What is passed over where a directory is given: `.gitignore` files, and the patterns of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

GITIGNORE = ".gitignore"


@dataclass(frozen=True)
class Rules:
    """The patterns that hold in a directory, those of the outermost directory first; the last match decides."""

    levels: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    @classmethod
    def above(cls, folder: Path) -> Rules:
        """What the repository says about a directory from outside of it; nothing, if it ignores that directory.

        Who names an ignored directory means it.
        """
        repository = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)
        rules = cls()
        outside = [parent for parent in reversed(folder.parents) if parent.is_relative_to(repository)]
        for parent in outside:
            rules = rules.inside(parent)
        return cls() if any(rules.ignore(str(place) + "/") for place in (*outside[1:], folder)) else rules

    def with_patterns(self, folder: Path, patterns: Sequence[str]) -> Rules:
        """These rules and further patterns, relative to `folder`."""
        return Rules((*self.levels, (str(folder) + "/", _spec(patterns)))) if patterns else self

    def inside(self, folder: Path) -> Rules:
        """These rules and those of the `.gitignore` that lies in `folder`."""
        try:
            lines = (folder / GITIGNORE).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return self
        return self.with_patterns(folder, lines)

    def ignore(self, path: str) -> bool:
        """Whether an absolute path is passed over; that of a directory ends with a slash."""
        for base, spec in reversed(self.levels):
            if path.startswith(base) and path != base:
                verdict = spec.check_file(path[len(base) :]).include
                if verdict is not None:
                    return verdict
        return False


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)
