"""Queries, keys and values come from one matmul; the parameters stay where they are."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import libcst as cst

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Edit,
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
from migrator.recognise.anatomy import Attention, Obstacle, Stop
from migrator.recognise.attention import attentions
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.projections import (
    Projection,
    blocks_of,
    check_fusible,
    fused_attribute,
    is_fused,
    products,
    projection,
)
from migrator.recognise.spelling import call, comment_behind, comments_above, free_name, runtime_name
from migrator.recognise.syntax import first_parameter, stored_names

_REMEDIES = {
    "not-fused": "bring the attention to softmax(q @ k.transpose(-2, -1) * scale + mask) @ v first",
    "not-linear": "make each of them with one nn.Linear in this method",
    "equation": 'write torch.einsum("btc,hdc->bhtd", x, self.w)',
    "different-inputs": "give the common input a name and project that",
    "reassigned": "assign it once, in `__init__`",
    "used-elsewhere": "leave the projections to this method alone",
    "subclassed": "give the subclass an attention of its own",
    "scripted": "use torch.compile",
    "view": "use reshape, or view(batch, seq_len, num_heads, head_dim)",
    "in-place": "make a new tensor, as in `q = q * scale`",
    "output-kept": "keep a clone of it",
    "conditional": "project them in plain statements of one block",
    "layout": "give the class an `__init__` of its own",
}


@dataclass(frozen=True)
class _Named:
    """A projection, the name that its result gets, and whether its statement does nothing but give it that name."""

    projection: Projection
    name: str
    bare: bool


@dataclass(frozen=True)
class _Part:
    edits: tuple[AnyEdit, ...]


class FusedQKV(Codemod):
    """q = self.query(x), k = self.key(x), v = self.value(x) -> q, k, v = self.qkv(x, self.query, ...)."""

    phase = Phase.ACCELERATION
    promise = Promise.EXACT
    rationale = "One matmul reads the input once; weights stay separate, so checkpoints and optimizer state still fit."
    reference = "Shoeybi et al. 2019, Megatron-LM, section 3, arXiv 1909.08053"
    formula = "[q k v] = x [W_q; W_k; W_v]^T"
    after = ("flash",)
    refusals = {
        "not-fused": "the attention itself was refused in phase 1",
        "not-linear": "queries, keys or values are no plain linear product",
        "equation": "a product is an einsum of other axes",
        "different-inputs": "the products see different inputs",
        "reassigned": "a weight is assigned twice, or under a condition",
        "used-elsewhere": "a projection is also used, hooked, tied or addressed by other code",
        "subclassed": "another class derives from the attention",
        "scripted": "the file compiles code with torch.jit.script",
        "view": "a result is viewed in a way that needs memory of its own",
        "in-place": "a result is changed in place",
        "output-kept": "a result is returned or stored",
        "conditional": "the products stand in different branches",
        "layout": "the place cannot be edited statement by statement",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        seen: set[object] = set()
        for found in attentions(index):
            owner = found.flow.owner
            if owner is None or not owner.is_module:
                continue
            place = Place.of(f"{owner.name}.{found.flow.function.name}", found.node, found.flow.definition)
            if isinstance(found, Obstacle):
                yield Refusal(place, "not-fused", "the attention is still spelled out", _REMEDIES["not-fused"])
                continue
            try:
                finding = _finding(index, owner, found, seen)
            except Stop as stop:
                finding = Refusal(place, stop.code, stop.seen, _REMEDIES[stop.code])
            if finding is not None:
                yield finding

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        yield from part.edits


def _finding(index: FileIndex, owner: ClassInfo, found: Attention, seen: set[object]) -> Finding | None:
    made = products(found)
    if frozenset(made) in seen:  # a second call on the same queries, keys and values
        return None
    seen.add(frozenset(made))
    if len(set(made)) < 3:
        place = Place.of(owner.name, made[-1].node or found.node, owner.definition)
        fused = any(is_fused(owner, value) for value in made)
        one = "projected together already" if fused else "keys and values come from one matmul already"
        return Modern(place, "one matmul already" if len(set(made)) == 1 and not fused else one)
    parts = _same_input([projection(owner, value) for value in made])
    check_fusible(index, owner, found, parts)
    return _site(index, owner, found, parts)


def _same_input(parts: list[Projection]) -> list[Projection]:
    """All three, or keys and values alone where the queries come from something else."""
    q, k, v = parts
    if k.source is not v.source:
        raise Stop("different-inputs", f"`{ast.unparse(k.node)}` and `{ast.unparse(v.node)}` see different values")
    return parts if q.source is k.source else [k, v]


# --- the rewritten text ---------------------------------------------------------------------------------------------


def _site(index: FileIndex, owner: ClassInfo, found: Attention, parts: list[Projection]) -> Site:
    what = "queries, keys and values" if len(parts) == 3 else "keys and values"
    message = f"{what} -> one matmul ({', '.join(part.attribute for part in parts)})"
    first = min(parts, key=lambda part: (part.node.lineno, part.node.col_offset))
    place = Place.of(f"{owner.name}.{found.flow.function.name}", first.statement, owner.definition)
    attribute, assignment, imports = _module(index, owner, "qkv" if len(parts) == 3 else "kv")
    edits: list[AnyEdit] = [imports]
    if assignment:
        edits.append(Insert(owner.definition, owner.methods["__init__"], assignment, "end"))
    edits += _forward_edits(index, found, parts, first, f"{found.flow.self_name}.{attribute}")
    return Site(place, message, Claim((owner.name,), (owner.name,)), _Part(tuple(edits)))


def _module(index: FileIndex, owner: ClassInfo, wish: str) -> tuple[str, str, Import]:
    """The attribute that holds the FusedProjection, its assignment if there is none yet, and the import."""
    spelling, imports = runtime_name(index, "FusedProjection")
    present = fused_attribute(owner)
    if present:
        return present, "", imports
    read = {node.attr for node in ast.walk(owner.node) if isinstance(node, ast.Attribute)}
    taken = {*owner.methods, *stored_names(owner.node.body), *read}
    attribute = next(name for name in (wish, f"{wish}_projection", f"fused_{wish}") if name not in taken)
    return attribute, f"{first_parameter(owner.methods['__init__'])}.{attribute} = {spelling}()", imports


def _forward_edits(
    index: FileIndex, found: Attention, parts: list[Projection], first: Projection, function: str
) -> Iterator[AnyEdit]:
    definition, statement = found.flow.definition, first.statement
    order = _in_order_of_tuple(parts, statement)
    given = next(node for node in reversed(first.node.args) if node is not first.weight)
    arguments = [definition.source(node) for node in (given, *(part.weight for part in order or parts))]
    if order is not None and isinstance(statement, ast.Assign):
        prefix = f"{definition.source(statement.targets[0])} = "
        fused = call(function, arguments, prefix=prefix, indent=statement.col_offset)
        yield Replace(definition, statement.value, fused[len(prefix) :])
        return
    named = _named(index, found, parts, first)
    prefix = f"{', '.join(one.name for one in named)} = "
    behind = ["", *(comment_behind(definition, one.projection.statement) if one.bare else "" for one in named)]
    fused = call(function, arguments, prefix=prefix, indent=statement.col_offset, behind=behind)
    yield from _comments(found, first, [one for one in named if one.bare])
    replaced = any(one.bare and one.projection is first for one in named)
    yield Replace(definition, statement, fused) if replaced else Insert(definition, statement, fused, "before")
    for one in named:
        if not one.bare:
            yield Replace(definition, one.projection.node, one.name)
        elif one.projection is not first:
            yield Remove(definition, one.projection.statement)


def _comments(found: Attention, first: Projection, bare: list[_Named]) -> Iterator[AnyEdit]:
    """What is said above statements that go moves to the fused call, or stays where others stand between.

    What is said behind them stands behind their weights in the call.
    """
    definition = found.flow.definition
    gone = [one.projection.statement for one in bare if one.projection is not first]
    together = {first.statement, *gone}
    block = next(block for block in blocks_of(found.flow.function) if first.statement in block)
    above: list[str] = []
    for statement in (one for one in block if one in gone):
        place = block.index(statement)
        comments = comments_above(definition, statement)
        following = next((one for one in block[place:] if one not in together), None)
        if block[place - 1] in together:
            above += comments
        elif comments and following is not None:
            yield Edit(definition, following, _commented(comments, at_first=True))
    moved = any(one.projection is first for one in bare) and comment_behind(definition, first.statement)
    if above or moved:
        yield Edit(definition, first.statement, _commented(above, moved=bool(moved)))


def _commented(
    above: list[str], *, at_first: bool = False, moved: bool = False
) -> Callable[[cst.CSTNode], cst.CSTNode]:
    """Puts comments above a statement, before or after those that it has; its own has `moved` from behind it."""

    def change(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)
        more = [cst.EmptyLine(comment=cst.Comment(comment)) for comment in above]
        lines = [*more, *node.leading_lines] if at_first else [*node.leading_lines, *more]
        if moved and isinstance(node, cst.SimpleStatementLine):
            node = node.with_changes(
                trailing_whitespace=cst.TrailingWhitespace(newline=node.trailing_whitespace.newline)
            )
        return node.with_changes(leading_lines=lines)

    return change


def _in_order_of_tuple(parts: list[Projection], statement: ast.stmt) -> list[Projection] | None:
    """The projections as `q, k, v = self.q(x), self.k(x), self.v(x)` has them, if a statement is all of that."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Tuple):
        return None
    by_node = {id(part.node): part for part in parts}
    order = [by_node.get(id(element)) for element in statement.value.elts]
    known = [part for part in order if part is not None]
    return known if len(known) == len(order) == len(parts) else None


