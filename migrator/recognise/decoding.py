"""Causal stacks that can decode with a cache: which rows are new, and who has to know of those that are not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.anatomy import Attention
from migrator.recognise.attention import attending_classes, attention_classes, compiles_scripts
from migrator.recognise.axes import Lane, Mixed, Track
from migrator.recognise.blocks import Block
from migrator.recognise.borrowers import hooked
from migrator.recognise.cached import CACHE, takes_cache
from migrator.recognise.composition import Component, components, family
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.lanes import Lanes, position_by_position
from migrator.recognise.literals import UNKNOWN, literal
from migrator.recognise.prefixes import Cut, find_cut, optional_side
from migrator.recognise.slices import is_last_place
from migrator.recognise.stacks import Stack, stacks
from migrator.recognise.surgery import changed_later
from migrator.recognise.syntax import FunctionNode, stored_names, walk_statements
from migrator.recognise.values import Value, made_by, strip

_FINE = {
    "runtime": frozenset({"causal", "dropout_p", "fill", "scale", CACHE}),
    "sdpa": frozenset({"dropout_p", "is_causal", "scale"}),
}
_HANDING_ON = frozenset(
    {"torch.no_grad", "torch.enable_grad", "torch.inference_mode", "torch.compile", "torch.autocast"}
    | {"torch.amp.autocast", "torch.cuda.amp.autocast"}
)
_ROWS = Lane(-2, 3)
Obstacle = tuple[str, str, str]


@dataclass(eq=False)
class Decoder:
    """A causal stack, run by a method of `stack.owner`, with all that its cache goes through.

    `attention` is the one of the block's class and `attending` its call there; `positioned` are the calls in front of
    it that have to know where the new rows stand. `call` runs a block. `returns` are the statements that hand out what
    the stack computed.
    """

    stack: Stack
    attention: Attention
    attending: Value
    positioned: tuple[ast.Call, ...]
    call: ast.Call
    cut: Cut
    returns: tuple[ast.Return, ...]

    @property
    def block(self) -> ClassInfo:
        return self.stack.block.info


@dataclass(frozen=True, eq=False)
class Undecodable:
    """A stack without a cache: `code` is empty where there is nothing to wish for, as in one that sees the future."""

    stack: Stack
    code: str
    seen: str
    remedy: str = ""


class _Stop(Exception):
    def __init__(self, code: str, seen: str, remedy: str = "") -> None:
        super().__init__(code)
        self.code, self.seen, self.remedy = code, seen, remedy


def decoders(index: FileIndex) -> Iterator[Decoder | Undecodable]:
    """Every stack of the file that attends, in order of the source."""
    for stack in stacks(index):
        try:
            yield _decoder(index, stack)
        except _Stop as stop:
            yield Undecodable(stack, stop.code, stop.seen, stop.remedy)


def _decoder(index: FileIndex, stack: Stack) -> Decoder:
    inner, attention = _attention(index, stack.block)
    _causal(stack, inner, attention)
    if takes_cache(stack.flow.function):
        raise _Stop("", "decodes with a cache already")
    if stack.obstacle is not None:
        raise _Stop(*stack.obstacle)
    _as_built(index, stack, inner)
    positioned = _rows_apart(attention)
    attending = _in_block(stack.block, inner)
    call = _call(stack)
    for info in (inner.owner, stack.owner, index.modules[inner.name]):
        _signature(index, info, stack.flow.function if info is stack.owner else info.methods["forward"])
    passing = frozenset({stack.block.info.name})
    cut = find_cut(stack, passing)
    if isinstance(cut, str):
        remedy = "let everything between the tokens and the blocks treat each position by itself"
        raise _Stop("entry", cut, remedy)
    return Decoder(stack, attention, attending, positioned, call, cut, _returns(stack, passing))


def _as_built(index: FileIndex, stack: Stack, inner: Component) -> None:
    """What runs has to be what the source shows: it is handed an argument that nothing else would take."""
    if compiles_scripts(index):
        raise _Stop("scripted", "the file compiles code with `torch.jit.script`", "use torch.compile")
    attending = index.modules[inner.name]
    parts = [(stack.owner, stack.component.attribute), (stack.block.info, inner.attribute)]
    parts += [
        (info, stack.flow.function.name if info is stack.owner else "forward")
        for info in (stack.owner, stack.block.info, attending)
    ]
    for info, attribute in parts:
        where = changed_later(info, attribute)
        if where:
            seen = f"{where} may put something else into `{attribute}` of {info.name}"
            raise _Stop("replaced", seen, "let `__init__` build all blocks, and leave them as they are")
    hook = hooked(index) if stack.component.kind == "sequential" else ""
    if hook:
        seen = f"{hook} hangs a hook, perhaps on `{stack.component.attribute}`"
        raise _Stop("hooks", seen, "hang the hooks on the blocks")


# --- the attention -------------------------------------------------------------------------------------------------


def _attention(index: FileIndex, block: Block) -> tuple[Component, Attention]:
    """The block's one attention, and the attribute that holds it."""
    attending = attention_classes(index)
    held = [c for c in components(block.info) if c.name in attending_classes(index) and c.kind == "single"]
    name = block.info.name
    if len(held) != 1:
        seen = f"{name} holds {len(held) or 'no'} attentions of this file"
        raise _Stop("attention", seen, "a cache belongs to one self-attention in each block")
    found = attending.get(held[0].name, [])
    if len(found) != 1 or found[0].kind not in _FINE or found[0].flow.function.name != "forward":
        seen = f"{held[0].name} computes no single fused attention in its forward"
        raise _Stop("attention", seen, "see what `attention` and `flash` say of it")
    return held[0], found[0]


