"""The one way in which any room of the tool tells a user that it cannot go on."""

from __future__ import annotations

from pathlib import Path

USAGE = 2
PROOF_FAILED = 4


def printable(text: str) -> str:
    """The text with control characters spelt out: names may come from anywhere, and a terminal obeys some of them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class MigrateError(Exception):
    """Something the user has to know, printed as the single line `file:line: code: cause; remedy`.

    Args:
        code: short kebab-case name that stays the same between releases, such as `syntax-error`.
        cause: what was seen.
        remedy: what the user can do about it; may be empty.
        path, line: where, as far as it is known; a room that does not know its file may leave `path` to its caller.
        exit_code: 2 for usage and unreadable input, 4 for the proof.
    """

    def __init__(
        self,
        code: str,
        cause: str,
        remedy: str = "",
        *,
        path: Path | str | None = None,
        line: int | None = None,
        exit_code: int = USAGE,
    ) -> None:
        super().__init__(code, cause, remedy)
        self.code = code
        self.cause = cause
        self.remedy = remedy
        self.path = None if path is None else str(path)
        self.line = line
        self.exit_code = exit_code

    def __str__(self) -> str:
        where = "" if self.path is None else self.path + ":" + ("" if self.line is None else f"{self.line}:") + " "
        remedy = f"; {self.remedy}" if self.remedy else ""
        return printable(" ".join(f"{where}{self.code}: {self.cause}{remedy}".splitlines()))
