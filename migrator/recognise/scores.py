"""From the softmax back to queries and keys: masks, scale and product."""

from __future__ import annotations

import ast
import math

from migrator.recognise.anatomy import LOWEST, Attention, Mask, Stop, text_of
from migrator.recognise.calls import given_in_calls
from migrator.recognise.hiding import fill_of_hidden_future
from migrator.recognise.index import ClassInfo
from migrator.recognise.masks import (
    constant,
    hides_future,
    is_boolean,
    is_lower_right,
    is_number,
    is_numeric_attribute,
    is_triangle_of_infinities,
)
from migrator.recognise.mixtures import Mixed, is_zero_one, mixed_with_a_number
from migrator.recognise.products import find_product, is_product, made_of, reaches
from migrator.recognise.shapes import REST, Symbol, einsum_of, is_axis, last_sizes, rank, swaps_last_two, symbol
from migrator.recognise.values import Flow, Value, strip
from migrator.recognise.weights import Weights, check

_Moves = dict[str, tuple[int, ...]]


def read(flow: Flow, product: Value, way: Weights) -> Attention:
    """The attention that leads from `product` through `way`. Raises Stop at what is not understood."""
    return _Reader(flow, product, way).read()


class _Reader:
    def __init__(self, flow: Flow, product: Value, way: Weights) -> None:
        self.flow, self.product, self.way = flow, product, way
        self.masks: list[Mask] = []
        self.scale: Value | None = None
        self.scale_op = "none"
        self.scale_condition: Value | None = None
        self.passed: list[Value] = [product, *way.links]

    @property
    def owner(self) -> ClassInfo | None:
        return self.flow.owner

    def read(self) -> Attention:
        self.check_softmax()
        check(self.flow, self.way)
        self.walk(self.way.softmax.args[0], None)
        q, k, transposed, moves = self.queries_and_keys()
        v, more = self.values()
        self.settle_scale(last_sizes(q) | (last_sizes(k) if transposed else set()))
        self.check_masks()
        self.check_surroundings()
        assert self.way.output.node is not None
        return Attention(
            self.flow,
            q,
            k,
            v,
            self.way.output,
            self.way.output.node,
            "legacy",
            self.way.softmax,
            transposed,
            self.scale,
            self.scale_op,
            self.scale_condition,
            self.masks[::-1],
            self.way.dropout,
            self.way.condition,
            None if einsum_of(self.product) is not None else self.product.args[1],
            self.passed,
            {**moves, **more},
        )

    def check_softmax(self) -> None:
        softmax = self.way.softmax
        axis = softmax.argument(1, "dim")
        if axis is None or not is_axis(axis, -1, softmax.args[0]):
            seen = "no axis given" if axis is None else f"axis {text_of(axis)}"
            raise Stop("softmax-axis", f"the softmax does not run over the last axis for certain ({seen})")
        if "dtype" in softmax.keywords or len(softmax.args) > 2:
            raise Stop("upcast", "the softmax is computed in a dtype of its own")

    def check_masks(self) -> None:
        """Rows in which all keys are hidden must come out the same, so different ways of hiding must not meet."""
        fills = {mask.fill for mask in self.masks if mask.kind != "bias"}
        inner = self.masks[-1] if self.masks else None  # the first one that is applied
        harmless = inner is not None and inner.kind == "bias" and inner.value is not None and is_product(inner.value)
        biased = any(mask.kind == "bias" for mask in (self.masks[:-1] if harmless else self.masks))
        if len(fills) > 1:
            raise Stop("mask-fill", f"two masks hide scores with different numbers: {sorted(fills)}")
        if biased and fills - {-math.inf}:
            seen = "a mask is added and another one fills in a number; they differ where no key is left to attend to"
            raise Stop("mask", seen)

    def check_surroundings(self) -> None:
        """The one call stands where the weighted sum stood: gradients and autocasting must be the same there."""
        here = self.flow.around.get(self.way.output.statement) if self.way.output.statement is not None else None
        for value in self.passed:
            if value.statement is not None and self.flow.around.get(value.statement) is not here:
                raise Stop("context", "parts of the attention stand under different `with` statements", value.node)

    # --- from softmax inwards ---------------------------------------------------------------------------------

    def walk(self, value: Value, condition: Value | None) -> None:
        while value is not self.product:
            value = self.step(value, condition)

    def step(self, value: Value, condition: Value | None) -> Value:
        self.passed.append(value)
        handler = getattr(self, f"step_{value.op}", None)
        scaled = value.op in ("add", "div", "mul", "sub") and len(value.args) != 2  # torch.add(x, alpha, y) of old
        if handler is None or scaled or (value.keywords and value.op not in ("masked_fill", "where", "call")):
            code = "upcast" if value.op in ("to", "float") else "scores"
            raise Stop(code, f"between scores and softmax stands `{text_of(value)}`", value.node)
        inner: Value = handler(value, condition)
        return inner

    def leads(self, value: Value) -> bool:
        return value is self.product or find_product(value) is self.product

    def step_contiguous(self, value: Value, condition: Value | None) -> Value:
        return value.args[0]

    def step_masked_fill(self, value: Value, condition: Value | None) -> Value:
        hidden, fill = value.argument(1, "mask"), value.argument(2, "value")
        if hidden is None or fill is None:
            raise Stop("mask", f"mask not understood: `{text_of(value)}`", value.node)
        self.add_mask("hide", hidden, fill, condition, value)
        return value.args[0]

    def step_call(self, value: Value, condition: Value | None) -> Value:
        """`hide_(scores, float("-inf"))`, a function of the file that hides later keys in place."""
        fill = fill_of_hidden_future(self.flow.index, value)
        if fill is None:
            raise Stop("scores", f"between scores and softmax stands `{text_of(value)}`", value.node)
        self.add_future(fill, condition, value)
        return value.args[0]

    def step_where(self, value: Value, condition: Value | None) -> Value:
        if len(value.args) == 3:
            test, one, other = value.args
            if self.leads(one) and not self.leads(other):
                self.add_mask("keep", test, other, condition, value)
                return one
            if self.leads(other) and not self.leads(one):
                self.add_mask("hide", test, one, condition, value)
                return other
        raise Stop("mask", f"mask not understood: `{text_of(value)}`", value.node)

    def step_sub(self, value: Value, condition: Value | None) -> Value:
        mixed = mixed_with_a_number(value, self.leads)
        if mixed is None:
            raise Stop("scores", f"between scores and softmax stands `{text_of(value)}`", value.node)
        self.add_mixed(mixed, condition, value)
        return mixed.scores

    def add_mixed(self, mixed: Mixed, condition: Value | None, at: Value) -> None:
        """`scores * mask - 1e9 * (1 - mask)`, which hides where the mask of zeros and ones is 0."""
        if not is_zero_one(mixed.mask, self.owner):
            raise Stop("mask", f"`{text_of(mixed.mask)}` is not known to be of zeros and ones", at.node)
        self.passed.append(mixed.product)
        self.add_mask("keep", mixed.mask, mixed.fill, condition, at)
        self.masks[-1].numeric = True

    def step_add(self, value: Value, condition: Value | None) -> Value:
        mixed = mixed_with_a_number(value, self.leads)
        if mixed is not None:
            self.add_mixed(mixed, condition, value)
            return mixed.scores
        inner, bias = value.args if self.leads(value.args[0]) else value.args[::-1]
        self.check_apart(bias, value)
        if self.scale_op != "none":
            raise Stop("mask", f"`{text_of(bias)}` is added before the scores are scaled", value.node)
        if is_boolean(bias) or is_number(bias, self.owner):
            raise Stop("mask", f"`{text_of(bias)}` is added to the scores, and is no tensor of floats", value.node)
        if is_triangle_of_infinities(bias):
            self.masks.append(Mask("causal", None, condition=condition))
        else:
            self.masks.append(Mask("bias", bias, condition=condition))
        return inner

    def step_div(self, value: Value, condition: Value | None) -> Value:
        if not self.leads(value.args[0]):
            raise Stop("scores", f"the scores divide something: `{text_of(value)}`", value.node)
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
            raise Stop("scores", "the scores come from two different branches", value.node)
        if reaches(other, one):
            one, other, test = other, one, Value("not", (test,))
        elif not reaches(one, other):
            raise Stop("scores", "the scores come from two different branches", value.node)
        while one is not other:
            one = self.step(one, test)
        return other

    def set_scale(self, op: str, factor: Value, condition: Value | None, at: Value) -> None:
        if self.scale_op != "none":
            raise Stop("scale", f"the scores are scaled in more than one place: `{text_of(at)}`", at.node)
        if not is_number(factor, self.owner) and not self.is_given_number(factor):
            raise Stop("scale", f"the scale `{text_of(factor)}` is not a plain number", at.node)
        self.scale_op, self.scale, self.scale_condition = op, factor, condition

    def is_given_number(self, factor: Value) -> bool:
        """Whether a parameter of a free function is a plain number in all calls that the file makes."""
        given = given_in_calls(self.flow, factor)
        return bool(given) and all(_is_said_number(argument, owner) for argument, owner in given or ())

    def add_future(self, fill: Value, condition: Value | None, at: Value) -> None:
        self.masks.append(Mask("causal", None, self.hiding(fill, at), condition))

    def hiding(self, fill: Value, at: Value) -> float:
        """The number that hidden scores become."""
        number = LOWEST if self.is_lowest(fill) else constant(fill, self.owner)
        if number is None or number > -1e4:
            why = "is not known to be low enough" if number is None else "is not low enough"
            raise Stop("mask-fill", f"hidden scores become `{text_of(fill)}`, which {why} to hide them", at.node)
        if self.scale_op != "none" and number != -math.inf:
            raise Stop("mask", "the scores are masked before they are scaled", at.node)
        return number

    def add_mask(self, kind: str, test: Value, fill: Value, condition: Value | None, at: Value) -> None:
        number = self.hiding(fill, at)
        while test.data == "expand_as" and self.leads(test.args[1]):  # as broadcasting does by itself
            test = test.args[0]
        self.check_apart(test, at)
        hides = hides_future(test)
        if hides is not None and hides == (kind == "hide"):
            self.masks.append(Mask("causal", test if is_lower_right(test) else None, number, condition))
        else:
            self.masks.append(Mask(kind, test, number, condition))

    def check_apart(self, term: Value, at: Value) -> None:
        """Fused attention never has the scores, so that no mask can be made of them."""
        if made_of(term, self.product):
            raise Stop("mask", f"`{text_of(term)}` is made of the scores themselves", at.node)

    def is_lowest(self, fill: Value) -> bool:
        """`torch.finfo(scores.dtype).min`, or minus its max."""
        fill, wanted = (fill.args[0], "max") if fill.op == "neg" else (fill, "min")
        info = fill.args[0] if fill.op == "getattr" and fill.data == wanted else None
        if info is None or info.data != "torch.finfo" or len(info.args) != 1:
            return False
        dtype = info.args[0]
        return dtype.op == "getattr" and dtype.data == "dtype" and self.leads(dtype.args[0])

    # --- the two products -------------------------------------------------------------------------------------

    def queries_and_keys(self) -> tuple[Value, Value, bool, _Moves]:
        if einsum_of(self.product) is not None:
            return self.einsum_scores()
        if self.product.op == "baddbmm":
            raise Stop("scores", "scores by baddbmm", self.product.node)
        q, kt = self.product.args
        kt = strip(kt)
        dims = 3 if self.product.op == "bmm" else rank(q) or rank(self.way.output)
        if swaps_last_two(kt, rank(kt) or dims):
            return q, kt.args[0], True, {}
        return q, kt, False, {}

    def einsum_scores(self) -> tuple[Value, Value, bool, _Moves]:
        """einsum("bhtd,bhsd->bhts", q, k) in any letters: which operand is q, and how its axes lie."""
        letters = einsum_of(self.product)
        assert letters is not None
        (first, second), out = letters[0].operands, letters[0].output
        q, k = letters[1]
        if len(out) < 3 or len(set(out)) != len(out):
            raise Stop("scores", f"einsum `{text_of(self.product)}` not understood", self.product.node)
        t, s, batch = out[-2], out[-1], out[:-2]
        if t in second and s in first:
            (first, second), (q, k) = (second, first), (k, q)
        summed = [c for c in first if c in second and c not in out]
        if len(summed) != 1 or t in second or s in first:
            raise Stop("scores", "the scores are not one product of queries with keys", self.product.node)
        moves = {"q": _order(first, batch + t + summed[0]), "k": _order(second, batch + s + summed[0])}
        return q, k, True, moves

    def values(self) -> tuple[Value, _Moves]:
        output, final = self.way.output, self.way.final
        letters = einsum_of(output)
        if letters is None:
            weights, v = output.args
            if weights is not final or v is final:
                raise Stop("values", f"the weights are not the left factor: `{text_of(output)}`", output.node)
            return v, {}
        first = letters[1][0] is final
        one, other = letters[0].operands if first else letters[0].operands[::-1]
        v = letters[1][1] if first else letters[1][0]
        batch, t, s = one[:-2], one[-2:-1], one[-1:]
        d = [c for c in other if c not in one]
        if v is final or len(one) < 3 or len(d) != 1 or set(letters[0].output) != set(batch) | {t, d[0]}:
            raise Stop("values", "the weighted sum is not over the keys alone", output.node)
        plain = batch + t + d[0]
        return v, {"v": _order(other, batch + s + d[0]), "output": _order(plain, letters[0].output)}

    def settle_scale(self, sizes: set[Symbol]) -> None:
        """Recognise 1/sqrt(head_dim), which needs not be said."""
        if self.scale is None or self.scale_condition is not None:
            return
        root = strip(self.scale)
        if self.scale_op == "div":
            known = {symbol(_size(root.args[0])) if root.op == "sqrt" else None, _power(root, 0.5)}
        else:
            known = {_power(root, -0.5), _inverse_root(root)}
        if (known - {None}) & sizes:
            self.scale_op = "default"