def _causal(stack: Stack, inner: Component, attention: Attention) -> None:
    """Only a stack that never looks ahead can keep what it has computed."""
    given = {name: value for name, value in attention.output.keywords.items() if not value.is_const(None)}
    strange = sorted(
        set(given) - _FINE[attention.kind] - ({"bias"} if _is_alibi(attention, given.get("bias")) else set())
    )
    if strange or len(attention.output.args) != 3:
        strange = strange or ["a mask"]
        seen = f"the attention of {inner.name} is given {' and '.join(strange)}, whose rows the cache knows nothing of"
        raise _Stop("mask", seen, "see what `flash` says of it, or cache by hand")
    causal = given.get("causal", given.get("is_causal"))
    node = causal.node if causal is not None else ast.Constant(False)
    info = stack.owner.index.modules[inner.name]
    found = literal(info, node, (stack.component, inner)) if node is not None else UNKNOWN
    if found is False:
        raise _Stop("", "bidirectional: every position sees later ones, so nothing that was computed stays valid")
    if found is not True:
        seen = f"whether the attention of {inner.name} is causal here cannot be told"
        raise _Stop("causal-unknown", seen, "build it with a literal, such as causal=True")


def _is_alibi(attention: Attention, bias: Value | None) -> bool:
    return bias is not None and made_by(attention.flow, bias) == "runtime.Alibi"


def _rows_apart(attention: Attention) -> tuple[ast.Call, ...]:
    """The calls that number positions, if all else in the attention's forward treats each row by itself."""
    owner, flow = attention.owner, attention.flow
    assert owner is not None
    entry = next((value for value in flow.values if value.op == "param"), None)
    if entry is None or len(flow.returns) != 1:
        raise _Stop("attention", f"{owner.name}.forward has no single result", "return the attended values alone")
    try:
        track: Track = Lanes(flow, {entry: _ROWS}).of(flow.returns[0][0])
    except Mixed as mixed:
        seen = f"{owner.name}.forward mixes positions in {_text(mixed.value)}"
        raise _Stop("attention", seen, "let queries, keys and values of a position come from that position") from mixed
    if track != _ROWS:
        seen = f"{owner.name}.forward moves the positions to another axis"
        raise _Stop("attention", seen, "keep them where they are")
    kinds = ("runtime.RotaryEmbedding", "runtime.Alibi")
    calls = (value.node for value in flow.of("module") if made_by(flow, value) in kinds)
    return tuple(node for node in calls if isinstance(node, ast.Call))


def _in_block(block: Block, inner: Component) -> Value:
    """The block's call of its attention, if the block treats each row by itself otherwise."""
    mixed = position_by_position(block.info, frozenset({inner.name}))
    if mixed is not None:
        seen = f"{block.info.name}.forward mixes positions in {_text(mixed)}"
        raise _Stop("block", seen, "let all but the attention treat each position by itself")
    calls = [value for value in block.flow.of("module") if value.data == inner.attribute]
    if len(calls) != 1 or not isinstance(calls[0].node, ast.Call) or len([*calls[0].operands()]) != 1:
        raise _Stop("block", f"{block.info.name} does not call `{inner.attribute}` once, on one input", "call it once")
    return calls[0]


# --- the owner -----------------------------------------------------------------------------------------------------


def _call(stack: Stack) -> ast.Call:
    """Where the owner runs its blocks."""
    body = strip(stack.result.args[2]) if stack.result.op == "looped" else stack.result
    node = body.node
    given = len(node.args) + len(node.keywords) - _is_checkpointed(node) if isinstance(node, ast.Call) else 0
    if not isinstance(node, ast.Call) or given != 1:
        seen = f"the blocks of `{stack.component.attribute}` are given more than one input"
        raise _Stop("arguments", seen, "hand them nothing but the sequence")
    if isinstance(stack.statement, ast.For) and not _is_plain_loop(stack.statement):
        seen = f"`{ast.unparse(stack.statement.iter)}` goes over more than the blocks"
        raise _Stop("layout", seen, f"write `for block in self.{stack.component.attribute}:`")
    inside = walk_statements(stack.statement.body) if isinstance(stack.statement, ast.For) else ()
    if any(isinstance(one, ast.If | ast.While | ast.Try | ast.Continue | ast.Break | ast.Match) for one in inside):
        seen = f"not each of `{stack.component.attribute}` is run each time"
        raise _Stop("skipped", seen, "run all blocks, in the same order, for every token")
    if _are_kept(stack, body):
        seen = f"the results of `{stack.component.attribute}` are kept one by one"
        raise _Stop("arguments", seen, "let each block do nothing but go on with the result of the one before")
    return node


