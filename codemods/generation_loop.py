"""Loops that re-run the whole prefix for each token go on from a cache."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import (
    AnyEdit,
    CachedGeneration,
    Claim,
    Codemod,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Replace,
    Site,
)
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.loops import DecodingLoop, decoding_loops
from migrator.recognise.spelling import LINE_LIMIT, free_local, respelt, runtime_name
from migrator.recognise.syntax import FunctionNode


@dataclass(frozen=True)
class _Part:
    loop: DecodingLoop
    cache: str  # the variable
    results: tuple[str, ...]  # the names of what the model returns besides the cache
    made: str  # the call that makes it
    imports: Import


class GenerationLoop(Codemod):
    """for t: logits = model(tokens) -> for t: logits, past_kv = model(tokens, past_kv=past_kv, use_cache=True)."""

    phase = Phase.ACCELERATION
    promise = Promise.EXACT
    rationale = (
        "A loop that runs the whole prefix for each token does quadratic work; with a cache each token is run once."
    )
    reference = "Pope et al. 2022, Efficiently Scaling Transformer Inference, arXiv 2211.05102"
    formula = "1 + 2 + ... + T = T (T + 1) / 2 positions without a cache, T with one"
    after = ("kv_cache",)
    refusals = {
        "model-unknown": "it cannot be told which class the loop runs",
        "not-cached": "the method that the loop runs takes no cache",
        "several-runs": "the model does not run exactly once in each step",
        "arguments": "the model is given something else than the whole prefix",
        "sequence-changed": "what has been computed with may change later",
        "logits-read": "more than the logits of the newest position is read",
        "placeholder": "the logits see a token that is drawn only afterwards",
        "step": "the loop does not count positions one by one",
        "layout": "the place cannot be edited statement by statement",
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for found in decoding_loops(index):
            symbol = _qualified(found.owner, found.function)
            place = Place.of(symbol, found.loop, found.definition)
            if isinstance(found, DecodingLoop):
                yield _site(index, found, place, symbol)
            elif found.code:
                yield Refusal(place, found.code, found.seen, found.remedy)
            else:
                yield Modern(place, found.seen)

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        loop = part.loop
        yield Insert(loop.definition, loop.loop, f"{part.cache} = {part.made}", "before")
        inside = {id(node) for node in ast.walk(loop.statement)}
        for node in loop.reads:
            if id(node) not in inside:
                yield Replace(loop.definition, node, "-1")
        yield Replace(loop.definition, loop.statement, _step(part))
        yield part.imports


def _qualified(owner: ClassInfo | None, function: FunctionNode) -> str:
    return f"{owner.name}.{function.name}" if owner is not None else function.name


def _site(index: FileIndex, loop: DecodingLoop, place: Place, symbol: str) -> Site:
    spelling, imported = runtime_name(index, "KVCache")
    claim = Claim(
        (loop.definition.name,),
        tuple(dict.fromkeys(info.name for info in (loop.owner, loop.method.owner) if info is not None)),
        abilities=(CachedGeneration(symbol),),
    )
    made = f"{spelling}(max_len={loop.room})" if loop.room else f"{spelling}()"
    window = ", as long as the prefix fits the window" if loop.fits else ""
    message = f"each step runs the new position of {loop.method.owner.name}.{loop.method.name} alone{window}"
    return Site(place, message, claim, _Part(loop, _cache_name(index, loop), _results(index, loop), made, imported))


def _results(index: FileIndex, loop: DecodingLoop) -> tuple[str, ...]:
    """The targets of the statement; names of our own where the call stands inside of an expression."""
    if loop.row is None:
        return tuple(ast.unparse(target) for target in _targets(loop.statement))
    names = [node for node in ast.walk(loop.function) if isinstance(node, ast.Name) and node.id == "_"]
    nobody = "others" if any(isinstance(node.ctx, ast.Load) for node in names) else "_"
    return (free_local(index, loop.function, "logits", "outputs"), *([nobody] * (loop.method.results - 1)))


def _cache_name(index: FileIndex, loop: DecodingLoop) -> str:
    """`past_kv`, also where an earlier loop of the function has a cache of that name: each loop makes its own."""
    bound = [
        statement
        for statement in ast.walk(loop.function)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "past_kv"
    ]
    inside = any(inner is statement for statement in bound for inner in ast.walk(loop.loop))
    if bound and not inside and all("KVCache(" in ast.unparse(statement.value) for statement in bound):
        return "past_kv"
    return free_local(index, loop.function, "past_kv", "cache", "kv_cache")


def _step(part: _Part) -> str:
    """The statement that runs the model, with the cache; past the window, as it was."""
    loop, definition = part.loop, part.loop.definition
    legacy = definition.source(loop.statement)
    targets = ", ".join(part.results)
    cached = _call(loop, part.cache, f"{targets}, {part.cache} = ")
    if loop.row is not None:  # probs = softmax(model(x)[:, -1])
        cached = f"{cached}\n{_use(loop, part.results[0])}"
    elif isinstance(loop.statement.value, ast.Subscript):  # logits = model(x)[:, -1]
        row = ", ".join(
            "-1" if item in loop.reads else definition.source(item) for item in _items(loop.statement.value)
        )
        cached = f"{cached}\n{targets} = {targets}[{row}]"
    if not loop.fits:
        return cached
    cached = cached.replace("\n", "\n    ")
    why = "# the window slides: all positions change, and nothing cached holds any more"
    return f"if {loop.fits}:\n    {cached}\nelse:  {why}\n    {legacy}"


def _use(loop: DecodingLoop, name: str) -> str:
    """The statement with a name in place of the logits, which it takes the newest row of."""
    assert loop.row is not None
    texts = {loop.row.value: name}
    texts.update({item: "-1" for item in _items(loop.row) if item in loop.reads})
    return respelt(loop.definition, loop.statement, texts)


def _targets(statement: ast.Assign) -> list[ast.expr]:
    target = statement.targets[0]
    return target.elts if isinstance(target, ast.Tuple) else [target]


def _items(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def _call(loop: DecodingLoop, cache: str, prefix: str) -> str:
    source = loop.definition.source
    cuts = {id(node): text for node, text in loop.prefixes}
    if loop.fits:  # then the crop is all there is
        whole = loop.fits.partition(".")[0]
        cuts = {id(node): whole for node in ast.walk(loop.call) if isinstance(node, ast.Subscript | ast.IfExp)}
    words = [cuts.get(id(node)) or source(node) for node in loop.call.args]
    words += [f"{k.arg}={cuts.get(id(k.value)) or source(k.value)}" for k in loop.call.keywords]
    words += [f"past_kv={cache}", "use_cache=True"]
    function = source(loop.call.func)
    line = f"{prefix}{function}({', '.join(words)})"
    if loop.statement.col_offset + len(line) <= LINE_LIMIT:
        return line
    return f"{prefix}{function}(\n    {', '.join(words)}\n)"
