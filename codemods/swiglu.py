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
from migrator.recognise.blocks import (
    FeedForward,
    blocks,
    feed_forwards,
    has_modern_feed_forward,
    linears,
    strange_feed_forward,
)
from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.composition import built_outside, users_of
from migrator.recognise.constants import init_values
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.spelling import call, free_name, runtime_name
from migrator.recognise.syntax import walk_statements

_SIMPLE = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr

_WEIGHTS = ("parameters", "named_parameters", "apply")


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
        "used-elsewhere": "the feed-forward or its weights are also used by something else",
        "not-plain": "the feed-forward is not two linear products with ReLU or GELU between them",
        "layout": "the place cannot be edited statement by statement",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for found in feed_forwards(index):
            place = Place.of(found.owner.name, _node(found), found.owner.definition)
            elsewhere = _used_elsewhere(index, found)
            if elsewhere:
                remedy = "give that other use a module of its own"
                yield Refusal(place, "used-elsewhere", elsewhere, remedy)
            else:
                yield _inline(index, found, place) if found.kind == "inline" else _sequential(index, found, place)
        for block in blocks(index).values():
            place = Place.of(block.info.name, block.info.node, block.info.definition)
            if has_modern_feed_forward(block):
                yield Modern(place, "gated feed-forward already")
            elif strange := strange_feed_forward(index, block):
                seen = f"`self.{strange}` is not two linear products with ReLU or GELU between them"
                yield Refusal(place, "not-plain", seen, "keep it, or bring it to fc2(relu(fc1(x)))")

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        yield from part.edits


def _node(found: FeedForward) -> ast.AST:
    if found.activation is not None and found.activation.node is not None:
        return found.activation.node
    return found.owner.attributes[found.attribute][0].statement


def _used_elsewhere(index: FileIndex, found: FeedForward) -> str:
    """What else uses the feed-forward, or its parts."""
    info = found.owner
    known = blocks(index)
    if info.name not in known:
        others = [component for component in users_of(index, info.name) if component.owner.name not in known]
        if others:
            return f"{others[0].owner.name}.{others[0].attribute}, which is in no block, is a {info.name} too"
        if built_outside(index, info.name):
            return f"{info.name} is also built outside of the blocks"
    attributes = {found.first, found.last} if found.kind == "inline" else {found.attribute}
    calls = [v for v in found.flow.values if v.op == "module" and v.data in attributes]
    if len({value.data for value in calls}) != len(calls):
        return "one of its products is called twice"
    own = {id(value.node.func) for value in calls if isinstance(value.node, ast.Call)}
    line = borrower(index, info, attributes, own | set(assigned_nodes(info, attributes)))
    if line:
        return f"{line} uses a part of it"
    held = attributes | {component.attribute for component in users_of(index, info.name)}
    return _singled_out(index, attributes if found.kind == "inline" else set(), held)


def _singled_out(index: FileIndex, products: set[str], held: set[str]) -> str:
    """Who freezes the feed-forward, or treats the weights of one product alone and would miss the new one."""
    for definition in index.definitions:
        for node in ast.walk(definition.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                frozen = node.attr == "requires_grad_" and node.value.attr in held
                if frozen or (node.attr in _WEIGHTS and node.value.attr in products):
                    return f"line {definition.line(node)} treats its weights in a way of their own"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and products & {*node.value.split(".")}:
                return f"line {definition.line(node)} addresses a part of it by name"
    return ""


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
    if not _side_by_side(found) or not isinstance(found.call.statement, _SIMPLE):
        seen = f"`{found.first}` and `{found.last}` are not built or not used in plain statements side by side"
        return Refusal(place, "layout", seen, "assign both in one block of `__init__`")
    if found.call.node is None or found.activation.node is None or _is_shared(found):
        seen = f"the output of `{found.first}` is used twice"
        return Refusal(place, "shared-activation", seen, "give each use its own product")
    up = _up_name(found)
    edits = [*_init_edits(index, found, first, last, up), *_forward_edits(index, found, up)]
    part = SwiGLUPart(found.owner.name, found.first, up, found.last)
    return Site(place, _message(index, found, first, last), _claim(found, part, ()), _Part(tuple(edits)))


def _side_by_side(found: FeedForward) -> bool:
    """Whether one list of statements of `__init__` builds both products."""
    both = [found.owner.attributes[name][0].statement for name in (found.first, found.last)]
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
        if len(value.users) != 1 or any(value is one for one in (*stored, *(one for one, _ in found.flow.returns))):
            return True
        value = value.users[0]
    return False


def _plain(call: ast.Call) -> bool:
    """nn.Linear(a, b) with nothing else but constants such as bias=False."""
    return len(call.args) == 2 and all(k.arg == "bias" and isinstance(k.value, ast.Constant) for k in call.keywords)


def _init_edits(index: FileIndex, found: FeedForward, first: ast.Call, last: ast.Call, up: str) -> Iterator[AnyEdit]:
    definition = found.owner.definition
    statement = found.owner.attributes[found.first][0].statement
    other = found.owner.attributes[found.last][0].statement
    width, imported = runtime_name(index, "swiglu_width")
    hidden = definition.source(first.args[1])
    name = free_name(index, definition, "dim_swiglu" if hidden.startswith("dim") else "swiglu_dim", "swiglu_hidden_dim")
    bias = "".join(f", {definition.source(k.value) and k.arg}={definition.source(k.value)}" for k in first.keywords)
    linear = definition.source(first.func)
    earlier = min(statement, other, key=lambda one: one.lineno)
    yield Insert(definition, earlier, f"{name} = {width}({hidden})", "before")
    yield Replace(definition, first.args[1], name)
    yield Insert(definition, statement, f"self.{up} = {linear}({definition.source(first.args[0])}, {name}{bias})")
    yield Replace(definition, last.args[0], name)
    yield from _initial_values(index, found, up)
    yield imported


def _initial_values(index: FileIndex, found: FeedForward, up: str) -> Iterator[AnyEdit]:
    """`nn.init.zeros_(self.fc1.bias)` is said of the new product too."""
    definition = found.owner.definition
    for statement in walk_statements(found.owner.methods["__init__"].body):
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call) or not statement.value.args:
            continue
        called, target = statement.value, statement.value.args[0]
        words = definition.source(target).split(".")
        if (index.resolve(called.func) or "").startswith("torch.nn.init.") and words[1:2] == [found.first]:
            arguments = [".".join([words[0], up, *words[2:]]), *(definition.source(one) for one in called.args[1:])]
            arguments += [f"{k.arg}={definition.source(k.value)}" for k in called.keywords]
            yield Insert(definition, statement, f"{definition.source(called.func)}({', '.join(arguments)})")