def _is_checkpointed(call: ast.Call) -> bool:
    """`self.checkpointed(block, x)`: the first argument is no input."""
    return isinstance(call.func, ast.Attribute) and call.func.attr == "checkpointed"


def _is_plain_loop(loop: ast.For) -> bool:
    """`for block in self.blocks`, and `for i, block in enumerate(self.blocks)`, where i stays what it is."""
    if isinstance(loop.iter, ast.Attribute):
        return isinstance(loop.target, ast.Name)
    return bool(numbered(loop)) and numbered(loop) not in stored_names(loop.body)


def numbered(loop: ast.For) -> str:
    """i of `for i, block in enumerate(self.blocks)`, or ""."""
    names = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
    over = loop.iter
    counted = isinstance(over, ast.Call) and ast.unparse(over.func) == "enumerate"
    plain = counted and isinstance(over, ast.Call) and len(over.args) == 1 and not over.keywords
    return names[0].id if plain and len(names) == 2 and isinstance(names[0], ast.Name) else ""


def _are_kept(stack: Stack, call: Value) -> bool:
    """Whether a loop does anything with the result of one block but hand it to the next."""
    if stack.result.op != "looped":
        return False
    return any(user not in (call, stack.result) for user in [*call.users, *stack.result.args[1].users])


def _signature(index: FileIndex, info: ClassInfo, method: FunctionNode) -> None:
    """The method must be free to take one more argument."""
    name = f"{info.name}.{method.name}"
    spec = method.args
    if spec.vararg is not None or spec.kwarg is not None:
        raise _Stop("signature", f"{name} takes any number of arguments", "name its parameters")
    for decorator in method.decorator_list:
        made = index.resolve(decorator.func if isinstance(decorator, ast.Call) else decorator) or ""
        if made not in _HANDING_ON:
            seen = f"{name} is decorated by `{ast.unparse(decorator)}`, which may take no more arguments"
            raise _Stop("signature", seen, "call the decorated function by hand")
    called = next((one.name for one in info.lineage if "__call__" in one.methods), "")
    if called:
        raise _Stop("signature", f"{called} has a `__call__` of its own", "leave `__call__` to nn.Module")
    taken = {arg.arg for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]}
    bound = {node.id for node in ast.walk(method) if isinstance(node, ast.Name)}
    if "use_cache" in taken | bound or (CACHE in bound and CACHE not in taken):
        raise _Stop("signature", f"{name} uses the names of the cache for something else", "rename them")
    kin = family(index, info)[1:]
    if any(method.name in index.classes[definition.name].methods for definition in kin):
        raise _Stop("subclassed", f"{name} is overridden by a class of this file", "cache by hand")


def _returns(stack: Stack, passing: frozenset[str]) -> tuple[ast.Return, ...]:
    """The returns that hand out rows for the rows that went in, or the last of them."""
    found: list[ast.Return] = []
    for value, statement in stack.flow.returns:
        if optional_side(stack.flow, statement):
            continue
        if statement.lineno < stack.statement.lineno:
            seen = f"{stack.owner.name}.{stack.flow.function.name} may return before the blocks are run"
            raise _Stop("output", seen, "return at the end alone")
        lanes = _OutputLanes(stack.flow, {stack.result: _ROWS}, passing)
        try:
            for part in value.args if value.op == "tuple" else (value,):
                lanes.of(part)
        except Mixed as mixed:
            seen = f"positions meet after the blocks, in {_text(mixed.value)}"
            raise _Stop("output", seen, "return one row for each position, or the last one alone") from mixed
        found.append(statement)
    if not found:
        seen = f"{stack.owner.name}.{stack.flow.function.name} does not return what the blocks compute"
        raise _Stop("output", seen, "let the method that runs the blocks return the logits")
    return tuple(found)


class _OutputLanes(Lanes):
    """What comes out may also be the last position alone, and an optional argument is taken for absent."""

    def _getitem(self, value: Value) -> Track:
        if isinstance(self.of(value.args[0]), Lane) and is_last_place(value.data):
            return None
        return super()._getitem(value)

    def _phi(self, value: Value) -> Track:
        condition, one, other = value.args
        if condition.op in ("is", "isnot") and condition.args[0].op == "param" and condition.args[1].is_const(None):
            return self.of(one if condition.op == "is" else other)
        tracks = [self.of(side) for side in (one, other) if not side.is_const(None)]
        if any(track != tracks[0] for track in tracks):
            raise Mixed(value)
        return tracks[0] if tracks else None


def _text(value: Value) -> str:
    node = value.node or value.statement
    if node is None or isinstance(node, FunctionNode):
        return f"`{value.data}`" if isinstance(value.data, str) else "something that is not understood"
    return f"`{ast.unparse(node).partition(chr(10))[0]}`"
