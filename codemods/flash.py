"""Masks that only hide the future become `causal=True`, which the fused kernels know without a mask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Edit,
    Finding,
    Import,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
)
from migrator.recognise.anatomy import Attention, Stop
from migrator.recognise.attention import attentions
from migrator.recognise.branches import is_only_statement, settled_branch
from migrator.recognise.buffers import is_saved
from migrator.recognise.index import FileIndex
from migrator.recognise.lengths import same_length
from migrator.recognise.liveness import unneeded
from migrator.recognise.spelling import call, parenthesised, runtime_name
from migrator.recognise.triangles import Reading, Term, is_boolean_mask, read_bias, read_mask
from migrator.recognise.values import Value

if TYPE_CHECKING:
    import libcst as cst

_REMEDIES = {
    "shape": "pass causal=True for the past, and as `mask` what else is to be hidden",
    "window": "a window needs its dense mask; nothing is wrong with it but its memory",
    "length": "slice it with the sequence length, `T = x.size(1)`, that queries and keys are made of",
    "alignment": "call the runtime's attention with causal=True, which ends at the last key",
    "buffer": "build the mask from data in forward, or from torch.tril in `__init__`",
    "written": "leave the buffer alone, or pass causal=True yourself",
    "handed-in": "pass causal=True where it hides the future, and hand in the padding alone",
    "conditional": "decide before the call, and pass causal=the_condition",
    "fill": "hide padding with float('-inf') too",
    "layout": "give the mask a name of its own, and put comments above the call",
}


@dataclass(frozen=True)
class _Part:
    call: Attention
    code: str
    dead: tuple[ast.stmt, ...]
    branch: ast.If | None = None  # of which only the call's side stays
    imported: Import | None = None


class Flash(Codemod):
    """attention(q, k, v, mask=self.bias[:, :, :T, :T] != 0) -> attention(q, k, v, causal=True)."""

    phase = Phase.ACCELERATION
    promise = Promise.EXACT
    rationale = "A fused kernel that knows the mask needs no mask in memory: attention grows with T and not with T * T."
    reference = "Dao et al. 2022, FlashAttention, arXiv 2205.14135"
    formula = "hidden[m, n] = n > m + S - T, which `causal=True` says without a (T, S) tensor"
    refusals = {
        "shape": "the mask holds a triangle that is shifted, not square, or turned around",
        "window": "the mask compares places in another way than the causal one",
        "length": "it is not certain that the triangle is as long as queries and keys",
        "alignment": "keys may outnumber queries, and torch aligns `is_causal` differently",
        "buffer": "the mask comes from a tensor that the file does not spell out as a triangle",
        "written": "something may change the buffer of the triangle",
        "handed-in": "the mask is an argument, and it cannot be told what is in it",
        "conditional": "the mask is there under a condition",
        "fill": "the triangle adds -inf where the padding fills in a number, and rows may have no key left",
        "layout": "the place cannot be edited",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        fused = [one for one in attentions(index) if isinstance(one, Attention) and one.kind != "legacy"]
        branches = {one: settled_branch(index, one) for one in fused}
        settled = [branch for one, branch in branches.items() if branch is not None and _goes_alone(one, branch)]
        for found, branch in branches.items():
            place = _place(found)
            try:
                if branch is not None and branch in settled and _goes_alone(found, branch):
                    yield _without_branch(index, found, branch, place)
                elif branch not in settled:
                    yield _finding(index, found, place)
            except Stop as stop:
                yield Refusal(place, stop.code, stop.seen, _REMEDIES[stop.code])

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.call.flow.definition
        for statement in part.dead:
            yield Remove(definition, statement)
        yield Replace(definition, part.call.node, part.code)
        if part.branch is not None and part.imported is not None:
            yield Edit(definition, part.branch, _side_that_runs)
            yield part.imported


def _place(found: Attention) -> Place:
    owner, function = found.flow.owner, found.flow.function
    return Place.of(f"{owner.name}.{function.name}" if owner else function.name, found.node, found.flow.definition)


def _finding(index: FileIndex, found: Attention, place: Place) -> Finding:
    masks = _masks(found)
    if not masks:
        causal = _argument(found, "causal", "is_causal")
        what = "no mask" if causal is None or causal.is_const(False) else "the future is hidden without a mask"
        return Modern(place, f"{what}: the fused kernels can run")
    readings = {keyword: _read(index, found, keyword, value) for keyword, value in masks.items()}
    if not any(reading.causal for reading in readings.values()):
        for reading in readings.values():
            if reading.doubt is not None:
                raise reading.doubt
        return Modern(place, "dense mask: memory-efficient kernels can run, memory grows with the mask")
    if found.kind == "sdpa" and any(reading.rest for reading in readings.values()):
        return Modern(place, "dense mask, causal and more: it has to stay one for scaled_dot_product_attention")
    _check(found, readings)
    part = _part(found, readings)
    buffers = [name for reading in readings.values() for name in reading.buffers]
    name = found.flow.definition.name
    claim = Claim((name,), (name,) if found.owner is not None else ())
    keyword = "is_causal" if found.kind == "sdpa" else "causal"
    return Site(place, f"a triangle as mask -> {keyword}=True{_kept(found, buffers)}", claim, part)


def _kept(found: Attention, buffers: list[str]) -> str:
    """What becomes of the tensor that held the triangle."""
    if not buffers or found.owner is None:
        return ""
    why = ", so that old checkpoints load" if is_saved(found.owner, buffers[0]) else ""
    return f"; the call reads `self.{buffers[0]}` no more, and it stays{why}"


def _masks(found: Attention) -> dict[str, Value]:
    """The masks of a call by keyword; "mask" is boolean and "bias" is added."""
    given = {name: _argument(found, name) for name in (("attn_mask",) if found.kind == "sdpa" else ("mask", "bias"))}
    return {name: value for name, value in given.items() if value is not None and not value.is_const(None)}


def _argument(found: Attention, *names: str) -> Value | None:
    places = {"attn_mask": 3, "dropout_p": 4, "is_causal": 5} if found.kind == "sdpa" else {}
    values = (found.output.argument(places.get(name, 99), name) for name in names)
    return next((value for value in values if value is not None), None)


def _read(index: FileIndex, found: Attention, keyword: str, value: Value) -> Reading:
    if value.op == "phi" and any(read.causal for read in _readable(index, found, keyword, value.args[1:])):
        raise Stop("conditional", "the triangle is used under a condition", value.node)
    boolean = keyword == "mask" or (keyword == "attn_mask" and is_boolean_mask(index, found, value))
    return read_mask(index, found, value) if boolean else read_bias(index, found, value)


def _readable(index: FileIndex, found: Attention, keyword: str, values: tuple[Value, ...]) -> Iterator[Reading]:
    for value in values:
        try:
            yield _read(index, found, keyword, value)
        except Stop:
            continue


def _check(found: Attention, readings: dict[str, Reading]) -> None:
    """A triangle of -inf, or for torch's own function, is `causal=True` only under conditions."""
    q, k = found.output.args[:2]
    if found.kind == "sdpa" and not same_length(q, k, found.owner):
        raise Stop("alignment", "torch's is_causal starts at the first key, and this mask ends at the last")
    fill, bias = _argument(found, "fill"), readings.get("bias")
    if bias is not None and bias.causal and fill is not None and "mask" in readings:
        raise Stop("fill", "the triangle is added, and the padding fills in a number of its own", fill.node)


