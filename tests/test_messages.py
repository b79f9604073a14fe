"""Whatever the tool can say of an error or a refusal is read by some test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("migrator", "codemods") for path in (ROOT / name).rglob("*.py"))
ERRORS = {"MigrateError", "Unfinished"}  # (code, cause, ...)
OTHERS = {"BadParameter", "UsageError", "BoxError", "ProtocolError"}  # (cause, ...)
CODE_AT = {**dict.fromkeys(ERRORS, 0), "Stop": 0, "Refusal": 1, "Obstacle": 2, "Outcome": 4}
ENOUGH = 3  # words in a row that a test has to quote


@dataclass(frozen=True)
class Message:
    """What an error says: its own words, in pieces between those that are filled in."""

    where: str
    pieces: tuple[str, ...]

    def read(self, quoted: str) -> bool:
        return any(run in quoted for piece in self.pieces for run in _runs(piece))


def _runs(piece: str) -> Iterator[str]:
    words = piece.split()
    for start in range(max(1, len(words) - ENOUGH + 1)):
        yield " ".join(words[start : start + ENOUGH])


def _calls(names: set[str]) -> Iterator[tuple[Path, ast.AST, ast.Call]]:
    """(file, function around it, call) for each call of one of these names."""
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
                around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                yield path, max(around, key=lambda f: f.lineno, default=tree), node


def _pieces(node: ast.expr, scope: ast.AST, line: int) -> Iterator[str]:
    """The literal parts of a text; a local name stands for what it was given last above."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value.strip()
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _pieces(value, scope, line) if isinstance(value, ast.Constant) else ()
    elif isinstance(node, ast.IfExp):
        yield from (*_pieces(node.body, scope, line), *_pieces(node.orelse, scope, line))
    elif isinstance(node, ast.Name):
        given = [n for n in ast.walk(scope) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == node.id]
        above = [n for n in given if n.lineno < line]
        if above:
            yield from _pieces(max(above, key=lambda n: n.lineno).value, scope, line)


def messages() -> Iterator[Message]:
    for path, scope, call in _calls(ERRORS | OTHERS):
        place = int(ast.unparse(call.func).rpartition(".")[2] in ERRORS)
        for cause in call.args[place : place + 1]:
            pieces = tuple(piece for piece in _pieces(cause, scope, call.lineno) if len(piece.split()) > 1)
            if pieces:
                yield Message(f"{path.relative_to(ROOT)}:{call.lineno}", pieces)


def codes() -> Iterator[tuple[str, str]]:
    for path, _, call in _calls(set(CODE_AT)):
        for node in call.args[CODE_AT[ast.unparse(call.func).rpartition(".")[2]] :][:1]:
            for code in re.findall(r"'([a-z]+(?:-[a-z0-9]+)*)'", ast.unparse(node)):
                yield f"{path.relative_to(ROOT)}:{call.lineno}", code


@pytest.fixture(scope="module")
def quoted() -> str:
    """All strings in tests, and all reports of fixtures, as one text with single spaces."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "fixtures").rglob("report.txt")]
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        texts += [
            v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values if isinstance(v, str | bytes)
        ]
    return " ".join("\n".join(texts).split())


def test_there_is_something_to_read() -> None:
    assert len(list(messages())) > 80 and len(list(codes())) > 100


def test_every_error_message_has_a_test_that_reads_it(quoted: str) -> None:
    unread = [f"{message.where}: {' ... '.join(message.pieces)}" for message in messages() if not message.read(quoted)]
    assert not unread, "\n".join(unread)


def test_every_code_has_a_test_or_a_fixture_that_names_it(quoted: str) -> None:
    unread = {f"{where}: {code}" for where, code in codes() if not re.search(rf"(?<![\w-]){code}(?![\w-])", quoted)}
    assert not unread, "\n".join(sorted(unread))
