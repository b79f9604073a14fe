"""Hand-written softmax attention becomes one call of `runtime.attention`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Finding,
    Guard,
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
from migrator.recognise.anatomy import Attention, Obstacle, text_of
from migrator.recognise.attention import attentions, torch_modules
from migrator.recognise.branches import beside_fused
from migrator.recognise.delegated import Delegated, delegated
from migrator.recognise.index import FileIndex
from migrator.recognise.liveness import unneeded
from migrator.recognise.purity import may_move
from migrator.recognise.speaker import Speaker, Unspeakable, permuted
from migrator.recognise.spelling import call, free_name, runtime_name
from migrator.recognise.syntax import stored_names, walk_statements
from migrator.recognise.unasked import Unasked, left_unset, needed_either_way, served_alone, unasked
from migrator.recognise.values import Flow, Value

_REMEDIES = {
    "softmax-axis": "name the last axis: softmax(dim=-1)",
    "weights-used": "compute the weights in a method of their own, for those who look at them",
    "scale": "make the scale a number that `__init__` computes once",
    "mask-fill": "hide scores with float('-inf')",
    "mask": "scale the scores first; then hide with masked_fill(hidden, float('-inf')), or add a float mask",
    "dropout": "hand in the probability, and use F.dropout(weights, p, training)",
    "context": "put all steps under one `with`",
    "weights": "bring it to softmax(scores, dim=-1) @ v, with nothing but dropout between",
    "upcast": "let autocast choose the dtype",
    "scope": "make it a method of a top-level class, or a top-level function",
    "scripted": "use torch.compile, which needs no such subset of Python",
}


@dataclass(frozen=True)
class _Part:
    attention: Attention
    statement: ast.stmt
    code: str
    split: str | None
    dead: tuple[ast.stmt, ...]
    imports: Import
    sizes: tuple[tuple[ast.expr, str], ...] = ()  # of the scores, said of queries and keys


class AttentionToSDPA(Codemod):
    """softmax(q k^T / sqrt(d) + mask) v, spelled out -> attention(q, k, v, ...)."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "Fused attention never stores the (T, S) weights: less memory, more speed, the same numbers."
    reference = "Dao et al. 2022, FlashAttention, arXiv 2205.14135"
    formula = "softmax(q k^T / sqrt(D) + mask) v"
    refusals = {
        "softmax-axis": "the softmax is not over the last axis, so it does not normalise over keys",
        "upcast": "the softmax runs in a dtype of its own",
        "weights-used": "the attention weights are used for more than the weighted sum",
        "scores": "something stands between scores and softmax that fused attention cannot do",
        "scale": "the scale is learned, or not one number",
        "mask": "the mask is not understood",
        "mask-fill": "hidden scores stay high enough to count",
        "dropout": "the weights pass through something that was handed in, perhaps dropout",
        "values": "the weighted sum is not over the keys alone",
        "context": "the steps of the attention run under different contexts, such as torch.no_grad()",
        "weights": "something stands between the softmax and the weighted sum",
        "scope": "the attention stands in a nested function or class, or in a definition under an `if`",
        "scripted": "the file compiles code with torch.jit.script",
        "layout": "the place cannot be edited statement by statement",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        everything = attentions(index)
        fused = [found for found in everything if isinstance(found, Attention) and found.kind != "legacy"]
        for found in everything:
            place = _place(found.flow, found.node)
            if found in fused:
                yield Modern(place, "attention is fused already")
            elif (branch := beside_fused(index, found, fused)) is not None:
                yield Modern(place, f"`if {ast.unparse(branch.test)}` chooses between this and a fused call")
            elif isinstance(found, Attention):
                yield self.site(index, found, place)
            else:
                yield from self.delegated_sites(index, found)
                yield self.unasked_site(index, found, place) or _refusal(found, place)
        for definition, node, name in torch_modules(index):
            yield Modern(Place.of(definition.name, node, definition), f"{name} is torch's own attention")

    def site(self, index: FileIndex, found: Attention, place: Place) -> Finding:
        try:
            part = _part(index, found)
        except Unspeakable as obstacle:
            return Refusal(place, "layout", str(obstacle), "give the value a name of its own")
        name = found.flow.definition.name
        claim = Claim((name,), (name,) if found.owner is not None else ())
        return Site(place, f"softmax attention -> one fused call{_detail(found)}", claim, part)

    def unasked_site(self, index: FileIndex, found: Obstacle, place: Place) -> Finding | None:
        """Fused where nobody asks for the weights, if the function itself says where that is."""
        behind = unasked(found)
        if behind is None:
            return None
        try:
            part = _guard(index, behind)
        except Unspeakable as obstacle:
            seen = f"{found.seen}; fused attention could do where {behind.condition}, but {obstacle}"
            return Refusal(place, found.code, seen, _REMEDIES[found.code])
        name = found.flow.definition.name
        claim = Claim((name,), (name,) if found.flow.owner is not None else ())
        detail = _detail(behind.attention)
        return Site(place, f"softmax attention -> one fused call{detail} where {behind.condition}", claim, part)

    def delegated_sites(self, index: FileIndex, found: Obstacle) -> Iterator[Finding]:
        """Fused where a helper is called for its first result alone."""
        for one in delegated(index, found):
            owner = one.caller.owner
            assert owner is not None
            spelling, imported = runtime_name(index, "attention")
            name, detail = one.caller.definition.name, _detail(one.attention)
            message = f"softmax attention of {one.helper}, whose weights nobody looks at -> one fused call{detail}"
            part = _Call(one, spelling, imported)
            attribute = _attribute_of(one.unused)
            claim = Claim((name,), (owner.name,), dropped=((owner.name, attribute),) if attribute else ())
            yield Site(_place(one.caller, one.node), message, claim, part)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part | _Guard | _Call = site.part
        if isinstance(part, _Call):
            yield part.edit
            if part.delegated.unused is not None:
                yield Remove(part.delegated.caller.definition, part.delegated.unused)
            yield part.imports
            return
        if isinstance(part, _Guard):
            definition = part.edit.definition
            yield part.edit
            for node, text in part.sizes:
                yield Replace(definition, node, text)
            yield part.imports
            return
        definition = part.attention.flow.definition
        for statement in part.dead:
            yield Remove(definition, statement)
        for node, text in part.sizes:
            yield Replace(definition, node, text)
        if part.split is None:
            yield Replace(definition, part.attention.node, part.code)
        else:
            yield Insert(definition, part.statement, part.code, "before")
            yield Replace(definition, part.attention.node, part.split)
        yield part.imports


@dataclass(frozen=True)
class _Call:
    """The fused call in place of one of a helper."""

    delegated: Delegated
    spelling: str
    imports: Import

    @property
    def edit(self) -> AnyEdit:
        one = self.delegated
        definition, statement = one.caller.definition, one.statement
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Tuple) and statement.value is one.node:  # type: ignore[attr-defined]
            prefix = f"{ast.unparse(target.elts[0])} = "
            code = call(self.spelling, list(one.arguments), prefix=prefix, indent=statement.col_offset)
            return Replace(definition, statement, code)
        indent = statement.col_offset + _width_around(statement, one.node)
        return Replace(definition, one.node, call(self.spelling, list(one.arguments), indent=indent))