# --- a branch for old versions of torch ----------------------------------------------------------------------------


def _goes_alone(found: Attention, branch: ast.If) -> bool:
    """Whether the side of the branch that runs is one call of torch's function, in words that the runtime's knows."""
    if found.kind != "sdpa" or not is_only_statement(branch, found) or _masks(found) or len(found.output.args) > 6:
        return False
    causal = _argument(found, "is_causal")
    plain = causal is None or causal.is_const(False)
    square = same_length(found.output.args[0], found.output.args[1], found.owner)
    known = set(found.output.keywords) <= {"attn_mask", "dropout_p", "is_causal", "scale"}
    return known and (plain or (causal is not None and causal.is_const(True) and square))


def _without_branch(index: FileIndex, found: Attention, branch: ast.If, place: Place) -> Site:
    """`if hasattr(F, "scaled_dot_product_attention")` is true wherever the runtime is: one call is enough."""
    statement, node, definition = found.output.statement, found.node, found.flow.definition
    inside = definition.source(branch.body[0])
    if statement is None or not isinstance(node, ast.Call) or "#" in inside:
        raise Stop("layout", "comments stand inside the call")
    spelling, imported = runtime_name(index, "attention")
    names = [None, None, None, "attn_mask", "dropout_p", "is_causal"]
    given = [*zip(names, node.args, strict=False), *((k.arg, k.value) for k in node.keywords)]
    texts = {name: definition.source(value) for name, value in given if name not in (None, "attn_mask", "is_causal")}
    causal = _argument(found, "is_causal")
    arguments = [definition.source(value) for name, value in given if name is None]
    arguments += ["causal=True"] if causal is not None and causal.is_const(True) else []
    arguments += [f"{name}={text}" for name, text in texts.items()]
    prefix = _before(statement, node)
    code = call(spelling, arguments, prefix=prefix, indent=branch.col_offset)[len(prefix) :]
    claim = Claim((definition.name,), (definition.name,) if found.owner is not None else ())
    message = "torch has scaled_dot_product_attention, so the other branch never runs -> one call of attention"
    return Site(place, message, claim, _Part(found, code, (), branch, imported))


