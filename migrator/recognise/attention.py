"""Softmax attention, recognised by what is computed: softmax over keys of scaled scores, times values.

Every function that has a softmax of a product of two values, times a third, is looked at. What is understood gives an
`Attention`, what looks like attention but is not understood gives an `Obstacle`; anything else is not mentioned.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.shapes import (
    arange_length,
    einsum_of,
    grid_axis,
    is_axis,
    last_sizes,
    size_of,
    swaps_last_two,
    symbol,
)
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Flow, Value, strip


@dataclass(eq=False)
class Mask:
    """One step between scores and softmax. kind: "hide" and "keep" (boolean), "bias" (added), "causal".

    `condition` is the value under which the step happens; `None` means always.
    """

    kind: str
    value: Value | None
    fill: float = -math.inf
    condition: Value | None = None


@dataclass(eq=False)
class Attention:
    """softmax(scale * q k^T + masks) v. `output` is the product with v, in the layout that `layout` moves it to."""

    flow: Flow
    q: Value
    k: Value
    v: Value
    output: Value
    node: ast.expr
    kind: str = "legacy"  # legacy | runtime | sdpa
    softmax: Value | None = None
    k_transposed: bool = True
    scale: Value | None = None  # None: 1/sqrt(head_dim), or `unscaled`
    scale_op: str = "none"  # none | default | div | mul
    masks: list[Mask] = field(default_factory=list)
    dropout: Value | None = None
    permutations: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of q, k, v and output, where needed

    @property
    def owner(self) -> ClassInfo | None:
        return self.flow.owner


@dataclass(eq=False)
class Obstacle:
    """Attention by its look, and the first thing about it that was not understood."""

    flow: Flow
    node: ast.expr
    code: str
    seen: str


class _Stop(Exception):
    def __init__(self, code: str, seen: str, node: ast.expr | None = None) -> None:
        super().__init__(code)
        self.code, self.seen, self.node = code, seen, node


def attentions(index: FileIndex) -> list[Attention | Obstacle]:
    """Everything in the file that is attention or looks like it, in order of the source."""
    if "attentions" not in index.memo:
        flows = [flow for definition in index.definitions for flow in _flows(index, definition)]
        index.memo["attentions"] = [found for flow in flows for found in in_flow(flow)]
    result: list[Attention | Obstacle] = index.memo["attentions"]
    return result


def attention_classes(index: FileIndex) -> dict[str, list[Attention]]:
    """Name of an nn.Module class -> the attentions that its own methods compute."""
    table: dict[str, list[Attention]] = {}
    for found in attentions(index):
        if isinstance(found, Attention) and found.owner is not None and found.owner.is_module:
            table.setdefault(found.owner.name, []).append(found)
    return table


def _flows(index: FileIndex, definition: Definition) -> Iterator[Flow]:
    """Flows of all functions that can hold an attention; the text decides first, since it is quick."""
    if not _speaks_of_attention(definition.text):
        return
    if isinstance(definition.tree, FunctionNode):
        yield flow_of(index, definition, definition.tree)
    info = index.classes.get(definition.name)
    if info is None or info.definition.tree is not definition.tree:
        return
    for method in info.methods.values():
        if "Softmax" in definition.text or _speaks_of_attention(definition.source(method)):
            yield flow_of(index, definition, method, info)


def _speaks_of_attention(text: str) -> bool:
    return "oftmax" in text or "attention" in text


def in_flow(flow: Flow) -> list[Attention | Obstacle]:
    found: list[Attention | Obstacle] = []
    for value in flow.values:
        if value.op in ("runtime.attention", "sdpa") and len(value.args) >= 3 and value.node is not None:
            kind = "runtime" if value.op == "runtime.attention" else "sdpa"
            q, k, v = value.args[:3]
            found.append(Attention(flow, q, k, v, value, value.node, kind))
        elif value.op == "softmax":
            seen = _legacy(flow, value)
            if seen is not None:
                found.append(seen)
    return found


def _legacy(flow: Flow, softmax: Value) -> Attention | Obstacle | None:
    if softmax.node is None or not softmax.args:
        return None
    product = _find_product(softmax.args[0])
    weights, dropout = _through_dropout(softmax)
    output = _weighted_sum(weights)
    if product is None or output is None or output.node is None:
        return None
    try:
        return _Reader(flow, softmax, product, weights, dropout, output).read()
    except _Stop as stop:
        return Obstacle(flow, stop.node or softmax.node, stop.code, stop.seen)


def _find_product(value: Value, depth: int = 12) -> Value | None:
    """The product of two computed values that the scores come from, if they do."""
    value = strip(value)
    if depth == 0:
        return None
    if value.op in ("matmul", "bmm") and len(value.args) == 2 and not any(_is_weight(arg) for arg in value.args):
        return value
    letters = einsum_of(value)
    if letters is not None:
        return value if len(letters[1]) == 2 and not any(_is_weight(arg) for arg in letters[1]) else None
    if value.op in (
        "div",
        "mul",
        "add",
        "sub",
        "masked_fill",
        "where",
        "phi",
        "to",
        "float",
        "type_as",
        "softmax",
        "neg",
        "clamp",
        "tanh",
        "sigmoid",
        "baddbmm",
        "view",
        "reshape",
        "getitem",
        "setitem",
        "module",
        "permute",
        "transpose",
    ):
        operands = value.args[1:] if value.op in ("phi", "baddbmm") else value.args
        if value.op == "baddbmm" and len(value.args) == 3:
            return value
        for operand in operands:
            found = _find_product(operand, depth - 1)
            if found is not None:
                return found
    return None


def _is_weight(value: Value) -> bool:
    """A parameter or a constant: a product with it is a projection, not a comparison of queries with keys."""
    return strip(value).op in ("attr", "const", "global")


def _through_dropout(softmax: Value) -> tuple[Value, Value | None]:
    """The weights as they meet the values, and the dropout on the way."""
    weights, dropout = softmax, None
    while True:
        users = [
            user for user in weights.users if user.op in ("dropout", "contiguous", "clone", "identity", "call_local")
        ]
        others = [user for user in weights.users if user not in users]
        if len(users) != 1 or any(_is_sum_of(user, weights) for user in others):
            return weights, dropout
        if users[0].op in ("dropout", "call_local"):
            if dropout is not None:
                return weights, dropout
            dropout = users[0]
        weights = users[0]
        merged = [user for user in weights.users if user.op == "phi"]
        if len(weights.users) == len(merged) == 1:  # `if dropout is not None: weights = dropout(weights)`
            weights = merged[0]


def _is_sum_of(user: Value, weights: Value) -> bool:
    letters = einsum_of(user)
    operands = letters[1] if letters else user.args
    return user.op in ("matmul", "bmm", "einsum") and len(operands) == 2 and any(arg is weights for arg in operands)


def _weighted_sum(weights: Value) -> Value | None:
    return next((user for user in weights.users if _is_sum_of(user, weights)), None)


class _Reader:
    """Reads one attention from its output back to queries and keys; raises _Stop at what it does not understand."""

    def __init__(
        self, flow: Flow, softmax: Value, product: Value, weights: Value, dropout: Value | None, output: Value
    ) -> None:
        self.flow, self.softmax, self.product = flow, softmax, product
        self.weights, self.dropout, self.output = weights, dropout, output
        self.masks: list[Mask] = []
        self.scale: Value | None = None
        self.scale_op = "none"

    def read(self) -> Attention:
        self.check_softmax()
        self.check_weights()
        self.walk(self.softmax.args[0], None)
        fills = {mask.fill for mask in self.masks if mask.kind != "bias"}
        if len(fills) > 1:
            raise _Stop("mask-fill", f"two masks hide scores with different numbers: {sorted(fills)}")
        q, k, transposed, moves = self.queries_and_keys()
        v, more = self.values()
        assert self.output.node is not None
        self.settle_scale(q, k)
        return Attention(
            self.flow,
            q,
            k,
            v,
            self.output,
            self.output.node,
            "legacy",
            self.softmax,
            transposed,
            self.scale,
            self.scale_op,
            self.masks[::-1],
            self.dropout,
            {**moves, **more},
        )

    def check_softmax(self) -> None:
        axis = self.softmax.argument(1, "dim")
        if axis is None or not is_axis(axis, -1, self.softmax.args[0]):
            seen = "no axis given" if axis is None else f"axis {ast.unparse(axis.node) if axis.node else '?'}"
            raise _Stop("softmax-axis", f"the softmax does not run over the last axis for certain ({seen})")
        if "dtype" in self.softmax.keywords or len(self.softmax.args) > 2:
            raise _Stop("upcast", "the softmax is computed in a dtype of its own")

    def check_weights(self) -> None:
        """Nobody else may use the weights: the fast path never has them."""
        if self.dropout is not None and self.dropout.op == "call_local":
            raise _Stop("dropout", "the weights pass through a function that was handed in", self.dropout.node)
        chain = {self.softmax, self.weights, self.output}
        value: Value | None = self.dropout
        while value is not None and value is not self.softmax:
            chain.add(value)
            value = value.args[0] if value.args else None
        returned = {value for value, _ in self.flow.returns} | {store.value for store in self.flow.stores}
        for link in chain - {self.output}:
            strangers = [user for user in link.users if user not in chain]
            if strangers or link in returned:
                raise _Stop("weights-used", "the attention weights are used again after the weighted sum")

    def walk(self, value: Value, condition: Value | None) -> None:
        """From softmax inwards: masks and scale, until the product is reached."""
        while value is not self.product:
            value = self.step(value, condition)

    def step(self, value: Value, condition: Value | None) -> Value:
        handler = getattr(self, f"step_{value.op}", None)
        if handler is None:
            raise _Stop("scores", f"between scores and softmax stands `{_text(value)}`", value.node)
        inner: Value = handler(value, condition)
        return inner

    def leads(self, value: Value) -> bool:
        return value is self.product or _find_product(value) is self.product

    def step_contiguous(self, value: Value, condition: Value | None) -> Value:
        return value.args[0]

    def step_masked_fill(self, value: Value, condition: Value | None) -> Value:
        hidden, fill = value.argument(1, "mask"), value.argument(2, "value")
        if hidden is None or fill is None:
            raise _Stop("mask", f"mask not understood: `{_text(value)}`", value.node)
        self.add_mask("hide", hidden, fill, condition, value)
        return value.args[0]

    def step_where(self, value: Value, condition: Value | None) -> Value:
        if len(value.args) == 3:
            test, one, other = value.args
            if self.leads(one):
                self.add_mask("keep", test, other, condition, value)
                return one
            if self.leads(other):
                self.add_mask("hide", test, one, condition, value)
                return other
        raise _Stop("mask", f"mask not understood: `{_text(value)}`", value.node)

    def step_add(self, value: Value, condition: Value | None) -> Value:
        inner, bias = value.args if self.leads(value.args[0]) else value.args[::-1]
        if self.scale_op != "none":
            raise _Stop("mask", f"`{_text(bias)}` is added before the scores are scaled", value.node)
        self.masks.append(Mask("bias", bias, condition=condition))
        return inner

    def step_div(self, value: Value, condition: Value | None) -> Value:
        if not self.leads(value.args[0]):
            raise _Stop("scores", f"the scores divide something: `{_text(value)}`", value.node)
        self.set_scale("div", value.args[1], condition, value)
        return value.args[0]

    def step_mul(self, value: Value, condition: Value | None) -> Value:
        inner, factor = value.args if self.leads(value.args[0]) else value.args[::-1]
        self.set_scale("mul", factor, condition, value)
        return inner

    def step_phi(self, value: Value, condition: Value | None) -> Value:
        """`if condition: scores = mask(scores)`: one side is the other, masked."""
        test, one, other = value.args
        if condition is not None or not (self.leads(one) and self.leads(other)):
            raise _Stop("scores", "the scores come from two different branches", value.node)
        if _reaches(one, other):
            masked, plain, negated = one, other, False
        elif _reaches(other, one):
            masked, plain, negated = other, one, True
        else:
            raise _Stop("scores", "the scores come from two different branches", value.node)
        if negated:
            raise _Stop("mask", "the mask is applied where a condition does not hold", test.node)
        while masked is not plain:
            masked = self.step(masked, test)
        return plain

    def set_scale(self, op: str, factor: Value, condition: Value | None, at: Value) -> None:
        if self.scale_op != "none" or condition is not None:
            raise _Stop("scale", f"the scores are scaled in more than one place: `{_text(at)}`", at.node)
        if not _is_number(factor, self.flow.owner):
            raise _Stop("scale", f"the scale `{_text(factor)}` is not a plain number", at.node)
        self.scale_op, self.scale = op, factor

    def add_mask(self, kind: str, test: Value, fill: Value, condition: Value | None, at: Value) -> None:
        number = _number(fill)
        if number is None or number > -1e4:
            raise _Stop(
                "mask-fill", f"hidden scores become `{_text(fill)}`, which is not low enough to hide them", at.node
            )
        if self.scale_op != "none" and number != -math.inf:
            raise _Stop("mask", "the scores are masked before they are scaled", at.node)
        hides = _hides_future(test)
        if hides is not None and hides == (kind == "hide"):
            self.masks.append(Mask("causal", None, number, condition))
        else:
            self.masks.append(Mask(kind, test, number, condition))

    def queries_and_keys(self) -> tuple[Value, Value, bool, dict[str, tuple[int, ...]]]:
        letters = einsum_of(self.product)
        if letters is not None:
            return self.einsum_scores()
        if self.product.op == "baddbmm":
            raise _Stop("scores", "scores by baddbmm", self.product.node)
        q, kt = self.product.args
        kt = strip(kt)
        if swaps_last_two(kt):
            return q, kt.args[0], True, {}
        return q, kt, False, {}

    def einsum_scores(self) -> tuple[Value, Value, bool, dict[str, tuple[int, ...]]]:
        """einsum("bhtd,bhsd->bhts", q, k) in any letters: which operand is q, and how its axes lie."""
        letters = einsum_of(self.product)
        assert letters is not None
        (first, second), out = letters[0].operands, letters[0].output
        q, k = letters[1]
        if len(out) < 3 or len(set(out)) != len(out):
            raise _Stop("scores", f"einsum `{letters[0]}` not understood", self.product.node)
        t, s, batch = out[-2], out[-1], out[:-2]
        if t in second and s in first:
            (first, second), (q, k) = (second, first), (k, q)
        summed = [c for c in first if c in second and c not in out]
        if len(summed) != 1 or t in second or s in first:
            raise _Stop("scores", "the scores are not one product of queries with keys", self.product.node)
        moves = {"q": _order(first, batch + t + summed[0]), "k": _order(second, batch + s + summed[0])}
        return q, k, True, moves

    def values(self) -> tuple[Value, dict[str, tuple[int, ...]]]:
        letters = einsum_of(self.output)
        if letters is None:
            weights, v = self.output.args
            if weights is not self.weights:
                raise _Stop("values", f"the weights are not the left factor: `{_text(self.output)}`", self.output.node)
            return v, {}
        one, other = letters[0].operands
        w_letters, v_letters = (one, other) if letters[1][0] is self.weights else (other, one)
        v = letters[1][1] if letters[1][0] is self.weights else letters[1][0]
        batch, t, s = w_letters[:-2], w_letters[-2], w_letters[-1]
        d = [c for c in v_letters if c not in w_letters]
        if len(d) != 1 or set(letters[0].output) != set(batch) | {t, d[0]}:
            raise _Stop("values", "the weighted sum is not over the keys alone", self.output.node)
        plain = batch + t + d[0]
        return v, {"v": _order(v_letters, batch + s + d[0]), "output": _order(plain, letters[0].output)}

    def settle_scale(self, q: Value, k: Value) -> None:
        """Recognise 1/sqrt(head_dim), which needs not be said."""
        if self.scale is None:
            return
        root = strip(self.scale)
        sizes = last_sizes(q) | last_sizes(k)
        if (
            self.scale_op == "div"
            and root.op == "sqrt"
            and symbol(_size(root.args[0])) in sizes
            or self.scale_op == "div"
            and _power(root, 0.5) in sizes
            or self.scale_op == "mul"
            and (_power(root, -0.5) in sizes or _inverse_root(root) in sizes)
        ):
            self.scale_op = "default"


def _size(value: Value) -> Value:
    return value.args[0] if value.op in ("to", "float") and value.args else value


def _power(value: Value, exponent: float) -> object:
    if value.op == "pow" and len(value.args) == 2 and value.args[1].is_const(exponent):
        return symbol(value.args[0])
    return None


def _inverse_root(value: Value) -> object:
    """d of `1 / sqrt(d)`."""
    if value.op == "div" and _number(value.args[0]) == 1:
        root = strip(value.args[1])
        return symbol(_size(root.args[0])) if root.op == "sqrt" else _power(root, 0.5)
    return None


def _order(have: str, want: str) -> tuple[int, ...]:
    """The permutation that brings axes from `have` to `want`; empty if there is nothing to move."""
    if sorted(have) != sorted(want):
        raise _Stop("scores", f"axes `{have}` cannot be brought to `{want}`")
    order = tuple(have.index(letter) for letter in want)
    return () if order == tuple(range(len(order))) else order


def _reaches(value: Value, target: Value, depth: int = 8) -> bool:
    if value is target:
        return True
    return depth > 0 and any(_reaches(arg, target, depth - 1) for arg in value.operands())


def _hides_future(test: Value) -> bool | None:
    """True if `test` holds exactly where the key is later than the query, False if exactly elsewhere, else None."""
    test = strip(test)
    if test.op in ("to", "float") and test.args:
        return _hides_future(test.args[0])
    if test.op == "not":
        inner = _hides_future(test.args[0])
        return None if inner is None else not inner
    if test.op in ("lt", "gt", "le", "ge") and len(test.args) == 2:
        return _compares_grid(test)
    if test.op in ("eq", "ne") and len(test.args) == 2 and test.args[1].op == "const":
        inner = _hides_future(test.args[0])
        zero = test.args[1].data in (0, False)
        one = test.args[1].data in (1, True)
        if inner is None or not (zero or one):
            return None
        return inner if (test.op == "ne") == zero else not inner
    if test.op in ("tril", "triu") and test.args and strip(test.args[0]).op in ("ones", "to", "float", "ones_like"):
        diagonal = test.argument(1, "diagonal")
        shift = 0 if diagonal is None else diagonal.data
        if test.op == "tril" and shift == 0:
            return False
        if test.op == "triu" and shift == 1:
            return True
    return None


def _compares_grid(test: Value) -> bool | None:
    left, right = (grid_axis(arg) for arg in test.args)
    lengths = [arange_length(arg) for arg in test.args]
    if None in lengths or {left, right} != {-1, -2}:
        return None
    op = test.op if left == -2 else {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}[test.op]
    return {"lt": True, "ge": False}.get(op)


def _is_number(value: Value, owner: ClassInfo | None, depth: int = 6) -> bool:
    """Whether a scale is a plain number: sizes, constants, numeric attributes, and arithmetic of them."""
    value = strip(value)
    if depth == 0:
        return False
    if value.op == "const":
        return isinstance(value.data, int | float)
    if size_of(value) is not None:
        return True
    if value.op == "attr":
        return owner is not None and _is_numeric_attribute(owner, value.data)
    if value.op in ("sqrt", "pow", "div", "mul", "add", "floordiv", "to", "float"):
        if value.op == "sqrt" and isinstance(value.data, str) and value.data.startswith("torch"):
            return False
        return all(_is_number(arg, owner, depth - 1) for arg in value.args)
    return value.op == "unpack" and value.args[0].op in ("shape", "size")


_NUMERIC = (ast.BinOp, ast.Constant, ast.Name, ast.UnaryOp)


def _is_numeric_attribute(owner: ClassInfo, name: str) -> bool:
    value = owner.attribute(name)
    if value is None or name in owner.stores_outside_init:
        return False
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            if owner.index.resolve(node.func) not in ("math.sqrt", "float", "int", "pow"):
                return False
        elif not isinstance(node, (*_NUMERIC, ast.operator, ast.unaryop, ast.expr_context, ast.Attribute)):
            return False
    return True


def _number(value: Value) -> float | None:
    value = strip(value)
    if value.op == "const" and isinstance(value.data, int | float):
        return float(value.data)
    if value.op == "neg":
        inner = _number(value.args[0])
        return None if inner is None else -inner
    if value.op == "global" and value.data in ("math.inf", "torch.inf", "numpy.inf"):
        return math.inf
    if value.op == "getattr" and value.data == "min" or value.op == "global" and str(value.data).endswith(".min"):
        return None
    return None


def _text(value: Value) -> str:
    return ast.unparse(value.node) if value.node is not None else value.op