@dataclass(frozen=True)
class _Guard:
    edit: Guard | Insert
    imports: Import
    sizes: tuple[tuple[ast.expr, str], ...]


def _guard(index: FileIndex, behind: Unasked) -> _Guard:
    """The call under a condition, before the statements that compute the same with the weights at hand."""
    found, definition = behind.attention, behind.attention.flow.definition
    statement = found.output.statement
    if statement is None:
        raise Unspeakable("the weighted sum stands in no statement")
    speaker = _said(found, statement)
    respelt = _sizes(found, speaker)
    dead = unneeded(found.flow, found.output, speaker.kept, respelt)
    served = served_alone(behind, statement, dead)
    hoisted = needed_either_way(behind, served, dead, respelt)
    spelling, imported = runtime_name(index, "attention")
    speaker = Speaker(found, statement if hoisted else served[0])
    arguments = speaker.arguments()
    if hoisted and stored_names([s for s in served[:-1] if s not in hoisted]) & _words(arguments):
        raise Unspeakable("a part of the call has no name where it would stand")
    text = _with_call(index, found, statement, spelling, arguments)
    _check(found, speaker, tuple(dead))
    sizes = tuple((v.node, said) for v, said in respelt.items() if v.node is not None and v.statement in hoisted)
    now, later = left_unset(found, served, hoisted)
    lines = [*(f"{name} = None" for name in now), text, *(f"{name} = None" for name in later)]
    code = "\n".join(lines)
    if isinstance(statement, ast.Return) and not hoisted:
        inner = "\n".join(f"    {line}" for line in code.split("\n"))
        return _Guard(Insert(definition, served[0], f"if {behind.condition}:\n{inner}", "before"), imported, sizes)
    edit = Guard(definition, served[0], statement, behind.condition, code, tuple(hoisted))
    return _Guard(edit, imported, sizes)


