"""Where a gate can come into a feed-forward, and what stands in the way where it can not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import Modern, Place, Refusal, Swap
from migrator.recognise.blocks import blocks
from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.composition import users_of
from migrator.recognise.constants import init_values
from migrator.recognise.feed_forwards import (
    FeedForward,
    feed_forwards,
    has_modern_feed_forward,
    of_sum,
    strange_feed_forward,
)
from migrator.recognise.halves import apart, halves_elsewhere
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.lambdas import aliases, kept_lambda
from migrator.recognise.layers import Layer, Sum, is_gated, layers
from migrator.recognise.matrices import products, roles
from migrator.recognise.noise import sole_user
from migrator.recognise.pairs import partners

REFUSALS = {
    "hidden-width": "the two products do not share one hidden width that the source says",
    "linear-arguments": "a product is built in a way that does not tell its widths",
    "shared-activation": "the hidden values are used for more than the second product",
    "used-elsewhere": "the feed-forward or its weights are also used by something else",
    "not-plain": "the feed-forward is not two linear products with ReLU or GELU between them",
    "layout": "the place cannot be edited statement by statement",
}

_SIMPLE = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr

_PLAIN = "keep it, or bring it to fc2(relu(fc1(x)))"
_WEIGHTS = ("parameters", "named_parameters", "apply")


@dataclass(frozen=True)
class Gateless:
    """A feed-forward that can be given a gate, and the two calls of nn.Linear that build its products."""

    found: FeedForward
    place: Place
    first: ast.Call
    last: ast.Call

    @property
    def embed(self) -> ast.expr:
        """The width of what goes into the first product."""
        return _widths(self.found.owner.index, self.first)[0]

    @property
    def hidden(self) -> tuple[ast.expr, ast.expr]:
        """The hidden width, as either product has it."""
        index = self.found.owner.index
        return _widths(index, self.first)[1], _widths(index, self.last)[0]

    @property
    def biases(self) -> tuple[bool, bool]:
        """Which of the two products has a bias."""
        return has_bias(self.first), has_bias(self.last)

    @property
    def activation_name(self) -> str:
        """ReLU, GELU, tanh GELU or quick GELU."""
        if self.found.name == "gelu":
            return "tanh GELU" if self.approximate else "GELU"
        return self.found.name.replace("relu", "ReLU").replace("gelu", "GELU")

    @property
    def approximate(self) -> bool:
        """Whether its GELU is, or may be, the one by tanh."""
        node = self._activation
        made: ast.expr | None = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) else node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_self(node.func.value):
            made = self.found.owner.attribute(node.func.attr)
        if not isinstance(made, ast.Call):
            return False
        given = [word.value for word in made.keywords if word.arg == "approximate"]
        given += made.args[:1] if made is not node or self.found.activation is None else []
        return any(not (isinstance(value, ast.Constant) and value.value == "none") for value in given)

    @property
    def _activation(self) -> ast.expr:
        if self.found.activation is not None:
            assert isinstance(self.found.activation.node, ast.expr)
            return self.found.activation.node
        value = self.found.owner.attribute(self.found.attribute)
        assert isinstance(value, ast.Call)
        return value.args[value.args.index(self.first) + 1]

    def switched_off(self) -> tuple[Swap, ...]:
        """The activation, out of the way."""
        definition, node = self.found.owner.definition, self._activation
        if self.found.activation is None:
            value = self.found.owner.attribute(self.found.attribute)
            assert isinstance(value, ast.Call)
            nn = definition.source(value.func).rpartition(".")[0]
            return (Swap.of(definition, node, f"{nn}.Identity()" if nn else "Identity()"),)
        if not isinstance(node, ast.Call):
            return ()
        operand = node.args[0] if node.args else getattr(node.func, "value", None)
        return () if operand is None else (Swap.of(definition, node, f"({definition.source(operand)})"),)

    def widths(self, index: FileIndex) -> tuple[int, int] | None:
        """Embedding and hidden width, where the file itself says them."""
        words = (self.embed, self.hidden[0])
        found = set(zip(*(init_values(index, self.found.owner, word) for word in words), strict=True))
        known = {(int(a), int(b)) for a, b in found if a is not None and b is not None}
        return known.pop() if len(found) == len(known) == 1 else None


def _widths(index: FileIndex, call: ast.Call) -> tuple[ast.expr, ast.expr]:
    found = roles(index, call)
    widths = found.widths(call) if found is not None else None
    assert widths is not None
    return widths


def gateless(index: FileIndex) -> Iterator[Gateless | Modern | Refusal]:
    """Every feed-forward of a block: one that can be given a gate, one that has a gate already, or why it can't."""
    for found in feed_forwards(index):
        place = Place.of(found.owner.name, _node(found), found.owner.definition)
        elsewhere = _halves_elsewhere(index, found) if found.halves is not None else _used_elsewhere(index, found)
        if elsewhere:
            yield Refusal(place, "used-elsewhere", elsewhere, "give that other use a module of its own")
        else:
            yield _sequential(index, found, place) if found.kind == "sequential" else _products(found, place)
    for block in blocks(index).values():
        place = Place.of(block.info.name, block.info.node, block.info.definition)
        if has_modern_feed_forward(block):
            yield Modern(place, "gated feed-forward already")
        elif strange := strange_feed_forward(index, block):
            seen = f"`self.{strange}` is not two linear products with ReLU or GELU between them"
            yield Refusal(place, "not-plain", seen, _PLAIN)
    for layer in layers(index):
        yield from _of_layer(index, layer)