def _is_said_number(argument: ast.expr | None, owner: ClassInfo | None) -> bool:
    """Whether an argument is a number that is spelt out, or an attribute that `__init__` sets to one."""
    if isinstance(argument, ast.Constant):
        return isinstance(argument.value, int | float)
    if not isinstance(argument, ast.Attribute) or ast.unparse(argument.value) != "self":
        return False
    return owner is not None and is_numeric_attribute(owner, argument.attr)


def _size(value: Value) -> Value:
    return value.args[0] if value.op in ("to", "float") and value.args else value


def _power(value: Value, exponent: float) -> object:
    if value.op == "pow" and len(value.args) == 2 and value.args[1].is_const(exponent):
        return symbol(value.args[0])
    return None


def _inverse_root(value: Value) -> object:
    """d of `1 / sqrt(d)`."""
    if value.op == "div" and constant(value.args[0]) == 1:
        root = strip(value.args[1])
        return symbol(_size(root.args[0])) if root.op == "sqrt" else _power(root, 0.5)
    return None


def _order(have: str, want: str) -> tuple[int, ...]:
    """The permutation that brings axes from `have` to `want`; empty if there is nothing to move."""
    if sorted(have) != sorted(want):
        raise Stop("scores", f"an operand has the axes `{have}`, where `{want}` are needed")
    if REST in have and have != want:
        raise Stop("scores", "axes would have to be moved of a tensor whose number of axes is not known")
    order = tuple(have.index(letter) for letter in want)
    return () if order == tuple(range(len(order))) else order
