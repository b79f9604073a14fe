"""Values followed through calls of the file's own classes, so that a block shows whatever classes its parts stand in.

A `Seen` is a value in one run of a function, its `Frame`: the same `self.norm(x)` in a class that two sublayers use is
seen twice, each time with its own x. Frames are made once for each call, so that equal things are the same `Seen`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.lambdas import as_method
from migrator.recognise.matrices import products, roles
from migrator.recognise.noise import is_noise_of
from migrator.recognise.operations import TRANSPARENT
from migrator.recognise.pairs import Pairs
from migrator.recognise.syntax import bind, once_assigned, parameters, stored_names
from migrator.recognise.values import Flow, Value, place_of, walked

_DEEP = 12  # calls inside of calls
NESTED = 5  # sums and choices of tuples inside of one another


@dataclass(eq=False)
class Frame:
    """One run of a function.

    `path` leads from the outermost class to the module that runs, `given` are the arguments, `spare` keywords for
    `**kwargs`, and `built` the arguments of `__init__`, each with the frame whose `__init__` they stand in. `outer` is
    the run that called, by `call`; `made` is what built the module. `handed` tells that the module, or one around it,
    was built before the outermost class, which may share it with others.
    """

    flow: Flow
    path: str = ""
    given: dict[str, Seen] = field(default_factory=dict, repr=False)
    spare: dict[str, Seen] = field(default_factory=dict, repr=False)
    built: dict[str, tuple[ast.expr, Frame]] = field(default_factory=dict, repr=False)
    outer: Frame | None = None
    call: Value | None = None
    made: ast.Call | None = None
    handed: bool = False
    pairs: Pairs | None = None
    inner: dict[Value, Seen | None] = field(default_factory=dict, repr=False)

    @property
    def index(self) -> FileIndex:
        return self.flow.index

    @property
    def owner(self) -> ClassInfo | None:
        return self.flow.owner

    @property
    def callers(self) -> list[Frame]:
        """The run itself, and those around it, from the inside out."""
        found = [self]
        while found[-1].outer is not None:
            found.append(found[-1].outer)
        return found


@dataclass(frozen=True)
class Seen:
    """A value in one run of a function."""

    value: Value
    frame: Frame

    def operands(self) -> Iterator[Seen]:
        for operand in self.value.operands():
            yield settle(Seen(operand, self.frame))


@dataclass(frozen=True)
class Callee:
    """What a call runs: the module at `path` of the frame that built it, by `made`; `made` is None for a lambda."""

    made: ast.Call | None
    path: str
    frame: Frame


@dataclass(frozen=True)
class _Call:
    """A call: what is called, and with what."""

    called: Seen | str  # the path of an attribute, or a value that is called
    args: tuple[Value, ...]
    keywords: dict[str, Value]
    starred: Value | None = None


def settle(seen: Seen) -> Seen:
    """The operation that a value comes from, behind names, arguments and calls of the file's own classes."""
    known: set[Seen] = set()
    while seen not in known:
        known.add(seen)
        value, frame = seen.value, seen.frame
        if value.op in TRANSPARENT and value.args:
            seen = Seen(value.args[0], frame)
        elif value.op in ("param", "free", "global") and value.data in frame.given:
            seen = frame.given[value.data]
        elif value.op in ("unpack", "getitem") and value.args:
            seen = _item(seen)
        else:
            seen = _entered(seen) or seen
    return seen


def _item(seen: Seen) -> Seen:
    """The element of a tuple that a call gives out."""
    place = place_of(seen.value)
    found = element(Seen(seen.value.args[0], seen.frame), place) if place is not None and place >= 0 else None
    return found or seen


def element(seen: Seen, place: int, depth: int = NESTED) -> Seen | None:
    """An element of a tuple, also of `(x,) + others`, and of one of two tuples that begin alike."""
    source = settle(seen)
    value, frame = source.value, source.frame
    if value.op == "tuple":
        return settle(Seen(value.args[place], frame)) if place < _certain(value) else None
    if depth and value.op == "add" and len(value.args) == 2:
        return element(Seen(value.args[0], frame), place, depth - 1)
    if depth and value.op == "phi":
        yes, no = (element(Seen(side, frame), place, depth - 1) for side in value.args[1:])
        return yes if yes == no else None
    return None


def _certain(value: Value) -> int:
    """How many elements of a tuple stand where they are written."""
    starred = [isinstance(element, ast.Starred) for element in getattr(value.node, "elts", [])]
    return starred.index(True) if True in starred else len(value.args)


def callee(seen: Seen) -> Callee | None:
    """What a value's call runs, where the file says it."""
    call = _call(seen)
    return _resolved(call.called, seen.frame) if call is not None else None


