"""A unified diff between two states of a file, byte for byte what `git apply` and `patch -p1` need."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}


def unified(before: bytes | None, after: bytes, name: str) -> bytes:
    """The patch from `before`, None for no file at all, to `after`; empty if they are equal.

    Lines end at `\\n` only, as they do for git.
    """
    old, new = _lines(before or b""), _lines(after)
    patch = difflib.unified_diff(
        old, new, "/dev/null" if before is None else _quoted("a/" + name), _quoted("b/" + name)
    )
    # Latin-1 maps all bytes onto characters and back, so a file in any encoding comes out as it was.
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in patch).encode(
        "latin-1"
    )


def patch_name(target: Path) -> str:
    """How the patch calls a file: relative to the working directory, else to the repository or folder that it lies in.

    `git apply` takes the names of a plain unified diff relative to the directory that it is run in.
    """
    here = os.path.realpath(os.curdir)
    base = here if target.is_relative_to(here) else _repository(target)
    return target.relative_to(base).as_posix()


def _repository(target: Path) -> Path:
    return next((folder for folder in target.parents if (folder / ".git").exists()), target.parent)


def _lines(data: bytes) -> list[str]:
    lines = [line + "\n" for line in data.decode("latin-1").split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _quoted(name: str) -> str:
    raw = name.encode("utf-8", "surrogateescape")
    if all(32 <= byte < 127 and byte not in _ESCAPES for byte in raw):
        # A tab tells git where a name with blanks ends.
        return name + ("\t" if " " in name else "")
    return '"' + "".join(_escaped(byte) for byte in raw) + '"'


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return "\\" + _ESCAPES[byte]
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