def _said(found: Attention, statement: ast.stmt) -> Speaker:
    """What has said the arguments: at the weighted sum, or where the scores are computed, if they have names there."""
    scores = found.passed[0].statement
    for place in (statement, scores) if scores is not None else (statement,):
        speaker = Speaker(found, place)
        try:
            speaker.arguments()
        except Unspeakable:
            if place is scores or scores is None:
                raise
        else:
            break
    return speaker


def _words(texts: list[str]) -> set[str]:
    return {node.id for text in texts for node in ast.walk(ast.parse(f"f({text})")) if isinstance(node, ast.Name)}


def _with_call(index: FileIndex, found: Attention, statement: ast.stmt, spelling: str, arguments: list[str]) -> str:
    """The statement with the call in place of the weighted sum, or two: the call, and what is made of it."""
    indent = statement.col_offset + 4
    after = permuted(found.permutations.get("output", ()))
    prefix = _before_the_call(statement, found.node)
    if prefix:
        return call(spelling, arguments, prefix=prefix, suffix=after, indent=indent)
    source, node = found.flow.definition.source(statement), found.flow.definition.source(found.node)
    if source.count(node) != 1:
        raise Unspeakable("the weighted sum cannot be told from the rest of its statement")
    inline = call(spelling, arguments, suffix=after, indent=indent + _width_around(statement, found.node))
    node = f"({node})" if f"({node})" in source else node
    if "\n" not in inline:
        return source.replace(node, inline)
    target = _target(index, found, statement)
    return f"{call(spelling, arguments, prefix=f'{target} = ', indent=indent)}\n{source.replace(node, target + after)}"


def _attribute_of(statement: ast.stmt | None) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    return target.attr if isinstance(target, ast.Attribute) else ""


def _refusal(found: Obstacle, place: Place) -> Refusal:
    remedy = _REMEDIES.get(found.code, "bring it to softmax(q @ k.transpose(-2, -1) * scale + mask) @ v")
    return Refusal(place, found.code, found.seen, remedy)


def _place(flow: Flow, node: ast.expr) -> Place:
    symbol = f"{flow.owner.name}.{flow.function.name}" if flow.owner else flow.function.name
    line = flow.definition.line(node)
    return Place(symbol, line, (node.end_lineno or node.lineno) + flow.definition.shift)


def _detail(found: Attention) -> str:
    kinds = [mask.kind for mask in found.masks]
    words = ["causal"] if "causal" in kinds else []
    words += ["masked"] if {"hide", "keep"} & set(kinds) else []
    words += ["biased"] if "bias" in kinds else []
    return f" ({', '.join(words)})" if words else ""


