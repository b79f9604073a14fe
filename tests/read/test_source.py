"""Bytes and text: what comes in goes out again, and what is no Python source is said to be none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.errors import MigrateError
from migrator.read.source import SIZE_LIMIT, decode, parse, read

F = Path("f.py")


def code_of(data: bytes) -> tuple[str, int | None]:
    with pytest.raises(MigrateError) as caught:
        decode(F, data)
    return caught.value.code, caught.value.line


@pytest.mark.parametrize(
    ("data", "text", "encoding", "crlf"),
    [
        (b"", "", "utf-8", False),
        (b"x = 1", "x = 1", "utf-8", False),
        ("s = 'π'\n".encode(), "s = 'π'\n", "utf-8", False),
        (b"\xef\xbb\xbfx = 1\r\n", "x = 1\n", "utf-8-sig", True),
        (b"# -*- coding: latin-1 -*-\ns = '\xe9'\n", "# -*- coding: latin-1 -*-\ns = 'é'\n", "iso-8859-1", False),
        (b"a\r\nb\r\n", "a\nb\n", "utf-8", True),
        (b"a\r\nb\n", "a\r\nb\n", "utf-8", False),
        (b"a\r\nb\rc\r\n", "a\r\nb\rc\r\n", "utf-8", False),
        (b"a\rb\r", "a\rb\r", "utf-8", False),
    ],
)
def test_text_is_what_python_reads_and_goes_back_to_the_same_bytes(
    data: bytes, text: str, encoding: str, crlf: bool
) -> None:
    source = decode(F, data)
    assert (source.text, source.encoding, source.crlf) == (text, encoding, crlf)
    assert source.encode(source.text) == data


@given(st.text(st.sampled_from("ab\r\n\x0c\x1c\u2028é#'\"")), st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]))
def test_every_accepted_file_survives_the_round_trip(text: str, encoding: str) -> None:
    cookie = "# coding: latin-1\n" if encoding == "latin-1" else ""
    data = (cookie + text).encode(encoding, "ignore")
    source = decode(F, data)
    assert source.encode(source.text) == data


def test_new_lines_get_the_files_line_ends() -> None:
    assert decode(F, b"a\r\n").encode("a\nb\n") == b"a\r\nb\r\n"


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"a = 1\ns = '\xe9'\n", "encoding", 2),
        (b"s = '\xe9'\n", "encoding", 1),
        (b"\n\n\n# \xff\n", "encoding", 4),
        (b"# coding: klingon\n", "encoding", None),
        (b"# coding: rot13\n", "encoding", None),
        (b"# coding: utf-8\n\nx = '\x80'", "encoding", 3),
        (b"\xef\xbb\xbf# coding: latin-1\n", "encoding", None),
        (b"# coding: utf-7\nx = '+AGE-'\n", "encoding", None),
        (b"x = 1\n\0", "nul-bytes", 2),
        ("x = 1\n".encode("utf-16-le"), "nul-bytes", 1),
    ],
)
def test_what_is_not_text_is_said_in_one_line(data: bytes, code: str, line: int | None) -> None:
    assert code_of(data) == (code, line)


def test_an_encoding_that_has_two_ways_to_say_it() -> None:
    with pytest.raises(MigrateError, match="the file does not survive a round trip through utf-7, which it declares"):
        decode(F, b"# coding: utf-7\nx = '+AGE-'\n")


def test_message_has_file_line_code_cause_and_remedy() -> None:
    with pytest.raises(MigrateError) as caught:
        decode(F, b"a = 1\ns = '\xe9'\n")
    message = str(caught.value)
    assert message.startswith("f.py:2: encoding: byte 0xe9 is not valid UTF-8; save the file as UTF-8")
    assert "\n" not in message


def test_character_that_the_files_encoding_lacks() -> None:
    source = decode(F, b"# coding: latin-1\n")
    with pytest.raises(MigrateError, match="does not exist in iso-8859-1"):
        source.encode("# coding: latin-1\n# π\n")


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("x = (\n", "syntax-error", 1),
        ("a = 1\ndef f(:\n", "syntax-error", 2),
        ("if 1:\nx\n", "syntax-error", 2),
        ("print 1\n", "syntax-error", 1),
        ("x = " + "[" * 300 + "]" * 300 + "\n", "too-deep", 1),
        ("x = " + "(" * 3000 + ")" * 3000 + "\n", "too-deep", 1),
        ("x = " + "+".join(["a"] * 20_000) + "\n", "too-deep", None),
    ],
)
def test_what_python_does_not_parse(text: str, code: str, line: int | None) -> None:
    with pytest.raises(MigrateError) as caught:
        parse(F, text)
    assert (caught.value.code, caught.value.line) == (code, line)
    if code == "too-deep":
        nested = "more than 200 nested brackets, the limit of Python itself"
        assert caught.value.cause in (nested, "an expression is nested too deeply for Python's own parser")


def test_two_hundred_brackets_are_fine() -> None:
    parse(F, "x = " + "[" * 200 + "]" * 200 + "\n")


def test_the_parsers_warnings_are_not_the_users(recwarn: pytest.WarningsRecorder) -> None:
    parse(F, "import re\nre.compile('\\d')\nx = 1 is 1\n")
    assert not recwarn.list


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    (tmp_path / "link.py").symlink_to("a.py")
    source = read(tmp_path / "link.py")
    assert source.data == b"x = 1\n"
    assert source.path == tmp_path / "link.py"
    assert source.target == (tmp_path / "a.py").resolve()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_bytes(b"#" * SIZE_LIMIT + b"\n")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "loop.py").symlink_to("loop.py")
    codes = {}
    said = ("larger than 5 MB", "this is no regular file", "cannot be read (Too many levels", "there is no such file")
    for name in ("big.py", "pipe.py", "loop.py", "none.py"):
        with pytest.raises(MigrateError) as caught:
            read(tmp_path / name)
        codes[name] = caught.value.code
        assert caught.value.cause.startswith(said)
        assert caught.value.exit_code == 2
    assert codes == {"big.py": "too-large", "pipe.py": "not-a-file", "loop.py": "unreadable", "none.py": "no-such-file"}


def test_five_megabytes_are_fine(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_bytes(b"#" * (SIZE_LIMIT - 1) + b"\n")
    assert len(read(tmp_path / "big.py").data) == SIZE_LIMIT
