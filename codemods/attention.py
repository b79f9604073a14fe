"""Hand-written softmax attention becomes one call of `runtime.attention`."""

from __future__ import annotations

import ast
import math
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
from migrator.recognise.anatomy import LOWEST, Attention, Mask, Obstacle, text_of
from migrator.recognise.attention import attentions
from migrator.recognise.index import FileIndex
from migrator.recognise.liveness import unneeded
from migrator.recognise.purity import may_move
from migrator.recognise.spelling import call, free_name, parenthesised, runtime_name
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


_ARITHMETIC = (ast.BinOp, ast.UnaryOp)


class _Unspeakable(Exception):
    """A value that has no source text where the call would stand."""


class AttentionToSDPA(Codemod):
    """softmax(q k^T / sqrt(d) + mask) v, spelled out -> attention(q, k, v, ...)."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "Fused attention never stores the (T, S) weights: less memory, more speed, the same numbers."
    reference = "Dao et al. 2022, FlashAttention, arXiv 2205.14135"
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
        for found in attentions(index):
            place = _place(found.flow, found.node)
            if isinstance(found, Obstacle):
                remedy = _REMEDIES.get(found.code, "bring it to softmax(q @ k.transpose(-2, -1) * scale + mask) @ v")
                yield Refusal(place, found.code, found.seen, remedy)
            elif found.kind != "legacy":
                yield Modern(place, "attention is fused already")
            else:
                yield self.site(index, found, place)

    def site(self, index: FileIndex, found: Attention, place: Place) -> Finding:
        try:
            part = _part(index, found)
        except _Unspeakable as obstacle:
            return Refusal(place, "layout", str(obstacle), "give the value a name of its own")
        name = found.flow.definition.name
        claim = Claim((name,), (name,) if found.owner is not None else ())
        return Site(place, f"softmax attention -> one fused call{_detail(found)}", claim, part)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.attention.flow.definition
        for statement in part.dead:
            yield Remove(definition, statement)
        if part.split is None:
            yield Replace(definition, part.attention.node, part.code)
        else:
            yield Insert(definition, part.statement, part.code, "before")
            yield Replace(definition, part.attention.node, part.split)
        yield part.imports


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
        raise _Unspeakable("the weighted sum stands in no statement")
    speaker = _Speaker(found, statement)
    spelling, imported = runtime_name(index, "attention")
    arguments = speaker.arguments()
    indent = statement.col_offset
    after = _moved(found.permutations.get("output", ()))
    dead = tuple(unneeded(found.flow, found.output, speaker.kept))
    _check(found, speaker, dead)
    prefix = _before_the_call(statement, found.node) if not after else ""
    if prefix:
        code = call(spelling, arguments, prefix=prefix, indent=indent)[len(prefix) :]
        return _Part(found, statement, code, None, dead, imported)
    inline = call(spelling, arguments, suffix=after, indent=indent + _width_around(statement, found.node))
    if "\n" not in inline:
        return _Part(found, statement, inline, None, dead, imported)
    if _is_conditional(statement, found.node):
        return _Part(found, statement, inline, None, dead, imported)
    target = _target(index, found, statement)
    code = call(spelling, arguments, prefix=f"{target} = ", indent=indent)
    return _Part(found, statement, code, target + after, dead, imported)


def _check(found: Attention, speaker: _Speaker, dead: tuple[ast.stmt, ...]) -> None:
    """What is evaluated no more, or elsewhere, must not make a difference."""
    if any(isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom) for node in ast.walk(found.node)):
        raise _Unspeakable("the expression does more than compute a value")
    for value in speaker.moved:
        if not may_move(found.flow, value, speaker.statement, dead):
            raise _Unspeakable(f"`{text_of(value)}` would have to be computed at another place")


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
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        name = statement.targets[0].id
        replaced = {id(inner) for inner in ast.walk(found.node)}
        others = (inner for inner in ast.walk(statement.value) if id(inner) not in replaced)
        if not any(isinstance(inner, ast.Name) and inner.id == name for inner in others):
            return name
    return free_name(index, found.flow.definition, "attended", "attended_values")


def _moved(order: tuple[int, ...]) -> str:
    """The method call that permutes axes, in the shortest familiar form."""
    if not order:
        return ""
    swapped = [axis for axis, source in enumerate(order) if axis != source]
    if len(swapped) == 2:
        return f".transpose({swapped[0]}, {swapped[1]})"
    return f".permute({', '.join(map(str, order))})"


def _short(number: float) -> str:
    """-1e9 rather than -1000000000.0."""
    mantissa, exponent = f"{number:e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if len(mantissa) <= 4 else repr(number)


class _Speaker:
    """Spells the arguments of the call with what is at hand where it will stand."""

    def __init__(self, found: Attention, statement: ast.stmt) -> None:
        self.found, self.statement = found, statement
        self.kept: list[Value] = []
        self.moved: list[Value] = []

    def arguments(self) -> list[str]:
        found = self.found
        words = [self.tensor(found.q, "q"), self.key(), self.tensor(found.v, "v")]
        words += self.masks()
        if found.scale_op != "default":
            words.append(f"scale={self.scale()}")
        if found.dropout is not None:
            words.append(f"dropout_p={self.dropout(found.dropout, found.dropout_condition)}")
        return words

    def text(self, value: Value) -> str:
        text = self.found.flow.text_at(value, self.statement)
        if text is None:
            line = self.found.flow.definition.line(value.node or value.statement or self.statement)
            raise _Unspeakable(f"a value of line {line} has no name where it is needed")
        self.kept += [value, *self.found.flow.named_in(value, self.statement)]
        if value.statement is not self.statement and self.found.flow.name_at(value, self.statement) is None:
            self.moved.append(value)
        return ast.unparse(ast.parse(f"({text}\n)", mode="eval")) if "\n" in text else text

    def tensor(self, value: Value, name: str) -> str:
        text = self.text(value)
        moved = _moved(self.found.permutations.get(name, ()))
        return parenthesised(text) + moved if moved else text

    def key(self) -> str:
        found = self.found
        if not found.k_transposed:
            return f"{parenthesised(self.text(found.k))}.transpose(-2, -1)"
        nameless = found.flow.text_at(found.k, self.statement) is None and not found.permutations.get("k")
        if nameless and found.k_as_multiplied is not None:  # k = k.transpose(-2, -1)
            return f"{parenthesised(self.text(found.k_as_multiplied))}.transpose(-2, -1)"
        return self.tensor(found.k, "k")

    def masks(self) -> list[str]:
        """The keyword arguments for all masks, in the order of the steps; two boolean masks are joined."""
        given: dict[str, list[Mask]] = {}
        for mask in self.found.masks:
            given.setdefault({"hide": "mask", "keep": "mask"}.get(mask.kind, mask.kind), []).append(mask)
        words = [f"{keyword}={self.joined(keyword, masks)}" for keyword, masks in given.items()]
        fill = next((mask.fill for mask in given.get("mask", [])), -math.inf)
        return words if fill == -math.inf else [*words, f"fill={self.fill(fill)}"]

    def joined(self, keyword: str, masks: list[Mask]) -> str:
        if len(masks) == 1:
            return self.mask(masks[0])
        if keyword != "mask" or any(mask.condition is not None for mask in masks):
            raise _Unspeakable("two masks of one kind would have to be joined")
        return " & ".join(parenthesised(self.visible(mask), ast.UnaryOp) for mask in masks)

    def mask(self, mask: Mask) -> str:
        if mask.kind == "causal":
            return "True" if mask.condition is None else self.condition(mask.condition)
        assert mask.value is not None
        return self.unless_none(mask, self.text(mask.value) if mask.kind == "bias" else self.visible(mask))

    def fill(self, number: float) -> str:
        if number != LOWEST:
            return _short(number)
        return f"torch.finfo({parenthesised(self.text(self.found.q))}.dtype).min"

    def condition(self, condition: Value) -> str:
        if condition.node is None and condition.op == "not":
            return f"not {parenthesised(self.text(condition.args[0]))}"
        return self.text(condition)

    def unless_none(self, mask: Mask, text: str) -> str:
        """The mask where the step's condition holds; None is what the call takes for no mask."""
        condition = mask.condition
        if condition is None:
            return text
        holds = "isnot"
        if condition.node is None and condition.op == "not":
            condition, holds = condition.args[0], "is"
        if condition.op != holds or not condition.args[1].is_const(None):
            first = text if holds == "isnot" else "None"
            return f"{first} if {self.text(condition)} else {'None' if holds == 'isnot' else text}"
        given = self.text(condition.args[0])
        return text if text == given else f"None if {parenthesised(given)} is None else {text}"

    def visible(self, mask: Mask) -> str:
        """The mask as "may attend", the way scaled_dot_product_attention reads it."""
        assert mask.value is not None
        value = mask.value
        if mask.kind == "keep":
            return self.text(value)
        if value.op == "not":
            return self.text(value.args[0])
        if value.op in ("eq", "ne") and value.node is not None and isinstance(value.node, ast.Compare):
            flipped = "!=" if value.op == "eq" else "=="
            self.kept.append(value)
            left, right = (parenthesised(self.text(arg), ast.UnaryOp) for arg in value.args)
            return f"{left} {flipped} {right}"
        return f"~{parenthesised(self.text(value))}"

    def scale(self) -> str:
        if self.found.scale is None:
            return "1.0"
        text = self.text(self.found.scale)
        return text if self.found.scale_op == "mul" else f"1 / {parenthesised(text)}"

    def dropout(self, dropout: Value, condition: Value | None) -> str:
        """The probability that holds now: fused attention does not know of `eval()`."""
        rate, *conditions = self.rate(dropout)
        if condition is not None:
            conditions = [self.text(condition), *conditions]
        conditions = list(dict.fromkeys(conditions))
        if len(conditions) > 1:
            conditions = [parenthesised(text, ast.Compare) for text in conditions]
        return f"{parenthesised(rate, *_ARITHMETIC)} if {' and '.join(conditions)} else 0.0" if conditions else rate

    def rate(self, dropout: Value) -> list[str]:
        """The probability, and what has to hold for it."""
        if isinstance(dropout.data, str) and dropout.data.startswith("self."):
            return [f"{dropout.data}.p", f"{dropout.data}.training"]
        p, training = dropout.argument(1, "p"), dropout.argument(2, "training")
        rate = "0.5" if p is None else self.text(p)
        return [rate] if training is None or training.is_const(True) else [rate, self.text(training)]
