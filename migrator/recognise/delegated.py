"""Attention that a class leaves to a helper, and of whose results it only uses the weighted sum.

`x, weights = attention(q, k, v, mask, self.dropout)`, where nobody looks at `weights`: what the helper computes can be
said in one call where it is called. The helper stays as it is, for those who want the weights.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from migrator.recognise.anatomy import Attention, Obstacle
from migrator.recognise.attention import in_flow
from migrator.recognise.conditions import Assumed
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import Assignment, FileIndex
from migrator.recognise.speaker import Speaker, Unspeakable
from migrator.recognise.syntax import bind, parameters
from migrator.recognise.values import Flow, Value

_CODES = frozenset({"weights-used", "dropout"})
_PLAIN = (ast.Name, ast.Attribute, ast.Constant)


@dataclass(frozen=True, eq=False)
class Delegated:
    """`node`, in `statement` of `caller`, is what the helper is called for; `arguments` say the fused call there."""

    caller: Flow
    helper: str
    attention: Attention
    statement: ast.stmt
    node: ast.expr
    arguments: tuple[str, ...]
    unused: ast.stmt | None = None  # what made the helper, if nothing else runs it


def delegated(index: FileIndex, found: Obstacle) -> list[Delegated]:
    """Each call of the helper that an obstacle stands in, where the fused call would do."""
    helper = _helper_name(found)
    if found.code not in _CODES or not helper:
        return []
    return [one for caller in _callers(index, helper) for one in _calls(caller, found, helper)]


def _helper_name(found: Obstacle) -> str:
    """The free function, or the class, in which the attention is spelled out."""
    flow = found.flow
    if flow.owner is None:
        return flow.function.name if flow.definition.tree is flow.function else ""
    return flow.owner.name if flow.function.name == "forward" and flow.owner.is_module else ""


def _callers(index: FileIndex, helper: str) -> Iterator[Flow]:
    for info in index.modules.values():
        if helper in info.definition.text and info.name != helper:
            for method in info.methods.values():
                if method.name != "__init__":
                    yield flow_of(index, info.definition, method, info)


def _calls(caller: Flow, found: Obstacle, helper: str) -> Iterator[Delegated]:
    for value in caller.values:
        if _is_call_of(caller, value, helper) and isinstance(value.node, ast.Call):
            one = _one(caller, value, value.node, found, helper)
            if one is not None:
                yield one


def _is_call_of(caller: Flow, value: Value, helper: str) -> bool:
    if value.op == "call":
        return bool(value.data == helper)
    made = caller.owner.attribute(value.data) if value.op == "module" and caller.owner is not None else None
    return isinstance(made, ast.Call) and caller.index.resolve(made.func) == helper


def _one(caller: Flow, value: Value, node: ast.Call, found: Obstacle, helper: str) -> Delegated | None:
    place = _used_alone(caller, value)
    bound = bind(_signature(found.flow), node)
    if place is None or bound is None or value.statement is None:
        return None
    assumed, dropouts = _known(caller, found.flow, bound)
    inside = flow_of(found.flow.index, found.flow.definition, found.flow.function, found.flow.owner, assumed)
    seen = in_flow(replace(inside, unwanted=True, dropouts=dropouts))
    attention = seen[0] if len(seen) == 1 and isinstance(seen[0], Attention) else None
    if attention is None or attention.kind != "legacy" or not _is_result(inside, attention.output):
        return None
    helper_itself = (
        node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "forward" else node.func
    )
    try:
        arguments = _said_by(attention, bound, helper_itself)
    except Unspeakable:
        return None
    needed = any(ast.unparse(helper_itself) in text for text in arguments)
    unused = _made_for(caller, value, found) if value.op == "module" and not needed else None
    return Delegated(caller, helper, attention, value.statement, place, tuple(arguments), unused)


def _made_for(caller: Flow, call: Value, found: Obstacle) -> ast.stmt | None:
    """The statement of `__init__` that makes a helper which is run by this call alone, and has no state."""
    assert caller.owner is not None
    if found.flow.owner is not None and not all(map(_is_stateless, found.flow.owner.attributes.values())):
        return None
    (assignment,) = caller.owner.attributes[call.data]
    alone = _reads(caller, call.data) == 1 and call.data not in caller.owner.stores_outside_init
    statement = assignment.statement
    return statement if alone and isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None


def _is_stateless(assigned: list[Assignment]) -> bool:
    """Whether an attribute is a number, a parameter of the constructor, or a softmax, which a state dict never has."""
    values = [one.value for one in assigned]
    plain = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp)
    kept = (isinstance(v, ast.Call) and ast.unparse(v.func).rpartition(".")[2] == "Softmax" for v in values)
    return all(isinstance(value, plain) or softmax for value, softmax in zip(values, kept, strict=True))


def _reads(caller: Flow, attribute: str) -> int:
    """How often the file reads an attribute of that name which may be the caller's: `self` of others is not."""
    assert caller.owner is not None
    count = 0
    for definition in caller.index.definitions if caller.index.attribute_reads.get(attribute) else ():
        other = caller.index.classes.get(definition.name)
        apart = other is not None and other is not caller.owner and caller.owner not in other.lineage
        for node in definition.nodes:
            if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Load):
                count += not (apart and isinstance(node.value, ast.Name) and node.value.id == "self")
    return count


