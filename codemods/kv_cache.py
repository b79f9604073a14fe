"""The decoding path of a causal model learns to go on from keys and values that it has computed before."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    Argument,
    CachedDecoding,
    Claim,
    Codemod,
    Finding,
    Import,
    Insert,
    Modern,
    Parameter,
    Phase,
    Place,
    Promise,
    Refusal,
    Replace,
    Site,
)
from migrator.recognise.axes import Lane
from migrator.recognise.cached import takes_cache
from migrator.recognise.decoding import Decoder, decoders, numbered
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.loops import decoding_loops
from migrator.recognise.runs import RUN_REFUSALS
from migrator.recognise.spelling import LINE_LIMIT, call, free_local, runtime_name
from migrator.recognise.syntax import FunctionNode, first_parameter

_HAND_ON = "past_kv=past_kv"
_FIRST = "past_kv=past_kv and past_kv[0]"
_ENCODING = ("mask", "output")  # what keeps encoders and classifiers from decoding is no fault of theirs


@dataclass(frozen=True)
class _Part:
    decoder: Decoder
    cache: str  # how the file calls `KVCache`
    layer: str  # and `LayerCache`
    imports: tuple[Import, ...]


class KeyValueCache(Codemod):
    """logits = model(tokens) -> logits, past_kv = model(tokens, past_kv=past_kv, use_cache=True), at will."""

    phase = Phase.ACCELERATION
    promise = Promise.EXACT
    rationale = "Keys and values of earlier tokens never change, so a step needs to compute those of the new one alone."
    reference = "Pope et al. 2022, Efficiently Scaling Transformer Inference, arXiv 2211.05102"
    formula = "step t: O(t) with keys and values 1..t-1 at hand, instead of O(t^2)"
    after = ("flash", "fused_qkv")
    refusals = {
        "attention": "the blocks attend by something else than one fused self-attention of this file",
        "mask": "the attention is given a mask or a bias whose rows belong to the whole sequence",
        "causal-unknown": "whether the stack is causal cannot be told",
        "block": "something in a block besides its attention lets positions meet",
        "arguments": "the blocks are given more than the sequence",
        "skipped": "a block may be left out, so that its cache would have holes",
        "entry": "what enters the blocks does not depend on the positions one by one",
        "output": "what is returned is not made of the positions one by one",
        "signature": "a method cannot take one more argument",
        "subclassed": "a method that would take one more argument is overridden",
        "replaced": "a block, or its attention, may be replaced by something that takes no cache",
        "hooks": "hooks may hang on the nn.Sequential, and would not be called by a loop over its blocks",
        "scripted": "the file compiles code with torch.jit.script",
        "layout": "the place cannot be edited statement by statement",
        **RUN_REFUSALS,
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        decodes = any(True for _ in decoding_loops(index))
        for found in decoders(index):
            owner = found.stack.owner
            place = Place.of(f"{owner.name}.{found.stack.component.attribute}", found.stack.statement, owner.definition)
            if isinstance(found, Decoder):
                yield _site(index, found, place)
            elif found.code in _ENCODING and not decodes:
                yield Modern(place, f"nothing here decodes with it: {found.seen}")
            elif found.code:
                yield Refusal(place, found.code, found.seen, found.remedy)
            else:
                yield Modern(place, found.seen)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        decoder = part.decoder
        layer = f"past_kv: {part.layer} | None = None"
        yield from _attention_edits(decoder, layer)
        yield from _block_edits(decoder, layer)
        yield from _signature_edits(decoder, part.cache)
        yield _cut(decoder, part.cache)
        yield from _run_edits(decoder)
        for statement in decoder.returns:
            yield Replace(decoder.stack.owner.definition, statement, _returned(decoder, statement))
        yield from part.imports


def _site(index: FileIndex, decoder: Decoder, place: Place) -> Site:
    stack = decoder.stack
    attention, block, owner = decoder.attention.flow.owner, decoder.block, stack.owner
    assert attention is not None
    method = stack.flow.function.name
    cache, needs_cache = runtime_name(index, "KVCache")
    layer, needs_layer = runtime_name(index, "LayerCache")
    annotated = any(_is_annotated(info.methods["forward"]) for info in (attention, block))
    imports = (needs_cache, needs_layer) if annotated else (needs_cache,)
    names = tuple(dict.fromkeys((owner.name, block.name, attention.name)))
    inner = tuple((f"{info.name}.forward", ("past_kv",)) for info in (attention, block) if not _has_cache(info))
    claim = Claim(
        names,
        names,
        abilities=(CachedDecoding(owner.name, method, decoder.cut.sequences),),
        parameters=((f"{owner.name}.{method}", ("past_kv", "use_cache")), *inner),
    )
    message = f"`{method}` can go on from cached keys and values: only new positions are computed (exact in eval mode)"
    return Site(place, message, claim, _Part(decoder, cache, layer, imports))


def _has_cache(info: ClassInfo) -> bool:
    """Whether another stack of the same class has brought the cache into it already."""
    return takes_cache(info.methods["forward"])


def _is_annotated(function: FunctionNode) -> bool:
    spec = function.args
    return any(arg.annotation is not None for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs])


def _parameter(info: ClassInfo, function: FunctionNode, annotated: str) -> Parameter:
    """The parameter in the manner of the others, with or without its type."""
    name, _, default = annotated.partition("=")
    plain = f"{name.partition(':')[0].strip()}={default.strip()}"
    return Parameter(info.definition, function, annotated if _is_annotated(function) else plain)


def _attention_edits(decoder: Decoder, layer: str) -> Iterator[AnyEdit]:
    owner = decoder.attention.flow.owner
    assert owner is not None
    if not _has_cache(owner):
        yield _parameter(owner, owner.methods["forward"], layer)
        node = decoder.attention.node
        assert isinstance(node, ast.Call)
        for one in decoder.positioned:
            yield Argument(owner.definition, one, _HAND_ON)
        if decoder.attention.kind == "runtime":
            yield Argument(owner.definition, node, _HAND_ON)
        else:
            yield Replace(owner.definition, node, _attention_call(owner, node))
            yield runtime_name(owner.index, "attention")[1]


def _attention_call(owner: ClassInfo, node: ast.Call) -> str:
    """torch's own fused attention knows no cache: the runtime's, with the same arguments."""
    source = owner.definition.source
    words = [source(argument) for argument in node.args]
    for keyword in node.keywords:
        if not isinstance(keyword.value, ast.Constant) or keyword.value.value is not None:
            name = {"is_causal": "causal", "query": "q", "key": "k", "value": "v"}.get(keyword.arg or "", keyword.arg)
            words.append(f"{name}={source(keyword.value)}")
    return call(runtime_name(owner.index, "attention")[0], [*words, _HAND_ON], indent=node.col_offset)


def _block_edits(decoder: Decoder, layer: str) -> Iterator[AnyEdit]:
    if not _has_cache(decoder.block):
        yield _parameter(decoder.block, decoder.block.methods["forward"], layer)
        assert isinstance(decoder.attending.node, ast.Call)
        yield Argument(decoder.block.definition, decoder.attending.node, _HAND_ON)


def _signature_edits(decoder: Decoder, cache: str) -> Iterator[AnyEdit]:
    owner, method = decoder.stack.owner, decoder.stack.flow.function
    yield _parameter(owner, method, f"past_kv: {cache} | None = None")
    yield _parameter(owner, method, "use_cache: bool = False")
    said = method.returns
    wider = _widened(owner.index, owner.definition.source(said), said, cache) if said is not None else ""
    if said is not None and wider:
        yield Replace(owner.definition, said, wider)


def _widened(index: FileIndex, text: str, said: ast.expr, cache: str) -> str:
    """What is said of the result, and the cache beside it; "" where that is no type, as `-> torch.tensor`."""
    if isinstance(said, ast.Constant) and isinstance(said.value, str):
        try:
            inner = ast.parse(said.value, mode="eval").body
        except SyntaxError:
            return ""
        return f'"{said.value} | tuple"' if _widened(index, said.value, inner, cache) else ""
    base = index.resolve(said.value if isinstance(said, ast.Subscript) else said) or ""
    named = isinstance(said, ast.Subscript) or base.endswith("Tensor") or base in index.classes
    union = isinstance(said, ast.BinOp) and isinstance(said.op, ast.BitOr)
    if not named and not union:
        return ""
    return f"{text} | tuple[object, ...]" if base.lower().endswith("tuple") else f"{text} | tuple[{text}, {cache}]"


# --- the method that runs the stack --------------------------------------------------------------------------------


def _cut(decoder: Decoder, cache: str) -> Insert:
    """A cache where one is asked for, and the rows that it has no need of."""
    names = decoder.cut.names
    targets, values = ", ".join(name for name, _ in names), ", ".join(_new_rows(name, lane) for name, lane in names)
    lines = [f"{targets} = {values}"]
    if len(lines[0]) + decoder.cut.statement.col_offset + 4 > LINE_LIMIT:
        lines = [f"{name} = {_new_rows(name, lane)}" for name, lane in names]
    code = "\n".join(
        [
            "",
            "if use_cache and past_kv is None:",
            f"    past_kv = {cache}()",
            "if past_kv is not None:  # what is cached is not computed again",
            *(f"    {line}" for line in lines),
        ]
    )
    body = decoder.stack.flow.function.body
    place = body.index(decoder.cut.statement)
    definition = decoder.stack.owner.definition
    # Behind the statement before, so that the comments above the next one stay with it.
    return Insert(definition, body[place - 1], code) if place else Insert(definition, body[0], code.lstrip(), "before")


def _new_rows(name: str, lane: Lane) -> str:
    return f"{name}[{':, ' * lane.place}past_kv.length :]"


def _run_edits(decoder: Decoder) -> Iterator[AnyEdit]:
    """The blocks are run with the cache, each with its own part of it."""
    stack, run = decoder.stack, decoder.call
    definition, inside = stack.owner.definition, _returning(decoder) is not None
    if stack.component.kind == "single":
        if not inside:
            yield Argument(definition, run, _FIRST)
        return
    counted = numbered(stack.statement) if isinstance(stack.statement, ast.For) else ""
    number = counted or free_local(stack.owner.index, stack.flow.function, "i", "layer", "block_number")
    handed = f"past_kv=past_kv and past_kv[{number}]"
    if counted:
        yield Argument(definition, run, handed)
        return
    if isinstance(stack.statement, ast.For):
        yield Replace(definition, stack.statement.target, f"{number}, {definition.source(stack.statement.target)}")
        yield Replace(definition, stack.statement.iter, f"enumerate({definition.source(stack.statement.iter)})")
        yield Argument(definition, run, handed)
        return
    statement = stack.statement
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if len(targets) == 1 and isinstance(targets[0], ast.Name) and getattr(statement, "value", None) is run:
        yield Replace(definition, statement, _loop(decoder, targets[0].id, number, handed))
        return
    name = _hidden(decoder)
    yield Insert(definition, statement, _loop(decoder, name, number, handed), "before")
    if not inside:
        yield Replace(definition, run, name)


def _loop(decoder: Decoder, name: str, number: str, handed: str) -> str:
    """A Sequential hands on one value and no cache, so its blocks are run one by one."""
    stack, run = decoder.stack, decoder.call
    entry = stack.owner.definition.source(run.args[0] if run.args else run.keywords[0].value)
    block = free_local(stack.owner.index, stack.flow.function, "block", "layer", "each_block")
    own = first_parameter(stack.flow.function)
    loop = f"for {number}, {block} in enumerate({own}.{stack.component.attribute}):"
    first = [] if name == entry else [f"{name} = {entry}"]
    return "\n".join([*first, loop, f"    {name} = {block}({name}, {handed})"])


def _hidden(decoder: Decoder) -> str:
    """A name for what goes through the blocks, where the user has none."""
    stack = decoder.stack
    return free_local(stack.owner.index, stack.flow.function, "h", "hidden", "hidden_states")


# --- what it returns -----------------------------------------------------------------------------------------------


def _returning(decoder: Decoder) -> ast.Return | None:
    """The `return` that the blocks are run in."""
    return next((s for s in decoder.returns if any(node is decoder.call for node in ast.walk(s))), None)


def _returned(decoder: Decoder, statement: ast.Return) -> str:
    """The old result, or with `use_cache` the old result and the cache."""
    value = statement.value
    assert value is not None
    text = _result_text(decoder, statement, value)
    if isinstance(value, ast.Tuple):
        bare = text[1:-1] if text.startswith("(") and text.endswith(")") else text
        return f"if use_cache:\n    return {bare.rstrip().rstrip(',')}, past_kv\nreturn {text}"
    if isinstance(value, ast.Name):
        return f"return ({text}, past_kv) if use_cache else {text}"
    name = free_local(decoder.stack.owner.index, decoder.stack.flow.function, "logits", "output", "result")
    return f"{name} = {text}\nreturn ({name}, past_kv) if use_cache else {name}"


def _result_text(decoder: Decoder, statement: ast.Return, value: ast.expr) -> str:
    """The source of what is returned, the run of the blocks in it already replaced."""
    definition = decoder.stack.owner.definition
    text, run = definition.source(value), definition.source(decoder.call)
    if statement is not _returning(decoder):
        return text
    if text.count(run) != 1:
        raise AssertionError(f"`{run}` stands more than once in `{text}`")
    single = decoder.stack.component.kind == "single"
    return text.replace(run, f"{run.rstrip()[:-1].rstrip().rstrip(',')}, {_FIRST})" if single else _hidden(decoder))
