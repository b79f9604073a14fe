"""A sinusoid that is computed anew in each forward becomes the runtime's cached, offset-aware table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
)
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.liveness import unneeded
from migrator.recognise.positions import Sinusoid, carriers, encodings, sinusoids
from migrator.recognise.spelling import runtime_name


@dataclass(frozen=True)
class _Part:
    sinusoid: Sinusoid
    init: ast.stmt
    attribute: str
    assignment: str
    call: str
    dead: tuple[ast.stmt, ...]
    imports: Import


class PositionalEncodingToRuntime(Codemod):
    """x + sin(position / base ** (2 i / C)) -> self.encoding(x)."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "The table depends on the length alone, so it is computed once; an offset makes it fit cached decoding."
    reference = "Vaswani et al. 2017, Attention Is All You Need, section 3.5, arXiv 1706.03762"
    refusals = {
        "rounding": "the same sinusoid in another order of operations: its last bits would differ",
        "mutable-base": "the base of the sinusoid is assigned outside of `__init__`",
        "no-init": "the class has no `__init__` that could hold the table",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for sinusoid in sinusoids(index):
            yield _finding(index, sinusoid)
        for info in carriers(index).values():
            if encodings(info):
                forward = info.methods["forward"]
                place = Place(
                    info.name, info.definition.line(forward), (forward.end_lineno or 0) + info.definition.shift
                )
                yield Modern(place, "sinusoidal table is cached already")

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.sinusoid.owner.definition
        yield Insert(definition, part.init, part.assignment, "end")
        for statement in part.dead:
            yield Remove(definition, statement)
        assert part.sinusoid.total.node is not None
        yield Replace(definition, part.sinusoid.total.node, part.call)
        yield part.imports


def _finding(index: FileIndex, found: Sinusoid) -> Finding:
    info, node = found.owner, found.total.node
    assert node is not None
    place = Place(info.name, info.definition.line(node), (node.end_lineno or node.lineno) + info.definition.shift)
    obstacle = _obstacle(index, found)
    if obstacle is not None:
        code, seen, remedy = obstacle
        return Refusal(place, code, seen, remedy)
    attribute = next(
        n for n in ("encoding", "sinusoid", "sinusoidal_encoding") if n not in {*info.attributes, *info.methods}
    )
    spelling, imported = runtime_name(index, "SinusoidalPositionalEncoding")
    assert found.total.statement is not None
    x = found.flow.text_at(found.x, found.total.statement)
    part = _Part(
        found,
        info.methods["__init__"],
        attribute,
        f"self.{attribute} = {spelling}(base={_base(found)})",
        f"self.{attribute}({x})",
        tuple(unneeded(found.flow, found.total, [found.x])),
        imported,
    )
    return Site(place, "additive sinusoid -> cached table", Claim((info.name,), (info.name,)), part)


def _obstacle(index: FileIndex, found: Sinusoid) -> tuple[str, str, str] | None:
    info = found.owner
    if "__init__" not in info.methods:
        return "no-init", "the class has no `__init__` of its own", "give it one that calls super().__init__()"
    if isinstance(found.base, str) and _assigned_elsewhere(index, info, found.base):
        return "mutable-base", f"`{found.base}` is assigned outside of `__init__`", "assign it in `__init__` only"
    if not found.same_rounding:
        seen = "the table is a sinusoid, but not computed as u / base ** ((j - k) / C) + pi / 2 * k"
        return "rounding", seen, "keep it, or let phase 2 replace it by rotary positions"
    return None


def _assigned_elsewhere(index: FileIndex, info: ClassInfo, name: str) -> bool:
    if info.attribute(name) is None or name in info.stores_outside_init:
        return True
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store)
        for definition in index.definitions
        if definition is not info.definition and name in definition.text
        for node in ast.walk(definition.tree)
    )


def _base(found: Sinusoid) -> str:
    """The base as `__init__` can say it: the very expression that the attribute got, if that is a name or number."""
    if isinstance(found.base, float):
        return repr(int(found.base)) if found.base.is_integer() and found.base < 1e5 else repr(found.base)
    value = found.owner.attribute(found.base)
    if isinstance(value, ast.Name | ast.Constant):
        return ast.unparse(value)
    return f"self.{found.base}"