def _named(index: FileIndex, found: Attention, parts: list[Projection], first: Projection) -> list[_Named]:
    named: list[_Named] = []
    wishes = (("q", "queries"), ("k", "keys"), ("v", "values"))[-len(parts) :]
    for part, wish in zip(parts, wishes, strict=True):
        name, bare = _target(part)
        if name not in {"", *(one.name for one in named)} and _is_free(found, part, first, name):
            named.append(_Named(part, name, bare))
        else:
            named.append(_Named(part, free_name(index, found.flow.definition, *wish), False))
    return named


def _target(part: Projection) -> tuple[str, bool]:
    """The name that gets the projection or what is made of it, and whether that is the projection itself.

    `k` of `k = self.k(x).transpose(1, 2)`, and of `q, k = self.q(x), self.k(x)`.
    """
    statement = part.statement
    if isinstance(statement, ast.AnnAssign):
        target: ast.expr = statement.target
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    else:
        return "", False
    if isinstance(target, ast.Name):
        return target.id, statement.value is part.node
    if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
        for element, value in zip(target.elts, statement.value.elts, strict=False):
            if isinstance(element, ast.Name) and any(node is part.node for node in ast.walk(value)):
                return element.id, False
    return "", False


def _is_free(found: Attention, part: Projection, first: Projection, name: str) -> bool:
    """Whether nothing needs the name for something else from the first projection to the part's own statement."""
    end = part.statement.end_lineno or part.statement.lineno
    for node in ast.walk(found.flow.function):
        if isinstance(node, ast.Name) and node.id == name and first.statement.lineno <= node.lineno <= end:
            own = node.lineno >= part.statement.lineno and isinstance(node.ctx, ast.Store)
            if not own:
                return False
    return True