def _of_layer(index: FileIndex, layer: Layer) -> Iterator[Modern | Refusal]:
    """What is said of a layer's feed-forward that is no plain one."""
    node = layer.pairs.statement if layer.pairs is not None else layer.info.node
    place = Place.of(layer.name, node, layer.info.definition)
    for one in layer.sums:
        if one.kind != "feed_forward" or of_sum(index, one) is not None:
            continue
        if is_gated(one):
            yield Modern(place, "gated feed-forward already")
        else:
            seen = f"{_whereabouts(layer, one)} is not two linear products with ReLU or GELU between them"
            yield Refusal(place, "not-plain", seen, _PLAIN)


def _whereabouts(layer: Layer, one: Sum) -> str:
    """The classes in which the feed-forward of a sum stands."""
    owners = [step.frame.owner for step in reversed(one.steps)]
    names = dict.fromkeys(owner.name for owner in owners if owner is not None and owner is not layer.info)
    return f"the branch through {', '.join(names)}" if names else "the branch"


def has_bias(linear: ast.Call) -> bool:
    return not any(isinstance(k.value, ast.Constant) and k.value.value is False for k in linear.keywords)


def _node(found: FeedForward) -> ast.AST:
    if found.activation is not None and found.activation.node is not None:
        return found.activation.node
    return found.owner.attributes[found.attribute][0].statement


def _halves_elsewhere(index: FileIndex, found: FeedForward) -> str:
    """What else uses a feed-forward in two classes, or their parts."""
    held = {component.attribute for name in found.definitions for component in users_of(index, name)}
    singled = _singled_out(index, {found.first, found.last}, held, _keys(found))
    return halves_elsewhere(index, found) or singled


def _used_elsewhere(index: FileIndex, found: FeedForward) -> str:
    """What else uses the feed-forward, or its parts."""
    info = found.owner
    run = {id(frame.made) for layer in layers(index) for frame in layer.frames if frame.made is not None}
    paired = [partner for partner in partners(index) if partner.name == info.name]
    if info.name not in {*blocks(index), *(layer.name for layer in layers(index))}:
        beside = {id(partner.call) for partner in paired}
        held = [component for component in users_of(index, info.name) if id(component.call) not in beside]
        others = [c for c in held if c.owner.name not in blocks(index) and id(c.call) not in run]
        if others:
            return f"{others[0].owner.name}.{others[0].attribute}, which is in no block, is a {info.name} too"
        inside = beside | run | {id(component.call) for component in held}
        if any(id(site.call) not in inside for site in index.calls.get(info.name, [])):
            return f"{info.name} is also built outside of the blocks"
    attributes = {found.first, found.last} if found.kind == "inline" else {found.attribute}
    calls = [v for v in found.flow.values if v.op == "module" and v.data in attributes]
    if len({value.data for value in calls}) != len(calls):
        return "one of its products is called twice"
    own = {id(value.node.func) for value in calls if isinstance(value.node, ast.Call)}
    own |= _nodes_of_items(found)
    # Items of a ModuleDict are read by their own names, and with it.
    attributes = {part for attribute in attributes for part in attribute.split(".")}
    line = borrower(index, info, attributes, own | set(assigned_nodes(info, attributes)))
    if line:
        return f"{line} uses a part of it"
    held_in = attributes | {component.attribute for component in users_of(index, info.name)}
    held_in |= {partner.attribute for partner in paired}
    return _singled_out(index, attributes if found.kind == "inline" else set(), held_in, _keys(found))