def _forward_edits(index: FileIndex, found: FeedForward, up: str) -> Iterator[AnyEdit]:
    """`x = self.fc1(x); x = F.relu(x)` and `F.relu(self.fc1(x))` -> `swiglu(self.fc1(x), self.up(x))`."""
    definition = found.flow.definition
    assert found.call is not None and found.activation is not None
    call, activation = found.call, found.activation
    assert isinstance(call.node, ast.Call) and activation.node is not None and activation.statement is not None
    spelling, imported = runtime_name(index, "swiglu")
    given = [*call.node.args, *(keyword.value for keyword in call.node.keywords)][0]
    argument = definition.source(given)
    if not isinstance(given, ast.Name):
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
    alone = isinstance(statement, ast.Expr) and statement.value is node  # F.relu_(x)
    if isinstance(statement, ast.Assign) and statement.value is node:
        alone = ast.unparse(statement.targets[0]) == name
    if alone:
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
    words += [f"dropout={_rate(definition, arg)}" for arg in inner if isinstance(arg, ast.Call)]
    prefix = f"self.{found.attribute} = "
    code = call(spelling, words, prefix=prefix)[len(prefix) :]
    if outer:
        around = definition.source(value.func)
        code = f"{spelling}({', '.join(words)})"
        code = call(around, [code, *(definition.source(arg) for arg in outer)], prefix=prefix)[len(prefix) :]
    prefix = f"{found.attribute}.0" if outer else found.attribute
    renamed = tuple(
        (found.owner.name, f"{found.attribute}.{place}.{kind}", f"{prefix}.{new}.{kind}")
        for place, new in zip(places, ("gate", "down"), strict=True)
        for kind in (("weight", "bias") if _has_bias(first) else ("weight",))
    )
    return [Replace(definition, value, code), imported, more], renamed


def _rate(definition: Definition, dropout: ast.Call) -> str:
    """The probability of an nn.Dropout, 0.5 if it says none."""
    given = [*dropout.args[:1], *(k.value for k in dropout.keywords if k.arg == "p")]
    return definition.source(given[0]) if given else "0.5"


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
    bias = _has_bias(first), _has_bias(last)
    counts = {_counts(int(a), int(b), *bias) for a, b in widths if a is not None and b is not None}
    if len(counts) == 1 and None not in {w for pair in widths for w in pair}:
        before, after = counts.pop()
        text += f", {before:,} -> {after:,} parameters"
    return text


def _has_bias(linear: ast.Call) -> bool:
    return not any(isinstance(k.value, ast.Constant) and k.value.value is False for k in linear.keywords)


def _counts(embed: int, hidden: int, first: bool, last: bool) -> tuple[int, int]:
    """Parameters before and after; `first` and `last` tell which product has a bias."""
    narrow = max(1, (4 * hidden + 24) // 48) * 8  # as runtime.swiglu_width
    return (
        2 * embed * hidden + first * hidden + last * embed,
        3 * embed * narrow + first * 2 * narrow + last * embed,
    )