def _call(seen: Seen) -> _Call | None:
    value, node = seen.value, seen.value.node
    if value.op == "module":
        return _Call(str(value.data), value.args, value.keywords)
    if value.op == "call_local":
        return _Call(Seen(value.args[0], seen.frame), value.args[1:], value.keywords)
    if value.op != "opaque" or not isinstance(node, ast.Call) or not value.args:
        return None
    called = Seen(value.args[0], seen.frame)
    if isinstance(node.func, ast.Subscript) and not any(k.arg is None for k in node.keywords):
        return _Call(called, value.args[1:], value.keywords) if len(value.args) == 1 + len(node.args) else None
    return _with_stars(called, node, value)


def _with_stars(called: Seen, node: ast.Call, value: Value) -> _Call | None:
    """`self.fn(self.norm(x), **kwargs)`: the interpreter keeps its parts in order."""
    names = [keyword.arg for keyword in node.keywords]
    if names.count(None) != 1 or any(isinstance(arg, ast.Starred) for arg in node.args):
        return None
    given = value.args[1:]
    if len(given) != len(node.args) + len(names):
        return None
    words = dict(zip(names, given[len(node.args) :], strict=True))
    starred = words.pop(None)
    return _Call(called, given[: len(node.args)], {str(name): word for name, word in words.items()}, starred)


def _resolved(called: Seen | str, frame: Frame) -> Callee | None:
    if isinstance(called, str):
        made = frame.owner.attribute(called) if frame.owner is not None else None
        return _built(made, _joined(frame.path, called), frame)
    seen = settle(called)
    value, frame = seen.value, seen.frame
    if value.op == "attr":
        return _resolved(str(value.data), frame)
    if isinstance(value.node, ast.Lambda):
        return Callee(None, "", frame)
    if value.op == "unpack" and frame.pairs is not None:
        return _member(value, frame)
    return _copied(seen) if value.op == "getitem" else None


def _member(value: Value, frame: Frame) -> Callee | None:
    """`attn` of `for attn, ff in self.layers`."""
    pairs, source = frame.pairs, walked(value.args[0])
    if pairs is None or source is None or source.op != "attr" or source.data != pairs.attribute:
        return None
    fits = isinstance(value.data, int) and value.data < len(pairs.members)
    return _built(pairs.members[value.data], str(value.data), frame) if fits else None


def _copied(seen: Seen) -> Callee | None:
    """`self.sublayer[0]` of `clones(Sublayer(size), 2)` or of an nn.ModuleList with a comprehension or a list."""
    base, place = seen.value.args[0], seen.value.data
    owner = seen.frame.owner
    made = owner.attribute(base.data) if owner is not None and base.op == "attr" else None
    number = place.value if isinstance(place, ast.Constant) else None
    if not isinstance(made, ast.Call) or not isinstance(number, int) or owner is None:
        return None
    found = made.args[0] if made.args else None
    if isinstance(found, ast.List) and len(found.elts) > number >= 0:
        found = found.elts[number]
    elif isinstance(found, ast.ListComp | ast.GeneratorExp):
        found = found.elt
    else:
        helper = owner.index.functions.get(owner.index.resolve(made.func) or "")
        if helper is None or "deepcopy" not in helper.text:
            return None
    return _built(found, _joined(seen.frame.path, f"{base.data}.{number}"), seen.frame)


def _built(made: ast.expr | None, path: str, frame: Frame) -> Callee | None:
    """The call that builds a module, followed to whoever handed it in, and behind `copy.deepcopy`.

    `Attention(dim) if cross else None` is called where it is one.
    """
    for _ in range(_DEEP):
        sides = [made.body, made.orelse] if isinstance(made, ast.IfExp) else []
        there = [side for side in sides if not (isinstance(side, ast.Constant) and side.value is None)]
        if len(there) == 1:
            made = there[0]
        elif isinstance(made, ast.Call) and len(made.args) == 1 and _copies(made.func, frame):
            made = made.args[0]
        elif isinstance(made, ast.Call):
            return Callee(made, path, frame)
        elif isinstance(made, ast.Name) and made.id in frame.built:
            made, frame = frame.built[made.id]
        else:
            return None
    return None


def _copies(func: ast.expr, frame: Frame) -> bool:
    """`copy.deepcopy`, or a local name for it."""
    if isinstance(func, ast.Name) and func.id in frame.built:
        func = frame.built[func.id][0]
    return frame.index.resolve(func) == "copy.deepcopy"


def top_frame(info: ClassInfo, flow: Flow, pairs: Pairs | None = None) -> Frame:
    """The run of a method of `info`; what `__init__` got is known if the file builds the class in one place."""
    frame = Frame(flow, pairs=pairs)
    sites = info.index.calls.get(info.name, [])
    if len(sites) == 1 and sites[0].scope:
        site = sites[0]
        home = Frame(flow_of(info.index, site.definition, site.scope[-1], info.index.classes.get(site.definition.name)))
        home.built = {name: (value, home) for name, value in once_assigned(site.scope[-1]).items()}
        frame.built = _constructed(info, Callee(site.call, "", home))
    return frame


