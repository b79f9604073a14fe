"""How a feed-forward gets its gate: the edits, the parts that they make, and the tensors that they rename."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import AnyEdit, Argument, Insert, Remove, Replace
from migrator.recognise.borrowers import initialises
from migrator.recognise.feed_forwards import FeedForward
from migrator.recognise.gating import Gateless, has_bias, is_call_of
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.spelling import call, free_name, runtime_name
from migrator.recognise.syntax import walk_statements


@dataclass(frozen=True)
class Gated:
    """A feed-forward `down(silu(gate(x)) * up(x))` to be: attribute paths, new names of tensors, and the edits."""

    gate: str
    up: str
    down: str
    renamed: tuple[tuple[str, str, str], ...]
    edits: tuple[AnyEdit, ...]


def gated(index: FileIndex, place: Gateless, *, narrow: bool) -> Gated:
    """The edits for one place; `narrow` takes the hidden width to that of as many parameters as before."""
    if place.found.halves is not None:
        return _split(index, place, narrow)
    return _inline(index, place, narrow) if place.found.kind == "inline" else _sequential(index, place, narrow)


# --- products written in forward --------------------------------------------------------------------------------


def _inline(index: FileIndex, place: Gateless, narrow: bool) -> Gated:
    found = place.found
    up = _up_name(found)
    edits = [*_init_edits(index, place, up, narrow), *_initial_values(index, found, up)]
    return Gated(found.first, up, found.last, (), (*edits, *_forward_edits(index, found, up)))


def _split(index: FileIndex, place: Gateless, narrow: bool) -> Gated:
    """Two products in two classes; each finds the new width for itself."""
    found, halves, up = place.found, place.found.halves, _up_name(place.found)
    assert halves is not None
    edits = [*_init_edits(index, place, up, narrow), *_initial_values(index, found, up)]
    paths = [frame.path for frame in halves.frames]
    edits += _forward_edits(index, found, up)
    return Gated(f"{paths[0]}.{found.first}", f"{paths[0]}.{up}", f"{paths[1]}.{found.last}", (), tuple(edits))


def _init_edits(index: FileIndex, place: Gateless, up: str, narrow: bool) -> Iterator[AnyEdit]:
    found, first = place.found, place.first
    definition = found.owner.definition
    statement = _built(found, found.first)
    other = _built(found, found.last) if found.halves is None else statement
    wide, there = place.hidden
    hidden = definition.source(wide)
    if narrow:
        width, imported = runtime_name(index, "swiglu_width")
        name = free_name(
            index, definition, "dim_swiglu" if hidden.startswith("dim") else "swiglu_dim", "swiglu_hidden_dim"
        )
        earlier = min(statement, other, key=lambda one: one.lineno)
        yield Insert(definition, earlier, f"{name} = {width}({hidden})", "before")
        yield Replace(definition, wide, name)
        if found.halves is None:
            yield Replace(definition, there, name)
        else:
            apart = found.halves.last.definition
            yield Replace(apart, there, f"{width}({apart.source(there)})")
        yield imported
        hidden = name
    arguments = [("", argument) for argument in first.args] + [(f"{k.arg}=", k.value) for k in first.keywords]
    words = [key + (hidden if value is wide else definition.source(value)) for key, value in arguments
             if narrow or key != "bias="]  # fmt: skip
    made = f"{definition.source(first.func)}({', '.join(words)})"
    items = found.owner.attribute(found.first.partition(".")[0]) if "." in found.first else None
    if isinstance(items, ast.Call):
        assert isinstance(items.args[0], ast.Call)
        yield Argument(definition, items.args[0], f"{up.rpartition('.')[2]}={made}")
    else:
        yield Insert(definition, statement, f"self.{up} = {made}")


def _built(found: FeedForward, name: str) -> ast.stmt:
    """The statement that builds a product, alone or as an item of a ModuleDict."""
    return found.owner.attributes[name.partition(".")[0]][0].statement


def _initial_values(index: FileIndex, found: FeedForward, up: str) -> Iterator[AnyEdit]:
    """`nn.init.zeros_(self.fc1.bias)` and `init(self.fc1)` are said of the new product too."""
    definition = found.owner.definition
    for statement in walk_statements(found.owner.methods["__init__"].body):
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call) or not statement.value.args:
            continue
        called, target = statement.value, statement.value.args[0]
        words = definition.source(target).split(".")
        sets = (index.resolve(called.func) or "").startswith("torch.nn.init.") or initialises(index, called, target)
        if sets and words[1:2] == [found.first]:
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
    called = definition.source(call.node.func)  # `self.fc1`, or `m.fc1` in a lambda
    beside = f"{called.rpartition('.')[0]}.{up.rpartition('.')[2]}"
    gated = f"{spelling}({called}({argument}), {beside}({argument}))"
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
    """`ffn_up` beside `ffn_fc1`, `up` beside `linear1`; `value_proj` beside `up_proj`, which becomes the gate."""
    holder, dot, product = found.first.rpartition(".")
    if "up" in product.split("_"):
        product = "_".join("value" if word == "up" else word for word in product.split("_"))
        return holder + dot + product
    prefix = re.match(r"(.*_)?[A-Za-z]*_?\d*$", product)
    stem = (prefix.group(1) or "") if prefix else ""
    taken = {*found.owner.items_of(holder)} if dot else {*found.owner.attributes, *found.owner.methods}
    return holder + dot + next(name for name in (f"{stem}up", f"{stem}up_proj", "swiglu_up") if name not in taken)


# --- nn.Sequential ------------------------------------------------------------------------------------------------


def _sequential(index: FileIndex, place: Gateless, narrow: bool) -> Gated:
    found, owner, attribute = place.found, place.found.owner.name, place.found.attribute
    value = found.owner.attribute(attribute)
    assert isinstance(value, ast.Call)
    code, imports = _module(index, place, value, narrow)
    places = [position for position, arg in enumerate(value.args) if arg in (place.first, place.last)]
    alone = not places[0] and not _dropouts(index, value.args[places[1] + 1 :])
    prefix = attribute if alone else f"{attribute}.{places[0]}"
    renamed = tuple(
        (owner, f"{attribute}.{place_}.{kind}", f"{prefix}.{new}.{kind}")
        for place_, new in zip(places, ("gate", "down"), strict=True)
        for kind in (("weight", "bias") if has_bias(place.first) else ("weight",))
    )
    edits = (Replace(found.owner.definition, value, code), *imports)
    return Gated(f"{prefix}.gate", f"{prefix}.up", f"{prefix}.down", renamed, edits)


def _module(index: FileIndex, place: Gateless, value: ast.Call, narrow: bool) -> tuple[str, list[AnyEdit]]:
    """`SwiGLU(embed_dim, hidden_dim, ...)`, in a Sequential with the norm before it and the dropout behind it."""
    definition = place.found.owner.definition
    spelling, imported = runtime_name(index, "SwiGLU")
    imports: list[AnyEdit] = [imported]
    hidden = definition.source(place.hidden[0])
    if narrow:
        width, more = runtime_name(index, "swiglu_width")
        hidden = f"{width}({hidden})"
        imports.append(more)
    first, last = value.args.index(place.first), value.args.index(place.last)
    words = [definition.source(place.embed), hidden]
    words += [f"bias={definition.source(k.value)}" for k in place.first.keywords if k.arg == "bias"]
    words += [f"dropout={_rate(definition, arg)}" for arg in _dropouts(index, value.args[first + 1 : last])]
    prefix = f"self.{place.found.attribute} = "
    before = [definition.source(arg) for arg in value.args[:first]]
    behind = [definition.source(arg) for arg in _dropouts(index, value.args[last + 1 :])]
    if not before and not behind:
        return call(spelling, words, prefix=prefix)[len(prefix) :], imports
    code = f"{spelling}({', '.join(words)})"
    return call(definition.source(value.func), [*before, code, *behind], prefix=prefix)[len(prefix) :], imports


def _dropouts(index: FileIndex, arguments: list[ast.expr]) -> list[ast.Call]:
    return [arg for arg in arguments if isinstance(arg, ast.Call) and is_call_of(index, arg, "torch.nn.Dropout")]


def _rate(definition: Definition, dropout: ast.Call) -> str:
    """The probability of an nn.Dropout, 0.5 if it says none."""
    given = [*dropout.args[:1], *(k.value for k in dropout.keywords if k.arg == "p")]
    return definition.source(given[0]) if given else "0.5"