def _keys(found: FeedForward) -> set[int]:
    """The names by which its class keeps items in dicts."""
    dicts = (node for node in ast.walk(found.owner.node) if isinstance(node, ast.Dict))
    return {id(key) for one in dicts for key in one.keys if key is not None}


def _nodes_of_items(found: FeedForward) -> set[int]:
    """How classes read items of ModuleDicts, and parts in lambdas, of their own."""
    nodes: list[ast.AST] = []
    for info in found.owner.index.modules.values() if found.kept_in or "." in found.first else ():
        kept = [made for name in info.attributes if (made := kept_lambda(info, name)) is not None]
        for made in [*kept, *(aliases(info).values() if kept else ())]:
            nodes += ast.walk(made)
        items = {f"self.{name}.{key}" for name in info.attributes for key in info.items_of(name)}
        read = [n for n in ast.walk(info.node) if isinstance(n, ast.Attribute) and ast.unparse(n) in items]
        nodes += [node for one in read for node in ast.walk(one)]
    return {id(node) for node in nodes}


def _singled_out(index: FileIndex, products: set[str], held: set[str], own: set[int]) -> str:
    """Who freezes the feed-forward, or treats the weights of one product alone and would miss the new one."""
    for definition in index.definitions:
        compared = _compared_attributes(definition)
        for node in definition.nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                frozen = node.attr == "requires_grad_" and node.value.attr in held
                if frozen or (node.attr in _WEIGHTS and node.value.attr in products):
                    return f"line {definition.line(node)} treats its weights in a way of their own"
            text = node.value if isinstance(node, ast.Constant) and id(node) not in own | compared else None
            if isinstance(text, str) and products & {*text.split(".")}:
                return f"line {definition.line(node)} addresses a part of it by name"
    return ""


def _compared_attributes(definition: Definition) -> set[int]:
    """Strings that an attribute is compared with, as in `args.type == "mlp"`: these are values, no names of parts."""
    found: set[int] = set()
    for node in definition.nodes:
        if isinstance(node, ast.Compare) and all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) for side in sides):
                found |= {id(side) for side in sides}
    return found


# --- products written in forward --------------------------------------------------------------------------------


def _products(found: FeedForward, place: Place) -> Gateless | Refusal:
    if found.halves is None:
        calls = products(found.owner)
        return _inline(found, place, calls[found.first], calls[found.last])
    first, last = products(found.owner)[found.first], products(found.halves.last)[found.last]
    if not (_plain(found.owner.index, first) and _plain(found.owner.index, last)):
        return _unknown_widths(place, first)
    gateless = Gateless(found, place, first, last)
    reason = apart(found, *gateless.hidden)
    return Refusal(place, *reason) if reason is not None else gateless