def _side_that_runs(node: cst.CSTNode) -> cst.CSTNode:
    """The one statement of the branch's body, under the comments above the branch and its own."""
    import libcst as cst

    branch = cst.ensure_type(node, cst.If)
    body = cst.ensure_type(branch.body, cst.IndentedBlock)
    line = cst.ensure_type(body.body[0], cst.SimpleStatementLine)
    own = [empty for empty in line.leading_lines if empty.comment is not None]
    return line.with_changes(leading_lines=[*branch.leading_lines, *own])


# --- the new call --------------------------------------------------------------------------------------------------


def _part(found: Attention, readings: dict[str, Reading]) -> _Part:
    statement, node = found.output.statement, found.node
    source = found.flow.definition.source(node)
    if statement is None or not isinstance(node, ast.Call) or "#" in source:
        raise Stop("layout", "comments stand inside the call")
    speaker = _Speaker(found, statement)
    arguments = speaker.arguments(node, readings)
    dead = tuple(unneeded(found.flow, found.output, speaker.kept))
    prefix = _before(statement, node)
    indent = statement.col_offset + (0 if prefix else _width_around(statement, node))
    code = call(ast.unparse(node.func), arguments, prefix=prefix, indent=indent)[len(prefix) :]
    return _Part(found, code, dead)


def _before(statement: ast.stmt, node: ast.expr) -> str:
    """`y = ` and `return `, where the statement is nothing but that and the call."""
    if isinstance(statement, ast.Return) and statement.value is node:
        return "return "
    if isinstance(statement, ast.Assign) and statement.value is node and isinstance(statement.targets[0], ast.Name):
        return f"{statement.targets[0].id} = "
    return ""


def _width_around(statement: ast.stmt, node: ast.expr) -> int:
    return len(ast.unparse(statement).split("\n")[0]) - len(ast.unparse(node))


class _Speaker:
    """Spells the arguments of the call, with `causal=True` where the triangle was."""

    def __init__(self, found: Attention, statement: ast.stmt) -> None:
        self.found, self.statement = found, statement
        self.definition = found.flow.definition
        self.kept: list[Value] = []

    def arguments(self, node: ast.Call, readings: dict[str, Reading]) -> list[str]:
        switch = "is_causal" if self.found.kind == "sdpa" else "causal"
        left = any(reading.rest for reading in readings.values())
        names = [None, None, None, "attn_mask", "dropout_p", "is_causal"]
        given = [*zip(names, node.args, strict=False), *((k.arg, k.value) for k in node.keywords)]
        words: list[str] = []
        for name, value in given:
            if name in readings:
                words += [self.rest(name, readings[name])] if readings[name].rest else []
                words += [f"{switch}=True"] if readings[name].causal and f"{switch}=True" not in words else []
            elif name == switch or (name == "fill" and not left):
                continue  # said already; and where only the future is hidden, every query has a key
            else:
                words.append(self.argument(name if words and "=" in words[-1] else self.keyword(node, name), value))
        return words

    def keyword(self, node: ast.Call, name: str | None) -> str | None:
        """The keyword that an argument was given by."""
        return name if any(keyword.arg == name for keyword in node.keywords) else None

    def argument(self, name: str | None, value: ast.expr) -> str:
        written = {id(inner) for inner in ast.walk(value)}
        self.keep(*(one for one in self.found.flow.values if one.node is not None and id(one.node) in written))
        held = self.found.flow.before[self.statement]
        self.keep(*(held[n.id] for n in ast.walk(value) if isinstance(n, ast.Name) and n.id in held))
        text = self.definition.source(value)
        return f"{name}={text}" if name else text

    def rest(self, keyword: str, reading: Reading) -> str:
        """What stays of a mask without its triangle."""
        if reading.causal:
            texts = [self.term(term, len(reading.rest) > 1) for term in reading.rest]
            return f"{keyword}={(' + ' if keyword == 'bias' else ' & ').join(texts)}"
        assert isinstance(self.found.node, ast.Call)
        return self.argument(keyword, next(k.value for k in self.found.node.keywords if k.arg == keyword))

    def term(self, term: Term, joined: bool) -> str:
        text = self.found.flow.text_at(term.value, self.statement)
        if text is None:
            raise Stop("layout", "a part of the mask has no name where the call stands", term.value.node)
        self.keep(term.value, *self.found.flow.named_in(term.value, self.statement))
        text = ast.unparse(ast.parse(f"({text}\n)", mode="eval")) if "\n" in text else text
        if term.negated:
            return f"~{parenthesised(text)}"
        return parenthesised(text, ast.UnaryOp) if joined else text

    def keep(self, *values: Value) -> None:
        self.kept += values
