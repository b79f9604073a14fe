"""Bytes of a Python file <-> its text, so that what is not rewritten comes back as exactly the same bytes."""

from __future__ import annotations

import ast
import io
import os
import stat
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import MigrateError

SIZE_LIMIT = 5_000_000
BRACKET_LIMIT = 200  # CPython's own


@dataclass(frozen=True)
class Source:
    """A file as it was read. `text` has no byte order mark, and `\\n` for `\\r\\n` where the file has nothing else.

    Args:
        path: as the user named it; in messages.
        target: the regular file behind `path`, symbolic links followed; this is what gets written.
        data: its bytes.
        encoding: as declared, `utf-8-sig` for a byte order mark.
        crlf: whether all lines of the file end with `\\r\\n`.
    """

    path: Path
    target: Path
    data: bytes
    text: str
    encoding: str
    crlf: bool

    def encode(self, text: str) -> bytes:
        """The bytes of `text` in the encoding and with the line ends of this file.

        Raises:
            MigrateError: a character of the new text does not exist in the file's encoding.
        """
        try:
            return (text.replace("\n", "\r\n") if self.crlf else text).encode(self.encoding)
        except UnicodeEncodeError as error:
            cause = f"{error.object[error.start]!r} of the new text does not exist in {self.encoding}"
            raise MigrateError("encoding", cause, "save the file as UTF-8", path=self.path) from error


def read(path: Path) -> Source:
    """Read a file in the encoding that it declares.

    Raises:
        MigrateError: no regular file, not readable, over 5 MB, not in the declared encoding, or with NUL bytes.
    """
    return decode(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most 5 MB."""
    try:
        # Opened without blocking: a named pipe would keep us waiting for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                remedy = "name a Python file or a directory"
                raise MigrateError("not-a-file", "this is no regular file", remedy, path=path)
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError as error:
        raise MigrateError("no-such-file", "there is no such file", "check the path", path=path) from error
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise MigrateError("unreadable", cause, "check the rights of the file", path=path) from error
    if len(data) > SIZE_LIMIT:
        cause = f"larger than {SIZE_LIMIT // 1_000_000} MB ({status.st_size / 1e6:.1f} MB)"
        raise MigrateError("too-large", cause, "move the model into a file of its own", path=path)
    return data


def decode(path: Path, data: bytes) -> Source:
    """The text of `data`, accepted only if it turns back into the same bytes."""
    if path.suffix == ".ipynb":
        remedy = "move the model into a Python file, or export it with `jupyter nbconvert --to script`"
        raise MigrateError("notebook", "notebooks are not rewritten", remedy, path=path)
    encoding = _declared(path, data)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        remedy = "name Python source; a UTF-16 file has to be saved as UTF-8"
        raise MigrateError("nul-bytes", "has NUL bytes and is no Python source", remedy, path=path, line=line)
    try:
        text = data.decode(encoding)
        same = text.encode(encoding) == data
    except UnicodeDecodeError as error:
        raise _undecodable(path, data, encoding, error.start) from error
    except (LookupError, UnicodeError) as error:
        cause = f"the declared encoding {encoding} is not one for text"
        raise MigrateError("encoding", cause, "save the file as UTF-8", path=path) from error
    if not same:
        cause = f"the file does not survive a round trip through {encoding}, which it declares"
        raise MigrateError("encoding", cause, "save the file as UTF-8", path=path)
    crlf = "\r" in text and text.count("\r") == text.count("\r\n") == text.count("\n")
    target = Path(os.path.realpath(path))
    return Source(path, target, data, text.replace("\r\n", "\n") if crlf else text, encoding, crlf)


def parse(path: Path, text: str) -> ast.Module:
    """The syntax tree, without the warnings that a compiler prints on the way.

    Raises:
        MigrateError: `syntax-error`, or nested deeper than CPython itself allows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise not_python(path, error) from error


def not_python(path: Path, error: Exception) -> MigrateError:
    """What to tell the user of a file that CPython's parser does not take."""
    if isinstance(error, (RecursionError, MemoryError)):
        cause = "an expression is nested too deeply for Python's own parser"
        return MigrateError("too-deep", cause, "split the expression", path=path)
    line = getattr(error, "lineno", None)
    cause = getattr(error, "msg", None) or str(error)
    if "too many nested parentheses" in cause:
        cause = f"more than {BRACKET_LIMIT} nested brackets, the limit of Python itself"
        return MigrateError("too-deep", cause, "split the expression", path=path, line=line)
    remedy = f"make `python -m py_compile {path}` pass first"
    return MigrateError("syntax-error", cause, remedy, path=path, line=line)


def _declared(path: Path, data: bytes) -> str:
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError as error:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as wrong:
            raise _undecodable(path, data, "utf-8", wrong.start) from error
        raise MigrateError("encoding", str(error.msg), "declare an encoding that Python knows", path=path) from error


def _undecodable(path: Path, data: bytes, encoding: str, start: int) -> MigrateError:
    line = data.count(b"\n", 0, start) + 1
    cause = f"byte 0x{data[start]:02x} is not valid {encoding.upper().removesuffix('-SIG')}"
    remedy = "save the file as UTF-8, or declare its encoding on line 1, as in `# -*- coding: latin-1 -*-`"
    return MigrateError("encoding", cause, remedy, path=path, line=line)