def _signature(flow: Flow) -> Mapping[str, ast.expr | None]:
    if flow.owner is not None:
        return parameters(flow.function)
    spec = flow.function.args
    names = [arg.arg for arg in (*spec.posonlyargs, *spec.args)]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(spec.defaults)) + list(spec.defaults)
    return dict(zip(names, defaults, strict=True))


def _used_alone(caller: Flow, value: Value) -> ast.expr | None:
    """The expression that is the weighted sum, if nobody looks at other results: `call[0]`, or a call unpacked."""
    kept = {value for value, _ in caller.returns} | {store.value for store in caller.stores}
    if value in kept or not value.users:
        return None
    if all(user.op == "getitem" and user.args[1:] and user.args[1].is_const(0) for user in value.users):
        return value.users[0].node if len(value.users) == 1 else None
    parts = [user for user in value.users if user.op == "unpack"]
    if len(parts) < len(value.users) or any(part.data > 0 and (part.users or part in kept) for part in parts):
        return None
    statement = value.statement
    plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1 and statement.value is value.node
    target = statement.targets[0] if plain and isinstance(statement, ast.Assign) else None
    named = isinstance(target, ast.Tuple) and all(isinstance(element, ast.Name) for element in target.elts)
    return value.node if named else None


def _known(caller: Flow, helper: Flow, bound: Mapping[str, ast.expr]) -> tuple[Assumed, frozenset[str]]:
    """What the arguments of a call settle: which are None, which are not, and which are dropout modules."""
    assumed: set[tuple[str, bool]] = set()
    dropouts: set[str] = set()
    for name, argument in bound.items():
        if isinstance(argument, ast.Constant) and (argument.value is None or isinstance(argument.value, bool)):
            text, truth = (f"{name} is None", True) if argument.value is None else (name, argument.value)
            assumed.add((text, truth))
        elif _class_of(caller, argument) == "torch.nn.Dropout":
            assumed |= {(f"{name} is None", False), (name, True)}
            dropouts.add(name)
    return frozenset(assumed), frozenset(dropouts)


def _class_of(caller: Flow, argument: ast.expr) -> str:
    """The class of a module of the caller's own that is handed over."""
    owner = caller.owner
    if owner is None or not isinstance(argument, ast.Attribute) or ast.unparse(argument.value) != caller.self_name:
        return ""
    made = None if argument.attr in owner.stores_outside_init else owner.attribute(argument.attr)
    return (owner.index.resolve(made.func) or "") if isinstance(made, ast.Call) else ""


def _is_result(flow: Flow, output: Value) -> bool:
    """Whether the weighted sum is the first result, as it is, whatever way the function ends."""
    results = [value.args[0] if value.op == "tuple" and value.args else value for value, _ in flow.returns]
    return len(results) == 1 and results[0] is output


def _said_by(attention: Attention, bound: Mapping[str, ast.expr], helper: ast.expr) -> list[str]:
    """The arguments of the fused call in the words of the caller."""
    statement = attention.output.statement
    assert statement is not None
    if attention.permutations:
        raise Unspeakable("axes would have to be moved")
    flow = attention.flow
    texts = Speaker(attention, statement).arguments()
    words = Spoken(flow, statement, {**bound, flow.self_name: helper} if flow.self_name else bound)
    return [words.of(text) for text in texts]


class Spoken(ast.NodeTransformer):
    """Expressions of the helper, with what was handed in for its parameters."""

    def __init__(self, flow: Flow, statement: ast.stmt, bound: Mapping[str, ast.expr]) -> None:
        self.flow, self.bound = flow, bound
        self.known = flow.before[statement]

    def of(self, text: str) -> str:
        call = ast.parse(f"f({text})", mode="eval").body
        words = [node.id for node in ast.walk(call) if isinstance(node, ast.Name)]
        if not set(words) & {*self.bound, *self.known}:
            return text
        for name, argument in self.bound.items():
            if words.count(name) > 1 and not isinstance(argument, _PLAIN):
                raise Unspeakable(f"`{name}` would be computed more than once")
        return ast.unparse(self.visit(call))[2:-1]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "f":
            return node
        held = self.known.get(node.id)
        if held is None:
            return self.bound.get(node.id, node)  # the helper itself; else something of the module, or a builtin
        if held.op != "param" or held.data != node.id or node.id not in self.bound:
            raise Unspeakable(f"`{node.id}` has no name outside of the helper")
        return self.bound[node.id]
