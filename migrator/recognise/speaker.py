"""How the arguments of the fused call are said with what is at hand where it will stand."""

from __future__ import annotations

import ast
import math

from migrator.recognise.anatomy import LOWEST, Attention, Mask
from migrator.recognise.masks import is_tensor
from migrator.recognise.spelling import parenthesised
from migrator.recognise.values import Value

_ARITHMETIC = (ast.BinOp, ast.UnaryOp)


class Unspeakable(Exception):
    """A value that has no source text where the call would stand."""


class Speaker:
    """Spells the arguments of the call with what is at hand where it will stand."""

    def __init__(self, found: Attention, statement: ast.stmt) -> None:
        self.found, self.statement = found, statement
        self.given: Value | None = None  # a condition that holds where what is being spelt is evaluated
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
        text = self.found.flow.text_at(value, self.statement, self.given)
        if text is None:
            line = self.found.flow.definition.line(value.node or value.statement or self.statement)
            raise Unspeakable(f"a value of line {line} has no name where it is needed")
        named = self.found.flow.name_at(value, self.statement, self.given) is not None
        self.kept += [value] if named else self.found.flow.named_in(value, self.statement, self.given)
        if value.statement is not self.statement and not named:
            self.moved.append(value)
        return ast.unparse(ast.parse(f"({text}\n)", mode="eval")) if "\n" in text else text

    def tensor(self, value: Value, name: str) -> str:
        text = self.text(value)
        order = permuted(self.found.permutations.get(name, ()))
        return parenthesised(text) + order if order else text

    def size(self, value: Value) -> str | None:
        """`scores.size(-2)`, `scores.shape[-1]` and `scores.shape[-2:]`, said of queries and keys."""
        found, statement = self.found, value.statement
        if found.permutations or statement is None or value.op != "size" or len(value.args) != 2:
            return None
        q, k = (found.flow.text_at(tensor, statement) for tensor in (found.q, found.k))
        if q is None or k is None or not (q.isidentifier() and k.isidentifier()):
            return None
        lengths = f"{q}.size(-2)", f"{k}.size({-2 if found.k_transposed else -1})"
        axis = value.args[1]
        if axis.op == "const" and axis.data in (-2, -1):
            return lengths[axis.data]
        both = isinstance(value.node, ast.Subscript) and ast.unparse(value.node.slice) == "-2:"
        return ", ".join(lengths) if both and getattr(statement, "value", None) is value.node else None

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
        may_be_empty = (mask for mask in self.found.masks if mask.kind != "bias" and mask.value is not None)
        fill = next((mask.fill for mask in may_be_empty), -math.inf)
        return words if fill == -math.inf else [*words, f"fill={self.fill(fill)}"]

    def joined(self, keyword: str, masks: list[Mask]) -> str:
        if len(masks) == 1:
            return self.mask(masks[0])
        if keyword != "mask" or any(mask.condition is not None for mask in masks):
            raise Unspeakable("two masks of one kind would have to be joined")
        return " & ".join(parenthesised(self.visible(mask), ast.UnaryOp) for mask in masks)

    def mask(self, mask: Mask) -> str:
        if mask.kind == "causal":
            return "True" if mask.condition is None else self.condition(mask.condition)
        assert mask.value is not None
        self.given = mask.condition
        text = self.text(mask.value) if mask.kind == "bias" else self.visible(mask)
        self.given = None
        return self.unless_none(mask, text)

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
        either = self.none_unless(condition)
        if either:
            return text if text == either else f"None if {either} is None else {text}"
        holds = "isnot"
        if condition.node is None and condition.op == "not":
            condition, holds = condition.args[0], "is"
        if condition.op != holds or not condition.args[1].is_const(None):
            first = text if holds == "isnot" else "None"
            return f"{first} if {self.text(condition)} else {'None' if holds == 'isnot' else text}"
        given = self.none_or_not(condition)
        return text if text == given else f"None if {parenthesised(given)} is None else {text}"

    def none_or_not(self, condition: Value) -> str:
        """What is None just where the condition says so: the value that it asks about, or what became of that."""
        asked = condition.args[0]
        return self.became(condition, [asked], unless=condition.op == "isnot") or self.text(asked)

    def none_unless(self, condition: Value) -> str:
        """What is None just where none of `a is not None or b is not None` holds: what became of a or of b."""
        asks = [part for part in condition.args if part.op == "isnot" and part.args[1].is_const(None)]
        every = condition.op == "or" and len(asks) == len(condition.args)
        return self.became(condition, [part.args[0] for part in asks], unless=True) if every else ""

    def became(self, condition: Value, asked: list[Value], unless: bool) -> str:
        """A name that holds a tensor where the condition is true, and one of the `asked` values where it is not."""
        for name, held in self.found.flow.before[self.statement].items():
            if held.op == "phi" and held.node is None and held.args[0] is condition:
                changed, as_it_was = held.args[1:] if unless else held.args[:0:-1]
                if as_it_was in asked and is_tensor(changed):
                    self.kept.append(changed)
                    return name
        return ""

    def visible(self, mask: Mask) -> str:
        """The mask as "may attend", the way scaled_dot_product_attention reads it."""
        assert mask.value is not None
        value = mask.value
        if mask.kind == "keep":
            text = self.text(value)
            return f"{parenthesised(text)}.bool()" if mask.numeric else text
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
        text = text if self.found.scale_op == "mul" else f"1 / {parenthesised(text)}"
        condition = self.found.scale_condition
        return text if condition is None else f"{text} if {self.condition(condition)} else 1.0"

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
        if dropout.op == "call_local":
            given = self.text(dropout.args[0])
            return [f"{given}.p", f"{given}.training"]
        p, training = dropout.argument(1, "p"), dropout.argument(2, "training")
        rate = "0.5" if p is None else self.text(p)
        return [rate] if training is None or training.is_const(True) else [rate, self.text(training)]


def permuted(order: tuple[int, ...]) -> str:
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
