"""What a value is made of, followed into the functions, methods and parts of the same file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.attention import attentions, torch_modules
from migrator.recognise.composition import components, named_below, users_of
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter, parameters
from migrator.recognise.values import Flow, Value, made_by, walked

SIZES = frozenset({"shape", "size"})
COUNTED = frozenset({"arange", "cumsum"})  # numbers of places; how many there are is another question
_LIKE = frozenset({"to", "type_as", "expand_as", "view_as"})  # what stands behind the first operand is form alone
_FORM = frozenset({"device", "dtype", "like"})
_DEPTH = 4
_PASSING = frozenset(
    {"add", "cat", "dropout", "expand", "gelu", "getitem", "identity", "loop", "mul", "phi", "relu", "repeat", "silu"}
    | {"squeeze", "to", "unsqueeze", "view", "reshape", "float"}
)
_ROWWISE = frozenset(f"torch.nn.{name}" for name in ("LayerNorm", "Linear", "Sequential"))


@dataclass(frozen=True, eq=False)
class Ancestor:
    """A value, the flow that it stands in, and the call that led into that flow."""

    flow: Flow
    value: Value
    caller: Ancestor | None = None

    @property
    def depth(self) -> int:
        return 0 if self.caller is None else self.caller.depth + 1


def ancestry(
    flow: Flow, value: Value, *, leaves: frozenset[str] = COUNTED, stop: set[Value] | None = None
) -> list[Ancestor]:
    """The value and all that it is computed from; sizes, conditions, dtypes and devices are left aside.

    Calls of what the file defines stand for what they return. What is behind `leaves` or in `stop` is not looked at.
    """
    found: list[Ancestor] = []
    seen: set[tuple[int, int]] = set()
    todo = [Ancestor(flow, value)]
    while todo:
        one = todo.pop()
        key = (id(one.value), id(one.caller.value) if one.caller is not None else 0)
        if key in seen or one.value.op in SIZES or (stop and one.value in stop):
            continue
        seen.add(key)
        found.append(one)
        if one.value.op not in leaves:
            todo.extend(_behind(one))
    return found


def _behind(one: Ancestor) -> Iterator[Ancestor]:
    inner = called(one.flow, one.value) if one.depth < _DEPTH else None
    if inner is not None and inner.returns:
        yield from (Ancestor(inner, value, one) for value, _ in inner.returns)
        return
    if one.value.op == "param" and one.caller is not None:
        given = argument_of(one.caller.value, one.flow, str(one.value.data))
        if given is not None:
            yield Ancestor(one.caller.flow, given, one.caller.caller)
        return
    yield from (Ancestor(one.flow, value, one.caller) for value in content(one.value))


def content(value: Value) -> Iterator[Value]:
    """The operands whose numbers the value is made of."""
    args = value.args
    if value.op == "phi":
        args = args[1:]
    elif value.op in _LIKE:
        args = args[:1]
    yield from args
    yield from (operand for name, operand in value.keywords.items() if name not in _FORM)


def called(flow: Flow, value: Value) -> Flow | None:
    """The flow of what a call runs, if that is a function, a method or a part of this file."""
    index, owner = flow.index, flow.owner
    if value.op == "call" and isinstance(value.data, str):
        return _function(index, value.data)
    if value.op not in ("self_call", "module") or owner is None:
        return None
    for info in owner.lineage:
        if value.data in info.methods:
            return flow_of(index, info.definition, info.methods[value.data], info)
    held = [part for part in components(owner) if part.attribute == value.data and part.kind == "single"]
    return _function(index, f"{held[0].name}.forward") if held else None


def _function(index: FileIndex, name: str) -> Flow | None:
    """Of a function of the file, or of `Class.method`."""
    definition = index.functions.get(name)
    if definition is not None and isinstance(definition.tree, FunctionNode):
        return flow_of(index, definition, definition.tree)
    owner, _, method = name.rpartition(".")
    info = index.classes.get(owner)
    return flow_of(index, info.definition, info.methods[method], info) if info and method in info.methods else None


def argument_of(call: Value, flow: Flow, name: str) -> Value | None:
    """What a call gives to a parameter of the function that it runs."""
    names = [*parameters(flow.function)]
    if not flow.self_name and first_parameter(flow.function) not in names:
        names.insert(0, first_parameter(flow.function))  # of a function without `self` the first one is one as well
    return call.argument(names.index(name), name) if name in names else None


# --- which functions there are ---------------------------------------------------------------------------------------


def flows(index: FileIndex, *words: str) -> Iterator[Flow]:
    """All functions and methods of definitions that have one of these words in their text."""
    for definition in index.definitions:
        if not any(word in definition.text for word in words):
            continue
        if isinstance(definition.tree, FunctionNode):
            yield flow_of(index, definition, definition.tree)
        info = index.classes.get(definition.name)
        if info is not None and info.definition is definition:
            yield from (flow_of(index, definition, method, info) for method in info.methods.values())


def attends(index: FileIndex, name: str) -> bool:
    """Whether a class, or something that it names, attends in a way that was seen."""
    key = ("attends", name)
    if key not in index.memo:
        index.memo[key] = bool(_attending(index) & {id(definition) for definition in named_below(index, [name])})
    found: bool = index.memo[key]
    return found


def serves_attention(index: FileIndex, definition: Definition) -> bool:
    """Whether a definition attends, or is named by a class that does."""
    if "serving attention" not in index.memo:
        classes = [name for name in index.classes if attends(index, name)]
        index.memo["serving attention"] = {id(d) for name in classes for d in named_below(index, [name])}
    serving: set[int] = index.memo["serving attention"]
    return id(definition) in serving


def _attending(index: FileIndex) -> set[int]:
    if "attending definitions" not in index.memo:
        held = [found.flow.definition for found in attentions(index)]
        held += [definition for definition, _, _ in torch_modules(index)]
        index.memo["attending definitions"] = {id(definition) for definition in held}
    found: set[int] = index.memo["attending definitions"]
    return found


def reaches_attention(flow: Flow, value: Value) -> bool:
    """Whether the value, as it is or summed, is handed to a part that attends."""
    assert flow.owner is not None
    attending = {part.attribute for part in components(flow.owner) if attends(flow.index, part.name)}
    seen, todo = {value}, [value]
    while todo:
        for user in todo.pop().users:
            source = walked(user.args[0]) if user.op == "call_local" and user.args else None
            name = source.data if source is not None and source.op == "attr" else user.data
            if user.op in ("module", "call_local") and name in attending:
                return True
            passes = user.op in _PASSING or (user.op == "module" and made_by(flow, user) in _ROWWISE)
            if passes and user not in seen:
                seen.add(user)
                todo.append(user)
    return False


def held_calls(flow: Flow) -> Iterator[tuple[Flow, Value]]:
    """The calls, in classes that hold the class of a `forward`, that run it."""
    owner, index = flow.owner, flow.index
    if owner is None or flow.function is not owner.methods.get("forward"):
        return
    for part in users_of(index, owner.name):
        for name, method in part.owner.methods.items():
            if name != "__init__":
                outer = flow_of(index, part.owner.definition, method, part.owner)
                yield from ((outer, value) for value in outer.of("module") if value.data == part.attribute)


def given_by_callers(flow: Flow, value: Value, depth: int = _DEPTH) -> Iterator[Ancestor]:
    """What a value of a `forward` is made of in the classes that call it, and in those that call them."""
    names = {str(one.value.data) for one in ancestry(flow, value) if one.value.op == "param" and one.caller is None}
    for outer, call in held_calls(flow) if depth else ():
        for name in names:
            given = argument_of(call, flow, name)
            if given is not None:
                yield from ancestry(outer, given)
                yield from given_by_callers(outer, given, depth - 1)


# --- what is learned -------------------------------------------------------------------------------------------------


def learned_rows(one: Ancestor) -> str:
    """The attribute of a table that a value reads: a learned parameter with rows, or an nn.Embedding; else ""."""
    info, value = one.flow.owner, one.value
    if info is None or value.op not in ("attr", "module"):
        return ""
    path = str(value.data)
    if value.op == "attr" and path.endswith(".weight"):
        return path.removesuffix(".weight") if _made_by(info, path.removesuffix(".weight")) == _EMBEDDING else ""
    kind = _made_by(info, path)
    if value.op == "module":
        return path if kind == _EMBEDDING else ""
    return path if kind == _PARAMETER and len([size for size in declared_sizes(info, path) if size != "1"]) > 1 else ""


_MAKING = frozenset(f"torch.{name}" for name in ("empty", "ones", "rand", "randn", "zeros", "Tensor", "FloatTensor"))
_EMBEDDING, _PARAMETER = "torch.nn.Embedding", "torch.nn.Parameter"


def _made_by(info: ClassInfo, path: str) -> str:
    made = _made(info, path)
    return (info.index.resolve(made.func) or "") if isinstance(made, ast.Call) else ""


def _made(info: ClassInfo, path: str) -> ast.expr | None:
    """What makes an attribute; the first of several branches, where they make the same kind of thing."""
    for one in info.lineage:
        assigned = [assignment.value for assignment in one.attributes.get(path, [])]
        kinds = {info.index.resolve(value.func) if isinstance(value, ast.Call) else None for value in assigned}
        if assigned:
            return assigned[0] if len(kinds) == 1 else None
        if one.attribute(path) is not None:
            return one.attribute(path)
    return None


def declared_sizes(info: ClassInfo, path: str) -> list[str]:
    """The sizes of `nn.Parameter(0.02 * torch.randn(1, n, width))`, as they are written."""
    made = _made(info, path)
    for node in ast.walk(made) if made is not None else ():
        if isinstance(node, ast.Call) and node.args and info.index.resolve(node.func) in _MAKING:
            sizes = node.args[0].elts if isinstance(node.args[0], ast.Tuple | ast.List) else node.args
            return [ast.unparse(size) for size in sizes]
    return []
