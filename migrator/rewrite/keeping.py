"""`# migrate: keep(CODEMOD) reason`: what a user wants to stay as it is.

The comment stands on the line of a `class` or `def`, directly above it, or first in its body. It keeps what the codemod
would change or refuse there, and any change that spans several classes if its own class is one of them: such a change
is made as a whole or not at all.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from migrator.codemod import Finding, Modern, Place, Refusal, Site
from migrator.recognise.index import FileIndex
from migrator.recognise.syntax import split_lines
from migrator.rewrite.registry import check_names, names

_MARK = "migrate:"
_COMMENT = re.compile(r"#\s*migrate:\s*(.*?)\s*$")
_KEEP = re.compile(r"keep\s*\(([\w\s,]*)\)[\s:,-]*(.*)$")
_Owner = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Keep:
    """One comment: `place` is the definition that it is about; `top` the top-level definition around that."""

    codemods: tuple[str, ...]
    reason: str
    place: Place
    top: str

    def covers(self, finding: Finding) -> bool:
        """Whether a finding is about this definition, or would change it among others."""
        where = finding.place
        if where.line <= self.place.end_line and self.place.line <= where.end_line:
            return not isinstance(finding, Modern)
        elsewhere = not where.symbol.startswith(f"{self.top}.")  # else it is about another method of the same class
        return isinstance(finding, Site) and elsewhere and self.top in finding.claim.definitions


@dataclass(frozen=True)
class Kept:
    """A finding that stays as it is, because the user said so."""

    place: Place
    code: str | None
    message: str

    @classmethod
    def of(cls, finding: Finding, keep: Keep) -> Kept:
        code, seen = (finding.code, finding.seen) if isinstance(finding, Refusal) else (None, finding.message)
        where = f" (on {keep.place.symbol})" if keep.place.symbol not in finding.place.symbol else ""
        return cls(finding.place, code, f"{seen}; kept{where}: {keep.reason or 'no reason given'}")


@dataclass
class Keeping:
    """What the comments of one file keep, over all passes; the text around them changes from pass to pass.

    `left_out` holds (codemod, symbol) of findings that are left for other reasons, in this run only.
    """

    original: FileIndex
    left_out: frozenset[tuple[str, str]] = frozenset()
    kept: dict[str, list[Kept]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    _used: set[tuple[str, str]] = field(default_factory=set)
    _read: tuple[FileIndex, tuple[Keep, ...]] | None = None

    def without_kept(self, codemod: str, index: FileIndex, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that nobody wants to keep; the others are in `kept` from now on."""
        self.ran.add(codemod)
        keeps = [keep for keep in self._keeps(index) if codemod in keep.codemods]
        left: list[Finding] = []
        self.kept[codemod] = []
        for finding in findings:
            if isinstance(finding, Site) and (codemod, finding.place.symbol) in self.left_out:
                self.kept[codemod].append(Kept(finding.place, None, f"{finding.message}; left as it is in this run"))
                continue
            keep = next((keep for keep in keeps if keep.covers(finding)), None)
            if keep is None:
                left.append(finding)
                continue
            self._used.add((keep.place.symbol, codemod))
            self.kept[codemod].append(Kept.of(finding, keep))
        return left

    def complaints(self) -> Iterator[Refusal]:
        """What is wrong with the comments themselves. Of codemods that did not run nothing can be said."""
        for place, text in _comments(self.original):
            match = _KEEP.match(text)
            if match is None or not match[1].strip():
                remedy = "write `# migrate: keep(CODEMOD) reason`"
                yield Refusal(place, "keep-unclear", f"`migrate: {text}` is not understood", remedy)
            elif not place.symbol:
                remedy = "put it on the line of the `class` or `def`, or directly above that"
                yield Refusal(place, "keep-misplaced", f"`{text}` stands at no class and no function", remedy)
            elif not match[2]:
                yield Refusal(place, "keep-without-reason", f"`{text}` gives no reason", "say why, behind the bracket")
        for keep in self._keeps(self.original):
            yield from self._complaints(keep)

    def _complaints(self, keep: Keep) -> Iterator[Refusal]:
        for name in keep.codemods:
            if name not in names():
                yield Refusal(keep.place, "keep-unknown", _unknown(name), "correct the name in the comment")
            elif name in self.ran and (keep.place.symbol, name) not in self._used:
                yield Refusal(keep.place, "keep-nothing", f"`keep({name})` keeps nothing", "remove it")

    def _keeps(self, index: FileIndex) -> tuple[Keep, ...]:
        if self._read is None or self._read[0] is not index:
            self._read = (index, tuple(_keeps(index)))
        return self._read[1]


def _unknown(name: str) -> str:
    try:
        check_names([name])
    except ValueError as error:
        return str(error)
    raise AssertionError(name)


def _keeps(index: FileIndex) -> Iterator[Keep]:
    for place, text in _comments(index):
        match = _KEEP.match(text)
        if match is not None and place.symbol:
            codemods = tuple(name.strip() for name in match[1].split(",") if name.strip())
            yield Keep(codemods, match[2], place, place.symbol.partition(".")[0])


def _comments(index: FileIndex) -> Iterator[tuple[Place, str]]:
    """Every comment to us, and the place of the definition that it is about; without a symbol if there is none."""
    if _MARK not in index.source:
        return
    owners = _owners(index)
    alone: dict[int, bool] = {}
    for token in reversed(_comment_tokens(index.source)):
        line = token.start[0]
        alone[line] = not token.line[: token.start[1]].strip()
        match = _COMMENT.match(token.string)
        if match is not None:
            below = line
            while alone.get(below):
                below += 1
            yield owners.get(line) or owners.get(below) or Place("", line, line), match[1]


def _comment_tokens(source: str) -> list[tokenize.TokenInfo]:
    lines = iter(split_lines(source))
    tokens = tokenize.generate_tokens(lambda: next(lines, ""))
    return [token for token in tokens if token.type == tokenize.COMMENT]


def _owners(index: FileIndex) -> Mapping[int, Place]:
    """The definition whose head, decorators included, is on a line; the lines up to its first statement count too."""
    owners: dict[int, Place] = {}

    def visit(node: _Owner, prefix: str, shift: int) -> None:
        symbol = prefix + node.name
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        place = Place(symbol, first + shift, (node.end_lineno or node.lineno) + shift)
        for line in range(first, max(node.lineno + 1, node.body[0].lineno)):
            owners[line + shift] = place
        for child in node.body:
            if isinstance(child, _Owner):
                visit(child, symbol + ".", shift)

    for definition in index.definitions:
        if isinstance(definition.tree, _Owner):
            visit(definition.tree, "", definition.shift)
    return owners
