"""Encodings and newlines: what is rewritten keeps them to the byte, and what cannot be is left alone with one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.running import NEW, OLD, finish, start


def cookie(name: str, note: str = "é") -> Callable[[str], bytes]:
    return lambda text: f"# -*- coding: {name} -*-\n# {note}\n{text}".encode(name)


CASES: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "bom": lambda t: t.encode("utf-8-sig"),
    "bom and cookie": lambda t: ("# coding: utf-8\n" + t).encode("utf-8-sig"),
    "bom and crlf": lambda t: t.replace("\n", "\r\n").encode("utf-8-sig"),
    "latin-1": cookie("latin-1"),
    "cp1252": cookie("cp1252", "€"),
    "koi8-r": cookie("koi8-r", "слой"),
    "shift_jis": cookie("shift_jis", "層"),
    "gbk": cookie("gbk", "层"),
    "utf-8 cookie": cookie("utf-8"),
    "wrong cookie": lambda t: ("# coding: ascii\n# é\n" + t).encode(),
    "unknown cookie": lambda t: ("# coding: martian\n" + t).encode(),
    "utf-16": lambda t: t.encode("utf-16"),
    "not utf-8": lambda t: b"# \xff\n" + t.encode(),
    "nul": lambda t: t.encode() + b"# \0\n",
    "crlf": lambda t: t.replace("\n", "\r\n").encode(),
    "cr": lambda t: t.replace("\n", "\r").encode(),
    "mixed, crlf above": lambda t: b"# one\r\n# two\r\n" + t.encode(),
    "mixed, crlf below": lambda t: t.encode() + b"x = 1\r\ny = 2\r\n",
    "lone cr at the end": lambda t: t.encode() + b"x = 1\r",
    "lone cr in a comment": lambda t: b"# one\r# two\n" + t.encode(),
    "no final newline": lambda t: t.encode() + b"x = 1",
    "blank lines at the end": lambda t: t.encode() + b"\n\n\n",
    "spaces at the end": lambda t: t.encode() + b"x = 1  \n   ",
    "tabs": lambda t: t.replace("    ", "\t").encode(),
    "two spaces": lambda t: t.replace("    ", "  ").encode(),
    "form feed between": lambda t: b"x = 1\n\x0c\n" + t.encode(),
    "form feed before a statement": lambda t: t.encode() + b"\x0cx = 1\n",
    "non-ascii names": lambda t: re.sub(r"\bwei\b", "größe", t.replace("Head", "Köpfchen")).encode(),
    "line separators": lambda t: t.encode() + 'x = "\u2028\x85\x0b"\n'.encode(),
    "backslashes": lambda t: t.encode() + b"x = 1 + \\\n    2\n",
}
UNREADABLE = {"wrong cookie", "unknown cookie", "utf-16", "not utf-8", "nul"}
REFUSED = {"cr"}  # LibCST cannot print it as it was


@pytest.mark.parametrize("name", CASES)
def test_bytes_in_bytes_out(tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.py"
    before, after = CASES[name](OLD), CASES[name](NEW)
    file.write_bytes(before)
    code, error = finish(start(tmp_path / "state", "--no-verify", file))
    if name in UNREADABLE:
        assert code == 2 and len(error.splitlines()) == 1
        assert file.read_bytes() == before
    elif name in REFUSED:
        assert (code, error) == (3, "")
        assert file.read_bytes() == before
    else:
        assert (code, error) == (0, "")
        assert file.read_bytes() == after