def _inline(found: FeedForward, place: Place, first: ast.Call, last: ast.Call) -> Gateless | Refusal:
    if not (_plain(found.owner.index, first) and _plain(found.owner.index, last)):
        return _unknown_widths(place, first)
    here, there = Gateless(found, place, first, last).hidden
    if ast.dump(here) != ast.dump(there):
        seen = f"hidden width is `{ast.unparse(here)}` here and `{ast.unparse(there)}` there"
        return Refusal(place, "hidden-width", seen, "use one expression for both")
    assert found.call is not None and found.activation is not None
    if (found.kept_in or "." in found.first + found.last) and not _can_be_edited(found):
        seen = f"`{found.first}` takes more than a name, or is no keyword of one `nn.ModuleDict(dict(...))`"
        return Refusal(place, "layout", seen, "write the feed-forward in forward")
    if not _side_by_side(found) or not isinstance(found.call.statement, _SIMPLE):
        seen = f"`{found.first}` and `{found.last}` are not built or not used in plain statements side by side"
        return Refusal(place, "layout", seen, "assign both in one block of `__init__`")
    if found.call.node is None or found.activation.node is None or _is_shared(found):
        seen = f"the output of `{found.first}` is used twice"
        return Refusal(place, "shared-activation", seen, "give each use its own product")
    return Gateless(found, place, first, last)


def _unknown_widths(place: Place, first: ast.Call) -> Refusal:
    seen = f"`{ast.unparse(first)}` does not name both widths, or takes more than them and a bias"
    return Refusal(place, "linear-arguments", seen, "write nn.Linear(in_features, out_features)")


def _can_be_edited(found: FeedForward) -> bool:
    """Whether a lambda calls its first product on a name, and items of an nn.ModuleDict are keywords of one `dict`."""
    given = found.call.node.args if found.call is not None and isinstance(found.call.node, ast.Call) else []
    holders = {name.rpartition(".")[0] for name in (found.first, found.last)}
    value = found.owner.attribute(max(holders)) if holders != {""} else None
    inner = value.args[0] if isinstance(value, ast.Call) and value.args else None
    fits = holders == {""} or (len(holders) == 1 and isinstance(inner, ast.Call))
    return fits and len(given) == 1 and isinstance(given[0], ast.Name)


def _side_by_side(found: FeedForward) -> bool:
    """Whether one list of statements of `__init__` builds both products."""
    both = [found.owner.attributes[name.partition(".")[0]][0].statement for name in (found.first, found.last)]
    bodies = [
        body
        for node in ast.walk(found.owner.methods["__init__"])
        for body in (getattr(node, "body", []), getattr(node, "orelse", []))
        if isinstance(body, list)
    ]
    return any(all(statement in body for statement in both) for body in bodies)


def _is_shared(found: FeedForward) -> bool:
    """Whether anything but the second product sees the hidden values."""
    value = found.call
    stored = [store.value for store in found.flow.stores if store.kind == "attribute"]
    while value is not None and not (value.op == "module" and value.data == found.last):
        if any(value is one for one in (*stored, *(one for one, _ in found.flow.returns))):
            return True
        value = sole_user(found.owner, value)
    return value is None


def _plain(index: FileIndex, call: ast.Call) -> bool:
    """nn.Linear(a, b), or Conv1D(b, 1, a), with nothing else but constants such as bias=False."""
    found = roles(index, call)
    if found is None or found.widths(call) is None:
        return False
    strange = index.resolve(call.func) == "torch.nn.Linear" and len(call.args) > 2
    return not strange and all(k in ("", "bias") and isinstance(v, ast.Constant) for k, v in found.others(call))


# --- nn.Sequential ------------------------------------------------------------------------------------------------


def _sequential(index: FileIndex, found: FeedForward, place: Place) -> Gateless | Refusal:
    value = found.owner.attribute(found.attribute)
    assert isinstance(value, ast.Call)
    first, last = (arg for arg in value.args if is_call_of(index, arg, "torch.nn.Linear") and isinstance(arg, ast.Call))
    if not (_plain(index, first) and _plain(index, last)):
        return _unknown_widths(place, first)
    widths = [[ast.dump(width) for width in _widths(index, call)] for call in (first, last)]
    same = widths[0] == widths[1][::-1]
    bias = [[ast.dump(k.value) for k in call.keywords if k.arg == "bias"] for call in (first, last)]
    if not same or bias[0] != bias[1]:
        seen = "the two products do not mirror each other"
        return Refusal(place, "hidden-width", seen, "use the same widths in both")
    return Gateless(found, place, first, last)


def is_call_of(index: FileIndex, node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and index.resolve(node.func) == name


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"
