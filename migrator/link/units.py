"""Which files are read as one: those whose modules are built of one another's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from migrator.link.conflicts import conflict
from migrator.link.siblings import Borrowed, Member, Siblings
from migrator.read.packages import INIT
from migrator.read.source import Source
from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import FunctionNode, answer

_TENSORS = re.compile(r"\b(torch|nn|F)\b")
_MOST_FILES = 24
_MOST_LINES = 12_000


@dataclass(frozen=True)
class Unit:
    """Files that are planned and proved as one.

    Args:
        given: the files that may be changed.
        siblings: finds what a file of the unit imports.
        members: each after those that it imports from; there are none for a file that is read by itself. Some may
            belong to other units, and are only read.
        apart: for a file of the unit, why another one that imports from it is not read together with it.
    """

    given: tuple[Source, ...]
    siblings: Siblings
    members: tuple[Member, ...] = ()
    apart: tuple[Apart, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        """For another process: the texts, which are parsed there anew."""
        return _restored, (self.given, tuple(member.source for member in self.members), self.apart)


def _restored(given: tuple[Source, ...], sources: tuple[Source, ...], apart: tuple[Apart, ...]) -> Unit:
    siblings = Siblings(sources or given)
    members = (siblings.member(source.target) for source in sources)
    return Unit(given, siblings, tuple(member for member in members if member is not None), apart)


@dataclass(frozen=True)
class Apart:
    """`importer` takes `name` from `origin`, and is not read together with it."""

    origin: Path
    importer: Path
    line: int
    name: str
    why: str


def units(sources: Sequence[Source], others: Sequence[Source] = ()) -> list[Unit]:
    """Every file of `sources` in exactly one unit, in the order of the files.

    Args:
        others: more files that may be changed, in which nothing is to be found unless they belong to one of `sources`.
    """
    siblings = Siblings([*sources, *others])
    groups = _Groups(siblings)
    for source in [*filter(siblings.may_import, sources), *_users(siblings, sources, others)]:
        member = siblings.member(source.target)
        if member is not None and member.has_modules:
            groups.follow(member)
    return list(_in_order(groups, sources, others))


def _users(siblings: Siblings, sources: Sequence[Source], others: Sequence[Source]) -> Iterator[Source]:
    """Those of `others` that import one of `sources`, directly or by a package that one stands in."""
    inside = {source.target for source in sources}
    inside |= {source.target.parent / INIT for source in sources}
    for source in others:
        if any(path in inside for path in siblings.imported_files(source)):
            yield source


def _in_order(groups: _Groups, sources: Sequence[Source], others: Sequence[Source]) -> Iterator[Unit]:
    done: set[Path] = set()
    for source in sources:
        if source.target in done:
            continue
        group = groups.of.get(source.target, [])
        inside = {source.target, *(member.path for member in group)}
        given = tuple(other for other in (*sources, *others) if other.target in inside)
        done |= inside
        apart = tuple(row for row in groups.apart if row.origin in inside)
        members = groups.with_context(group)
        yield Unit(given, groups.siblings, tuple(groups.ordered(members)) if len(members) > 1 else (), apart)


@dataclass
class _Groups:
    """Grows groups of files along their imports, as long as they can be read as one."""

    siblings: Siblings
    of: dict[Path, list[Member]] = field(default_factory=dict)
    apart: list[Apart] = field(default_factory=list)
    _followed: set[Path] = field(default_factory=set)
    _tried: dict[frozenset[Path], str] = field(default_factory=dict)

    def follow(self, member: Member) -> None:
        """Join a file with those whose parts it uses, and these with theirs."""
        if member.path in self._followed:
            return
        self._followed.add(member.path)
        self.of.setdefault(member.path, [member])
        for borrowed in self.siblings.borrowed(member):
            if _is_part(borrowed, member):
                self.of.setdefault(borrowed.origin.path, [borrowed.origin])
                self._join(member, borrowed)
                self.follow(borrowed.origin)

    def _join(self, member: Member, borrowed: Borrowed) -> None:
        ours, theirs = self.of[member.path], self.of[borrowed.origin.path]
        if ours is theirs:
            return
        together = [*ours, *theirs]
        tried = frozenset(one.path for one in together)
        if tried not in self._tried:
            self._tried[tried] = self._obstacle(together)
        why = self._tried[tried] if borrowed.local == borrowed.name else f"it calls it `{borrowed.local}`"
        if why:
            line = borrowed.definition.line(borrowed.node)
            self.apart.append(Apart(borrowed.origin.path, member.path, line, borrowed.name, why))
            return
        for one in together:
            self.of[one.path] = together

    def with_context(self, group: list[Member]) -> list[Member]:
        """The group, and files of other groups that it uses, as far as that goes; these stay as they are."""
        members = list(group)
        for row in self.apart:
            origin = self.siblings.known(row.origin)
            if origin is not None and any(member.path == row.importer for member in group):
                for more in (self._closure(origin), [origin]):
                    new = [member for member in more if member not in members]
                    if new and not self._obstacle([*members, *new]):
                        members += new
        return members

    def _closure(self, member: Member) -> list[Member]:
        """A file and all that its modules are made of."""
        found = [member]
        for one in found:
            parts = (b.origin for b in self.siblings.borrowed(one) if _is_part(b, one))
            found += [origin for origin in parts if origin not in found]
        return found

    def _obstacle(self, members: list[Member]) -> str:
        """Why files cannot be read as one, or nothing."""
        lines = sum(member.source.text.count("\n") for member in members)
        if len(members) > _MOST_FILES or lines > _MOST_LINES:
            return f"{len(members)} files of {lines:,} lines would have to be read as one"
        if self._order(members) is None:
            return "the files import one another in a circle"
        return conflict(self.siblings, members)

    def ordered(self, members: list[Member]) -> list[Member]:
        """Each after those that it imports from."""
        order = self._order(members)
        assert order is not None  # or they had not been joined
        return order

    def _order(self, members: list[Member]) -> list[Member] | None:
        needs = {member: self._needs(member, members) for member in members}
        order: list[Member] = []
        while needs:
            ready = sorted((m for m, wanted in needs.items() if not wanted & needs.keys()), key=lambda m: m.path)
            if not ready:
                return None
            order.append(ready[0])
            del needs[ready[0]]
        return order

    def _needs(self, member: Member, members: list[Member]) -> set[Member]:
        files = {self.siblings.file_of(member, node) for _, node in member.imports}
        origins = {id(borrowed.origin) for borrowed in self.siblings.borrowed(member)}
        return {other for other in members if other is not member and (other.path in files or id(other) in origins)}


def _is_part(borrowed: Borrowed, member: Member) -> bool:
    """Whether a file's modules are made of what it takes from another: a module, or a function that they call."""
    made = borrowed.origin.defines(borrowed.name)
    if borrowed.local not in member.words_of_definitions:
        return False
    if isinstance(made, ClassInfo):
        return made.is_module or "forward" in made.methods or _is_base(borrowed.local, member)
    if made is None or not isinstance(made.tree, FunctionNode):
        return False
    return _TENSORS.search(made.text) is not None or answer(made.tree) is not None


def _is_base(name: str, member: Member) -> bool:
    bases = (base for info in member.index.classes.values() for base in info.node.bases)
    return any(isinstance(base, ast.Name) and base.id == name for base in bases)