def _entered(seen: Seen) -> Seen | None:
    """What a call of one of the file's own classes, or of a lambda, gives out."""
    frame = seen.frame
    if seen.value not in frame.inner:
        frame.inner[seen.value] = None  # a call that meets itself is not entered
        frame.inner[seen.value] = _enter(seen)
    return frame.inner[seen.value]


def _enter(seen: Seen) -> Seen | None:
    call = _call(seen)
    runs = _resolved(call.called, seen.frame) if call is not None else None
    if call is None or runs is None or len(seen.frame.callers) > _DEEP:
        return None
    if runs.made is None:
        assert isinstance(call.called, Seen)
        return _enter_lambda(call, settle(call.called), seen.frame)
    info = seen.frame.index.modules.get(runs.made.func.id) if isinstance(runs.made.func, ast.Name) else None
    closed = info is None or is_norm(info) or roles(info.index, runs.made) is not None or is_noise_of(info)
    flow = method_flow(info) if info is not None and not closed else None
    if flow is None or info is None or len(flow.returns) != 1:
        return None
    handed = seen.frame.handed or runs.frame not in seen.frame.callers
    frame = Frame(flow, runs.path, outer=seen.frame, call=seen.value, made=runs.made, handed=handed)
    frame.built = _constructed(info, runs)
    return Seen(flow.returns[0][0], frame) if _hand_over(call, frame, seen.frame) else None


def _constructed(info: ClassInfo, runs: Callee) -> dict[str, tuple[ast.expr, Frame]]:
    assert runs.made is not None
    bound = bind(info.init_parameters, runs.made) or {}
    init = info.methods.get("__init__")
    rebound = stored_names(init.body) if init is not None else set()
    return {name: (node, runs.frame) for name, node in bound.items() if name not in rebound}


def _hand_over(call: _Call, frame: Frame, outer: Frame) -> bool:
    """Bind the arguments of a call; False where they do not fit."""
    function = frame.flow.function
    spec, names = function.args, list(parameters(function))
    if len(call.args) > len(names) or spec.vararg is not None:
        return False
    words = {**_spare(call, outer), **{name: Seen(value, outer) for name, value in call.keywords.items()}}
    frame.given.update({name: Seen(value, outer) for name, value in zip(names, call.args, strict=False)})
    frame.given.update({name: word for name, word in words.items() if name in names})
    frame.spare = {name: word for name, word in words.items() if name not in names}
    return not frame.spare or spec.kwarg is not None


def _spare(call: _Call, outer: Frame) -> dict[str, Seen]:
    kwarg = outer.flow.function.args.kwarg
    own = call.starred is not None and call.starred.op == "param" and kwarg is not None
    return outer.spare if own and kwarg is not None and call.starred and call.starred.data == kwarg.arg else {}


def _enter_lambda(call: _Call, made: Seen, outer: Frame) -> Seen | None:
    """The body of a lambda; names that are not its own mean what they mean where it stands."""
    node, home = made.value.node, made.frame
    assert isinstance(node, ast.Lambda)
    flow = flow_of(home.index, home.flow.definition, as_method(node, home.flow.self_name), home.owner)
    frame = Frame(flow, home.path, outer=outer, handed=home.handed, built=home.built)
    names = home.flow.before.get(made.value.statement, {}) if made.value.statement is not None else {}
    frame.given.update({name: Seen(value, home) for name, value in names.items()})
    for arg in node.args.args:
        frame.given.pop(arg.arg, None)
    return Seen(flow.returns[0][0], frame) if _hand_over(call, frame, outer) else None


def _joined(path: str, attribute: str) -> str:
    return f"{path}.{attribute}" if path else attribute


def said(node: ast.expr, frame: Frame) -> str | None:
    """An expression of some `__init__`, with what the outermost class handed down in place of parameters."""
    if frame.outer is None:
        return ast.unparse(node)
    words = _Words(frame)
    changed = words.visit(ast.parse(ast.unparse(node), mode="eval").body)
    return None if words.unknown else ast.unparse(changed)


class _Words(ast.NodeTransformer):
    def __init__(self, frame: Frame) -> None:
        self.frame, self.unknown = frame, False

    def visit_Name(self, node: ast.Name) -> ast.expr:
        handed = self.frame.built.get(node.id)
        text = said(*handed) if handed is not None else None
        self.unknown = self.unknown or text is None
        return ast.parse(text, mode="eval").body if text is not None else node


# --- norms ---------------------------------------------------------------------------------------------------------


def is_norm(info: ClassInfo) -> bool:
    """Whether a class of the file is a norm of its own: called so, and running nothing, or statistics and products."""
    flow = method_flow(info) if "norm" in info.name.lower() else None
    if flow is None:
        return False
    run = [value for value in flow.values if value.op in ("module", "call_local")]
    measures = any(value.op in ("mean", "var", "std") for value in flow.values)
    return not run or (measures and all(value.data in products(info) for value in run))
