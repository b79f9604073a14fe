"""Loops that draw one token after another and run the model on the whole prefix for each."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.attention import attention_classes
from migrator.recognise.cached import CACHE, CachedMethod, cached_method
from migrator.recognise.composition import contains
from migrator.recognise.growth import Growth
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.receivers import Receivers
from migrator.recognise.rows import row_inside
from migrator.recognise.slices import (
    base_name,
    called_name,
    crop_of,
    cropped_under_if,
    goes_by_one,
    is_last,
    starts_at,
    until,
)
from migrator.recognise.syntax import FunctionNode, bind, parameters, stored_names, walk_statements

_DRAWS = frozenset({"argmax", "multinomial", "max", "sample", "topk", "softmax", "log_softmax"})
_COPYING = frozenset({"append", "clone", "contiguous", "detach", "item", "long", "to", "view"})
_READING = frozenset({"size", "dim", "ndim", "shape", "device", "dtype"})


@dataclass(eq=False)
class DecodingLoop:
    """A loop that can go on from a cache.

    `statement` holds `call`, whose result is called `logits`. Of `reads`, the places that take the newest row, the
    index is replaced. `prefixes` are the arguments that have to be cut to what has been drawn, with the text of the
    cut. `fits` tells, in code, whether the whole prefix is still inside the model's window; empty without a window.
    `room` is how many positions there may be, in code, or empty. Where call and use are one expression, `row` is what
    takes the newest row of the logits in it, and `logits` is empty.
    """

    definition: Definition
    owner: ClassInfo | None
    function: FunctionNode
    loop: ast.For | ast.While
    statement: ast.Assign
    call: ast.Call
    method: CachedMethod
    logits: str
    row: ast.Subscript | None = None
    reads: list[ast.expr] = field(default_factory=list)
    prefixes: list[tuple[ast.expr, str]] = field(default_factory=list)
    fits: str = ""
    room: str = ""


@dataclass(frozen=True, eq=False)
class StubbornLoop:
    """A decoding loop that has to stay as it is; `code` is empty where nothing is to be wished for."""

    definition: Definition
    owner: ClassInfo | None
    function: FunctionNode
    loop: ast.For | ast.While
    code: str
    seen: str
    remedy: str = ""


class _Stop(Exception):
    def __init__(self, code: str, seen: str, remedy: str = "") -> None:
        super().__init__(code)
        self.code, self.seen, self.remedy = code, seen, remedy


def decoding_loops(index: FileIndex) -> Iterator[DecodingLoop | StubbornLoop]:
    """Every loop of the file that draws tokens from a transformer of the file."""
    if not attention_classes(index):
        return
    for definition, owner, function in _functions(index):
        for loop in (s for s in walk_statements(function.body) if isinstance(s, ast.For | ast.While)):
            found = _Loop(index, definition, owner, function, loop).found()
            if found is not None:
                yield found


def _functions(index: FileIndex) -> Iterator[tuple[Definition, ClassInfo | None, FunctionNode]]:
    for definition in index.definitions:
        if isinstance(definition.tree, FunctionNode):
            yield definition, None, definition.tree
        info = index.classes.get(definition.name)
        if info is not None and info.definition is definition:
            for method in info.methods.values():
                yield definition, info, method


class _Loop:
    """One loop, looked at for a model that is run on what grows."""

    def __init__(
        self,
        index: FileIndex,
        definition: Definition,
        owner: ClassInfo | None,
        function: FunctionNode,
        loop: ast.For | ast.While,
    ) -> None:
        self.index, self.definition, self.owner, self.function, self.loop = index, definition, owner, function, loop
        self.growth = Growth(index, loop)
        self.body, self.steps = self.growth.body, self.growth.steps
        self.nodes = [node for statement in loop.body for node in ast.walk(statement)]

    def found(self) -> DecodingLoop | StubbornLoop | None:
        grown = {**self.growth.appended(), **self.growth.filled()}
        if not grown or not any(called_name(node) in _DRAWS for node in self.nodes):
            return None
        crops = self.growth.crops(grown)
        runs = [s for s in self.body if isinstance(s, ast.Assign) and self.model_call(s, grown.keys() | crops.keys())]
        if not runs or self.is_outer(runs[0]):
            return None
        try:
            return self.decoding(runs, grown, crops)
        except _Stop as stop:
            return StubbornLoop(
                self.definition, self.owner, self.function, self.loop, stop.code, stop.seen, stop.remedy
            )

    def is_outer(self, statement: ast.stmt) -> bool:
        """Whether a loop inside of this one is the one that draws."""
        inner = [s for s in self.body if isinstance(s, ast.For | ast.While)]
        return any(one is statement for loop in inner for one in walk_statements(loop.body))

    # --- the model --------------------------------------------------------------------------------------------

    def model_call(self, statement: ast.Assign, names: set[str]) -> ast.Call | None:
        """The call in a statement that gets what grows and is not one of torch's own functions."""
        for node in ast.walk(statement.value):
            if isinstance(node, ast.Call) and self.is_model(node.func):
                given = [*node.args, *(k.value for k in node.keywords)]
                if any(base_name(argument) in names for argument in given):
                    return node
        return None

    def is_model(self, func: ast.expr) -> bool:
        root = func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.index.imports or hasattr(builtins, root.id):
            return False
        if isinstance(func, ast.Name):
            return func.id not in self.index.functions and func.id not in self.index.classes
        return called_name(ast.Call(func, [], [])) not in _DRAWS | _READING | _COPYING

    def decoding(
        self, runs: list[ast.Assign], grown: dict[str, ast.Assign], crops: dict[str, tuple[str, ast.expr]]
    ) -> DecodingLoop | StubbornLoop | None:
        statement = runs[0]
        call = self.model_call(statement, grown.keys() | crops.keys())
        assert call is not None
        info, name = Receivers(self.index, self.owner, self.function).called(call)
        if info is None:
            seen = f"the class of `{ast.unparse(call.func)}` cannot be told"
            raise _Stop("model-unknown", seen, "annotate it, as in `model: GPT`")
        if not contains(self.index, info.name, set(attention_classes(self.index))):
            return None
        bound = {k.arg for k in call.keywords}
        if CACHE in bound:
            raise _Stop("", "goes on from a cache already")
        method = cached_method(info, name)
        if method is None:
            seen = f"{info.name}.{name} takes no cache, so each step runs the whole prefix"
            raise _Stop("not-cached", seen, "see what `kv_cache` says of it")
        if len(runs) > 1 or statement not in self.steps:
            raise _Stop("several-runs", "the model is run more than once in a step, or not in each", "run it once")
        row = self.row_in(statement, call, method, grown.keys() | crops.keys())
        logits = self.result(statement, call, method) if row is None else ""
        found = DecodingLoop(
            self.definition, self.owner, self.function, self.loop, statement, call, method, logits, row
        )
        self.arguments(found, grown, crops)
        return found

    def row_in(
        self, statement: ast.Assign, call: ast.Call, method: CachedMethod, names: set[str]
    ) -> ast.Subscript | None:
        """What takes the newest row of the logits right where the model is called."""
        row = row_inside(statement.value, call, method.results)
        calls = [node for node in ast.walk(statement.value) if isinstance(node, ast.Call) and self.is_model(node.func)]
        others = [given for node in calls if node is not call for given in node.args]
        if row is not None and any(base_name(given) in names for given in others):
            raise _Stop("several-runs", "the model is run more than once in a step, or not in each", "run it once")
        return row

    def result(self, statement: ast.Assign, call: ast.Call, method: CachedMethod) -> str:
        """The name of the logits, if the statement does nothing but to give names to what the method returns."""
        target = statement.targets[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        plain = len(statement.targets) == 1 and all(isinstance(name, ast.Name) for name in names)
        whole = statement.value is call or (
            isinstance(statement.value, ast.Subscript) and statement.value.value is call
        )
        if not plain or not whole or len(names) != method.results or (statement.value is not call and len(names) > 1):
            seen = f"`{ast.unparse(statement)}` does more than to name what {method.owner.name}.{method.name} returns"
            raise _Stop("logits-read", seen, "give the result of the model a name of its own")
        first = names[0]
        assert isinstance(first, ast.Name)
        others = {name.id for name in names[1:] if isinstance(name, ast.Name)}
        if self.growth.are_read(self.function, others):
            raise _Stop("logits-read", "more than the logits of the model is read", "call the model once more for it")
        return first.id

    # --- arguments --------------------------------------------------------------------------------------------

    def arguments(
        self, found: DecodingLoop, grown: dict[str, ast.Assign], crops: dict[str, tuple[str, ast.expr]]
    ) -> None:
        method = found.method
        bound = bind(parameters(method.owner.methods[method.name]), found.call)
        if bound is None:
            raise _Stop("arguments", "the arguments of the model are unpacked", "write them out")
        given = {name: node for name, node in bound.items() if name in method.sequences}
        others = [name for name, node in bound.items() if name not in given and not isinstance(node, ast.Constant)]
        if len(given) != len(method.sequences) or others:
            seen = f"the model is given {', '.join(others) or 'less than its sequences'} besides the prefix"
            raise _Stop("arguments", seen, "hand it nothing but the prefix in the loop")
        bases = {name: base_name(node) for name, node in given.items()}
        growing = next((name for name, base in bases.items() if base in grown or base in crops), "")
        base = bases[growing] or ""
        source = crops[base][0] if base in crops else base
        self.untouched(found, {source} | ({base} if base in crops else set()), grown[source])
        self.steady(found, source)
        for name in bases.keys() - {growing}:
            self.constant(given[name])
        if isinstance(grown[source].targets[0], ast.Subscript):
            self.fill(found, grown[source], given, growing)
        else:
            self.append(found, given[growing], crops, given)
            self.each_step(grown[source])

    def steady(self, found: DecodingLoop, source: str) -> None:
        """Neither the model, nor the number of the step, nor what shares the tokens' memory may change meanwhile."""
        change = self.growth.change_of_model(found.call)
        if change is not None:
            seen = f"line {self.definition.line(change)} may change the model, whose keys and values are kept"
            raise _Stop("sequence-changed", seen, "leave the model alone in the loop")
        if self.growth.recounts():
            raise _Stop("step", "the loop gives its own number another value", "use a name of its own")
        shared = self.growth.shared_names(self.function, source)
        for node in self.nodes:
            if isinstance(node, ast.Name) and node.id in shared and not self.is_reading(node):
                seen = f"line {self.definition.line(node)} may change `{source}`, whose memory `{node.id}` shares"
                raise _Stop("sequence-changed", seen, "clone it")

    def each_step(self, growth: ast.Assign) -> None:
        """A step that adds no token would have no new row to compute."""
        skips: list[ast.stmt] = [s for s in self.body if isinstance(s, ast.Continue)]
        if growth not in self.steps or skips:
            line = self.definition.line([*skips, growth][0])
            raise _Stop("step", f"line {line}: not each step adds a token", "leave the loop by `break` instead")

    def untouched(self, found: DecodingLoop, names: set[str], growth: ast.Assign) -> None:
        """Nothing but the one statement may change what has been drawn."""
        crops = [
            s for s in self.steps if (chosen := cropped_under_if(s)) is not None and crop_of(chosen[1]) is not None
        ]
        inside = {id(node) for whole in (growth, found.call, *crops) for node in ast.walk(whole)}
        for node in self.nodes:
            if not isinstance(node, ast.Name) or node.id not in names or id(node) in inside:
                continue
            if isinstance(node.ctx, ast.Store) and self.is_crop(node):
                continue
            if isinstance(node.ctx, ast.Store) or not self.is_reading(node):
                seen = f"line {self.definition.line(node)} may change `{node.id}`, which has been computed with"
                raise _Stop("sequence-changed", seen, "only append to it, or write each new token once")

    def is_crop(self, node: ast.Name) -> bool:
        return any(
            isinstance(s, ast.Assign) and s.targets[0] is node and (crop_of(s.value) or (node.id,))[0] != node.id
            for s in self.steps
        )  # fmt: skip

    def is_reading(self, node: ast.Name) -> bool:
        """Whether a name is only looked at: sliced, measured, compared, or concatenated."""
        for outer in self.nodes:
            if isinstance(outer, ast.Subscript) and outer.value is node:
                return isinstance(outer.ctx, ast.Load)
            if isinstance(outer, ast.Attribute) and outer.value is node:
                return outer.attr in _READING
            if isinstance(outer, ast.Call) and node in outer.args:
                return (self.index.resolve(outer.func) or "") in ("torch.cat", "len", "print")
            if isinstance(outer, ast.IfExp) and node in (outer.body, outer.orelse):
                return True
        return False

    def constant(self, node: ast.expr) -> None:
        """An argument beside the tokens has to be the same in each step."""
        name = base_name(node)
        inside = {id(inner) for inner in ast.walk(node)}
        for other in self.nodes:
            if isinstance(other, ast.Name) and other.id == name and id(other) not in inside:
                seen = f"line {self.definition.line(other)} may change `{name}`, which has been computed with"
                raise _Stop("sequence-changed", seen, "leave it alone in the loop")

    # --- the two kinds of loops -------------------------------------------------------------------------------

    def append(
        self, found: DecodingLoop, node: ast.expr, crops: dict[str, tuple[str, ast.expr]], given: dict[str, ast.expr]
    ) -> None:
        """`idx = torch.cat((idx, new), dim=1)`: all of it is the prefix, as long as it fits the window."""
        if len(given) > 1:
            raise _Stop("arguments", "the model is given several sequences, of which one grows", "cut the others to it")
        crop = crops.get(base_name(node) or "") if isinstance(node, ast.Name) else crop_of(node)
        if crop is not None:
            moving = {n.id for n in ast.walk(crop[1]) if isinstance(n, ast.Name)} & stored_names([self.loop])
            if moving:
                seen = f"the window `{ast.unparse(crop[1])}` is another one in each step"
                raise _Stop("arguments", seen, "give it one length before the loop")
            found.room = self.definition.source(crop[1])
            found.fits = f"{crop[0]}.size(1) <= {found.room}"
        elif not isinstance(node, ast.Name):
            raise _Stop("arguments", f"`{ast.unparse(node)}` is not the whole prefix", "hand in all tokens")
        for read in self.logits_reads(found):
            if not is_last(read):
                seen = f"line {self.definition.line(read)} reads other logits than the last"
                raise _Stop("logits-read", seen, "read `logits[:, -1]` alone")

    def fill(self, found: DecodingLoop, growth: ast.Assign, given: dict[str, ast.expr], growing: str) -> None:
        """`tokens[:, t] = new`: the prefix is what has been written by now."""
        loop = self.loop
        if not isinstance(loop, ast.For) or goes_by_one(loop.iter) is None:
            raise _Stop("step", "the loop does not count positions one by one", "use `for t in range(...)`")
        reads = list(self.logits_reads(found))
        columns = {self.growth.column(read) for read in reads}
        column = columns.pop() if len(columns) == 1 else None
        if column is None or column > 0:
            seen = f"not the logits of one position, counted by the loop, are read from `{found.logits}`"
            raise _Stop("logits-read", seen, "read `logits[:, t]` alone")
        written = self.growth.column(growth.targets[0])
        assert written is not None
        first = starts_at(loop.iter)
        if first is not None and first + column < 0:
            seen = f"the first step reads the logits at {first + column}, which is the end of the sequence"
            raise _Stop("logits-read", seen, "begin where there is a position before")
        newest = column - (growing in found.method.shifted)  # the last token that these logits see
        if newest >= written:
            seen = (
                f"the logits that are read see the token at `{ast.unparse(growth.targets[0])}`, drawn only afterwards"
            )
            raise _Stop("placeholder", seen, "read the logits of the position before")
        for node in given.values():
            if not isinstance(node, ast.Name):
                raise _Stop("arguments", f"`{ast.unparse(node)}` is not the whole sequence", "hand in all of it")
            found.prefixes.append((node, f"{node.id}[:, {until(loop, column)}]"))
        found.reads = [read.slice.elts[1] for read in reads if isinstance(read, ast.Subscript)]  # type: ignore[attr-defined]
        stop = goes_by_one(loop.iter)
        if isinstance(stop, ast.Name | ast.Constant | ast.Attribute):
            found.room = ast.unparse(stop)

    def logits_reads(self, found: DecodingLoop) -> Iterator[ast.expr]:
        """What takes the rows of the logits, until the name stands for something else."""
        name, rebound, left = found.logits, False, False
        if found.row is not None:
            yield found.row
            return
        if found.statement.value is not found.call:  # logits = model(x)[:, -1]
            yield found.statement.value
            return
        for statement in self.steps[self.steps.index(found.statement) + 1 :]:
            loads = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == name]
            if isinstance(statement, ast.AugAssign) and statement.target in loads:
                yield statement.target  # `logits /= temperature` changes all rows, and goes on with them
                continue
            for load in (n for n in loads if isinstance(n.ctx, ast.Load)):
                holder = next(
                    (n for n in ast.walk(statement) if isinstance(n, ast.Subscript) and n.value is load), None
                )
                yield holder if holder is not None else load
            left = left or any(isinstance(n, ast.Break) for n in ast.walk(statement))
            if isinstance(statement, ast.Assign | ast.AnnAssign) and any(isinstance(n.ctx, ast.Store) for n in loads):
                rebound = True
                break
        if (left or not rebound) and self.read_elsewhere(found):
            seen = f"`{name}` is read outside of the step that computes it"
            raise _Stop("logits-read", seen, "give the other use a result of its own")

    def read_elsewhere(self, found: DecodingLoop) -> bool:
        """Whether the name is read earlier in a step, or after the loop, before it is given another value."""
        names = [n for n in ast.walk(self.function) if isinstance(n, ast.Name) and n.id == found.logits]
        start, end = (self.loop.lineno, found.statement.lineno), self.loop.body[-1].end_lineno or self.loop.lineno
        earlier = [n for n in names if start[0] <= n.lineno < start[1]]
        later = sorted((n.lineno, n.col_offset, isinstance(n.ctx, ast.Load)) for n in names if n.lineno > end)
        return any(isinstance(n.ctx, ast.Load) for n in earlier) or bool(later and later[0][2])
