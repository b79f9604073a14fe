"""A block's ReLU or GELU feed-forward becomes SwiGLU at the same number of parameters."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Claim,
    Codemod,
    Finding,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Remove,
    Replace,
    Site,
    Swap,
    SwiGLUPart,
)
from migrator.recognise.blocks import FeedForward, blocks, feed_forwards, has_modern_feed_forward, linears
from migrator.recognise.constants import init_values
from migrator.recognise.index import FileIndex
from migrator.recognise.spelling import free_name, runtime_name


@dataclass(frozen=True)
class _Part:
    edits: tuple[AnyEdit, ...]


class SwiGLU(Codemod):
    """down(relu(up(x))) -> down(silu(gate(x)) * up(x)), hidden width times 2/3."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "A gated feed-forward learns more from the same number of parameters."
    reference = "Shazeer 2020, GLU Variants Improve Transformer, arXiv 2002.05202"
    after = ("pre_norm",)
    refusals = {
        "hidden-width": "the two products do not share one hidden width that the source says",
        "linear-arguments": "a product is built in a way that does not tell its widths",
        "shared-activation": "the hidden values are used for more than the second product",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for found in feed_forwards(index):
            place = Place.of(found.owner.name, _node(found), found.owner.definition)
            yield _inline(index, found, place) if found.kind == "inline" else _sequential(index, found, place)
        for block in blocks(index).values():
            if has_modern_feed_forward(block):
                yield Modern(
                    Place.of(block.info.name, block.info.node, block.info.definition), "gated feed-forward already"
                )

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        yield from part.edits


def _node(found: FeedForward) -> ast.AST:
    if found.activation is not None and found.activation.node is not None:
        return found.activation.node
    return found.owner.attributes[found.attribute][0].statement


# --- products written in forward --------------------------------------------------------------------------------


def _inline(index: FileIndex, found: FeedForward, place: Place) -> Finding:
    calls = linears(found.owner)
    first, last = calls[found.first], calls[found.last]
    if not (_plain(first) and _plain(last)):
        remedy = "write nn.Linear(in_features, out_features)"
        return Refusal(place, "linear-arguments", f"`{ast.unparse(first)}` does not name both widths", remedy)
    if ast.dump(first.args[1]) != ast.dump(last.args[0]):
        seen = f"hidden width is `{ast.unparse(first.args[1])}` here and `{ast.unparse(last.args[0])}` there"
        return Refusal(place, "hidden-width", seen, "use one expression for both")
    assert found.call is not None and found.activation is not None
    if len(found.call.users) != 1 or found.call.node is None or found.activation.node is None:
        return Refusal(
            place, "shared-activation", f"the output of `{found.first}` is used twice", "give each use its own product"
        )
    up = _up_name(found)
    edits = [*_init_edits(index, found, first, last, up), *_forward_edits(index, found, up)]
    part = SwiGLUPart(found.owner.name, found.first, up, found.last)
    return Site(place, _message(index, found, first, last), _claim(found, part, ()), _Part(tuple(edits)))


def _plain(call: ast.Call) -> bool:
    """nn.Linear(a, b) with nothing else but constants such as bias=False."""
    return len(call.args) == 2 and all(k.arg == "bias" and isinstance(k.value, ast.Constant) for k in call.keywords)


def _init_edits(index: FileIndex, found: FeedForward, first: ast.Call, last: ast.Call, up: str) -> Iterator[AnyEdit]:
    definition = found.owner.definition
    statement = found.owner.attributes[found.first][0].statement
    width, imported = runtime_name(index, "swiglu_width")
    hidden = definition.source(first.args[1])
    name = free_name(index, definition, "dim_swiglu" if hidden.startswith("dim") else "swiglu_dim", "swiglu_hidden_dim")
    bias = "".join(f", {definition.source(k.value) and k.arg}={definition.source(k.value)}" for k in first.keywords)
    linear = definition.source(first.func)
    yield Insert(definition, statement, f"{name} = {width}({hidden})", "before")
    yield Replace(definition, first.args[1], name)
    yield Insert(definition, statement, f"self.{up} = {linear}({definition.source(first.args[0])}, {name}{bias})")
    yield Replace(definition, last.args[0], name)
    yield imported


def _forward_edits(index: FileIndex, found: FeedForward, up: str) -> Iterator[AnyEdit]:
    """`x = self.fc1(x); x = F.relu(x)` and `F.relu(self.fc1(x))` -> `swiglu(self.fc1(x), self.up(x))`."""
    definition = found.flow.definition
    assert found.call is not None and found.activation is not None
    call, activation = found.call, found.activation
    assert isinstance(call.node, ast.Call) and activation.node is not None and activation.statement is not None
    spelling, imported = runtime_name(index, "swiglu")
    argument = definition.source(call.node.args[0])
    if not isinstance(call.node.args[0], ast.Name):
        assert call.statement is not None
        name = free_name(index, definition, "normed", "ffn_input")
        yield Insert(definition, call.statement, f"{name} = {argument}", "before")
        argument = name
    gated = f"{spelling}(self.{found.first}({argument}), self.{up}({argument}))"
    nested = any(node is call.node for node in ast.walk(activation.node))
    if nested:
        yield Replace(definition, activation.node, gated)
    else:
        yield Replace(definition, call.node, gated)
        yield from _drop_activation(found)
    yield imported


def _drop_activation(found: FeedForward) -> Iterator[AnyEdit]:
    assert found.activation is not None and found.call is not None
    node, statement = found.activation.node, found.activation.statement
    assert isinstance(node, ast.expr) and statement is not None
    definition = found.flow.definition
    name = found.flow.text_at(found.call, statement)
    assert name is not None
    if isinstance(statement, ast.Assign) and statement.value is node and ast.unparse(statement.targets[0]) == name:
        yield Remove(definition, statement)
    else:
        yield Replace(definition, node, name)


def _up_name(found: FeedForward) -> str:
    """`ffn_up` beside `ffn_fc1`, `up` beside `linear1`."""
    prefix = re.match(r"(.*_)?[A-Za-z]*_?\d*$", found.first)
    stem = (prefix.group(1) or "") if prefix else ""
    taken = {*found.owner.attributes, *found.owner.methods}
    return next(name for name in (f"{stem}up", f"{stem}up_proj", "swiglu_up") if name not in taken)


# --- nn.Sequential ------------------------------------------------------------------------------------------------


def _sequential(index: FileIndex, found: FeedForward, place: Place) -> Finding:
    value = found.owner.attribute(found.attribute)
    assert isinstance(value, ast.Call)
    products = [arg for arg in value.args if isinstance(arg, ast.Call) and _is(index, arg, "torch.nn.Linear")]
    first, last = products
    if not (_plain(first) and _plain(last)):
        remedy = "write nn.Linear(in_features, out_features)"
        return Refusal(place, "linear-arguments", f"`{ast.unparse(first)}` does not name both widths", remedy)
    same = ast.dump(first.args[1]) == ast.dump(last.args[0]) and ast.dump(first.args[0]) == ast.dump(last.args[1])
    bias = [[ast.dump(k.value) for k in call.keywords] for call in products]
    if not same or bias[0] != bias[1]:
        return Refusal(
            place, "hidden-width", "the two products do not mirror each other", "use the same widths in both"
        )
    edits, renamed = _sequential_edits(index, found, value, first, last)
    owner, attribute = found.owner.name, found.attribute
    gate = f"{attribute}.0" if len(renamed[0][2].split(".")) > 3 else attribute
    part = SwiGLUPart(owner, f"{gate}.gate", f"{gate}.up", f"{gate}.down")
    return Site(place, _message(index, found, first, last), _claim(found, part, renamed), _Part(tuple(edits)))


def _sequential_edits(
    index: FileIndex, found: FeedForward, value: ast.Call, first: ast.Call, last: ast.Call
) -> tuple[list[AnyEdit], tuple[tuple[str, str, str], ...]]:
    definition = found.owner.definition
    spelling, imported = runtime_name(index, "SwiGLU")
    width, more = runtime_name(index, "swiglu_width")
    words = [definition.source(first.args[0]), f"{width}({definition.source(first.args[1])})"]
    words += [f"bias={definition.source(k.value)}" for k in first.keywords]
    places = [position for position, arg in enumerate(value.args) if arg in (first, last)]
    inner = [arg for arg in value.args[places[0] + 1 : places[1]] if _is(index, arg, "torch.nn.Dropout")]
    outer = [arg for arg in value.args[places[1] + 1 :] if _is(index, arg, "torch.nn.Dropout")]
    words += [f"dropout={definition.source(arg.args[0])}" for arg in inner if isinstance(arg, ast.Call) and arg.args]
    code = f"{spelling}({', '.join(words)})"
    if outer:
        code = f"{definition.source(value.func)}({code}, {', '.join(definition.source(arg) for arg in outer)})"
    prefix = f"{found.attribute}.0" if outer else found.attribute
    renamed = tuple(
        (found.owner.name, f"{found.attribute}.{place}.{kind}", f"{prefix}.{new}.{kind}")
        for place, new in zip(places, ("gate", "down"), strict=True)
        for kind in (("weight", "bias") if not first.keywords else ("weight",))
    )
    return [Replace(definition, value, code), imported, more], renamed


def _is(index: FileIndex, node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and index.resolve(node.func) == name


# --- what is said of it -------------------------------------------------------------------------------------------


def _claim(found: FeedForward, part: SwiGLUPart, renamed: tuple[tuple[str, str, str], ...]) -> Claim:
    definition = found.owner.definition
    if found.activation is not None and isinstance(found.activation.node, ast.Call):
        node = found.activation.node
        operand = node.args[0] if node.args else getattr(node.func, "value", None)
        swaps = tuple(Swap.of(definition, node, f"({definition.source(one)})") for one in [operand] if one is not None)
    else:
        value = found.owner.attribute(found.attribute)
        assert isinstance(value, ast.Call)
        nn = definition.source(value.func).rpartition(".")[0]
        swaps = tuple(
            Swap.of(definition, arg, f"{nn}.Identity()" if nn else "Identity()")
            for arg in value.args
            if _is(found.owner.index, arg, "torch.nn.ReLU") or _is(found.owner.index, arg, "torch.nn.GELU")
        )
    return Claim((found.owner.name,), (found.owner.name,), off=swaps, parts=(part,), renamed=renamed)


def _message(index: FileIndex, found: FeedForward, first: ast.Call, last: ast.Call) -> str:
    """What happens, with true parameter counts where the file itself says the widths."""
    text = f"{found.name.upper() if found.name == 'gelu' else 'ReLU'} feed-forward -> SwiGLU"
    widths = set(zip(*(init_values(index, found.owner, arg) for arg in first.args), strict=True))
    counts = {_counts(int(a), int(b), bool(first.keywords)) for a, b in widths if a is not None and b is not None}
    if len(counts) == 1 and None not in {w for pair in widths for w in pair}:
        before, after = counts.pop()
        text += f", {before:,} -> {after:,} parameters"
    return text


def _counts(embed: int, hidden: int, no_bias: bool) -> tuple[int, int]:
    narrow = max(1, (4 * hidden + 24) // 48) * 8  # as runtime.swiglu_width
    bias = 0 if no_bias else 1
    return 2 * embed * hidden + bias * (hidden + embed), 3 * embed * narrow + bias * (2 * narrow + embed)
