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
from migrator.recognise.attention import Attention, Mask, Obstacle, attentions
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.liveness import unneeded
from migrator.recognise.spelling import call, free_name, parenthesised, runtime_name
from migrator.recognise.values import Flow, Value

_REMEDIES = {
    "softmax-axis": "name the last axis: softmax(dim=-1)",
    "weights-used": "compute the weights in a method of their own, for those who look at them",
    "scale": "make the scale a number that `__init__` computes once",
    "mask-fill": "hide scores with float('-inf')",
}


@dataclass(frozen=True)
class _Part:
    attention: Attention
    statement: ast.stmt
    code: str
    split: str | None
    dead: tuple[ast.stmt, ...]
    imports: Import


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
    whole = isinstance(statement, ast.Assign) and statement.value is found.node and not after
    if whole and isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        prefix = f"{statement.targets[0].id} = "
        code = call(spelling, arguments, prefix=prefix, indent=indent)[len(prefix) :]
        return _Part(found, statement, code, None, dead, imported)
    inline = call(spelling, arguments, suffix=after, indent=indent + _width_around(statement, found.node))
    if "\n" not in inline:
        return _Part(found, statement, inline, None, dead, imported)
    target = _target(index, found.flow.definition, statement)
    code = call(spelling, arguments, prefix=f"{target} = ", indent=indent)
    return _Part(found, statement, code, target + after, dead, imported)


def _width_around(statement: ast.stmt, node: ast.expr) -> int:
    """Characters of the statement that stand around the expression."""
    return len(ast.unparse(statement).split("\n")[0]) - len(ast.unparse(node))


def _target(index: FileIndex, definition: Definition, statement: ast.stmt) -> str:
    """A name for the result: the one that the statement assigns, else a new one."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return free_name(index, definition, "attended", "attended_values")


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
    return f"{number:g}".replace("e+0", "e").replace("e+", "e")


class _Speaker:
    """Spells the arguments of the call with what is at hand where it will stand."""

    def __init__(self, found: Attention, statement: ast.stmt) -> None:
        self.found, self.statement = found, statement
        self.kept: list[Value] = []

    def arguments(self) -> list[str]:
        found = self.found
        words = [self.tensor(found.q, "q"), self.key(), self.tensor(found.v, "v")]
        for mask in found.masks:
            words += self.mask(mask)
        names = [word.partition("=")[0] for word in words[3:]]
        if len(set(names)) != len(names):
            raise _Unspeakable("two masks of one kind would have to be joined")
        if found.scale_op != "default":
            words.append(f"scale={self.scale()}")
        if found.dropout is not None:
            words.append(f"dropout_p={self.dropout(found.dropout)}")
        return words

    def text(self, value: Value) -> str:
        text = self.found.flow.text_at(value, self.statement)
        if text is None:
            raise _Unspeakable(f"a value of line {getattr(value.node, 'lineno', '?')} has no name where it is needed")
        self.kept += [value, *self.found.flow.named_in(value, self.statement)]
        return text

    def tensor(self, value: Value, name: str) -> str:
        text = self.text(value)
        moved = _moved(self.found.permutations.get(name, ()))
        if moved and value.node is not None and text == self.found.flow.definition.source(value.node):
            text = parenthesised(value.node, text)
        return text + moved

    def key(self) -> str:
        if self.found.k_transposed:
            return self.tensor(self.found.k, "k")
        text = self.tensor(self.found.k, "k")
        return f"{text}.transpose(-2, -1)"

    def mask(self, mask: Mask) -> list[str]:
        if mask.kind == "causal":
            return [f"causal={'True' if mask.condition is None else self.text(mask.condition)}"]
        assert mask.value is not None
        if mask.kind == "bias":
            return [f"bias={self.unless_none(mask, self.text(mask.value))}"]
        word = f"mask={self.unless_none(mask, self.visible(mask))}"
        return [word] if mask.fill == -math.inf else [word, f"fill={_short(mask.fill)}"]

    def unless_none(self, mask: Mask, text: str) -> str:
        """`if mask is not None:` around the step: None is what the call takes for no mask."""
        condition = mask.condition
        if condition is None:
            return text
        if condition.op != "isnot" or not condition.args[1].is_const(None):
            raise _Unspeakable("the mask depends on a condition")
        given = self.text(condition.args[0])
        return text if text == given else f"None if {given} is None else {text}"

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
            return f"{self.text(value.args[0])} {flipped} {self.text(value.args[1])}"
        text = self.text(value)
        return f"~{parenthesised(value.node, text) if value.node is not None else text}"

    def scale(self) -> str:
        if self.found.scale is None:
            return "1.0"
        text = self.text(self.found.scale)
        assert self.found.scale.node is not None
        return text if self.found.scale_op == "mul" else f"1 / {parenthesised(self.found.scale.node, text)}"

    def dropout(self, dropout: Value) -> str:
        """The probability that holds now: fused attention does not know of `eval()`."""
        if isinstance(dropout.data, str) and dropout.data.startswith("self."):
            return f"{dropout.data}.p if {dropout.data}.training else 0.0"
        p, training = dropout.argument(1, "p"), dropout.argument(2, "training")
        rate = "0.5" if p is None else self.text(p)
        if training is None or training.is_const(True):
            return rate
        return f"{rate} if {self.text(training)} else 0.0"