def _part(index: FileIndex, found: Attention) -> _Part:
    statement = found.output.statement
    if statement is None:
        raise Unspeakable("the weighted sum stands in no statement")
    speaker = Speaker(found, statement)
    spelling, imported = runtime_name(index, "attention")
    arguments = speaker.arguments()
    indent = statement.col_offset
    after = permuted(found.permutations.get("output", ()))
    respelt = _sizes(found, speaker)
    dead = tuple(unneeded(found.flow, found.output, speaker.kept, respelt))
    sizes = tuple((v.node, text) for v, text in respelt.items() if v.node is not None and _survives(v, dead))
    _check(found, speaker, dead)
    prefix = _before_the_call(statement, found.node) if not after else ""
    if prefix:
        code = call(spelling, arguments, prefix=prefix, indent=indent)[len(prefix) :]
        return _Part(found, statement, code, None, dead, imported, sizes)
    inline = call(spelling, arguments, suffix=after, indent=indent + _width_around(statement, found.node))
    if "\n" not in inline:
        return _Part(found, statement, inline, None, dead, imported, sizes)
    if _is_conditional(statement, found.node):
        return _Part(found, statement, inline, None, dead, imported, sizes)
    target = _target(index, found, statement)
    code = call(spelling, arguments, prefix=f"{target} = ", indent=indent)
    return _Part(found, statement, code, target + after, dead, imported, sizes)


def _sizes(found: Attention, speaker: Speaker) -> dict[Value, str]:
    """Each size of the scores that is asked for, said of the queries and keys: the scores are computed no more."""
    asked = [user for scores in found.passed for user in scores.users if user.op in ("size", "shape")]
    return {value: text for value in asked if (text := speaker.size(value))}


def _survives(value: Value, dead: tuple[ast.stmt, ...]) -> bool:
    return all(value.statement is not inner for outer in dead for inner in walk_statements([outer]))


def _check(found: Attention, speaker: Speaker, dead: tuple[ast.stmt, ...]) -> None:
    """What is evaluated no more, or elsewhere, must not make a difference."""
    if any(isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom) for node in ast.walk(found.node)):
        raise Unspeakable("the expression does more than compute a value")
    for statement, names in found.flow.deleted.items():
        if statement not in dead and set(names) & set(found.passed):
            raise Unspeakable(f"`{ast.unparse(statement)}` deletes the scores together with something else")
    for value in speaker.moved:
        if not may_move(found.flow, value, speaker.statement, dead):
            raise Unspeakable(f"`{text_of(value)}` would have to be computed at another place")


def _before_the_call(statement: ast.stmt, node: ast.expr) -> str:
    """`y = ` and `return `, where the statement is nothing but that and the expression."""
    if isinstance(statement, ast.Return) and statement.value is node:
        return "return "
    if isinstance(statement, ast.Assign) and statement.value is node and isinstance(statement.targets[0], ast.Name):
        return f"{statement.targets[0].id} = "
    return ""


def _width_around(statement: ast.stmt, node: ast.expr) -> int:
    """Characters of the statement that stand around the expression."""
    return len(ast.unparse(statement).split("\n")[0]) - len(ast.unparse(node))


def _is_conditional(statement: ast.stmt, node: ast.expr) -> bool:
    """Whether the expression is evaluated only if another one in the statement says so."""
    choices = [inner for inner in ast.walk(statement) if isinstance(inner, ast.IfExp | ast.BoolOp)]
    return any(inner is node for choice in choices for inner in ast.walk(choice))


def _target(index: FileIndex, found: Attention, statement: ast.stmt) -> str:
    """A name for the result: the one that the statement assigns, unless the statement reads it too; else a new one."""
    collected = isinstance(getattr(statement, "value", None), ast.List | ast.Tuple)
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and not collected:
        name = statement.targets[0].id
        replaced = {id(inner) for inner in ast.walk(found.node)}
        others = (inner for inner in ast.walk(statement.value) if id(inner) not in replaced)
        if not any(isinstance(inner, ast.Name) and inner.id == name for inner in others):
            return name
    return free_name(index, found.flow.definition, "attended", "attended_values")
