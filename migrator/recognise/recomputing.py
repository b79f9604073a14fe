"""Whether a module may be computed a second time, and what stands against it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.composition import mentioned
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter, walk_statements
from migrator.recognise.values import Flow, Value, roots

_COUNTS = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "spectral_norm")
_MUTATORS = frozenset(
    {"append", "extend", "insert", "add", "update", "pop", "popitem", "clear", "setdefault", "remove"}
)
_RANDOM = ("random.", "numpy.random.")
_KNOWN = ("torch.nn.", "runtime.")
Obstacle = tuple[str, str]

# Meaning of the codes, for codemods that hand them on.
RECOMPUTE_REFUSALS = {
    "stateful": "computing a block changes something, and computing it twice would change it twice",
    "random": "a block draws random numbers that torch cannot draw again",
    "in-place": "what a block is given is changed in place, so that it could not be computed again from it",
    "unknown-part": "a block has parts that the file does not show",
}


def obstacle(index: FileIndex, name: str) -> Obstacle | None:
    """What keeps instances of a class from being computed twice: (code, what was seen)."""
    return next((found for info in mentioned(index, name) for found in _obstacles(info)), None)


def changed_in_place(flow: Flow) -> Iterator[tuple[Value, ast.stmt]]:
    """(value, statement) for everything that a function changes in place."""
    for value in flow.values:
        if value.args and value.statement is not None and _is_in_place(flow, value):
            yield value.args[0], value.statement
    for statement in walk_statements(flow.function.body):
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            held = flow.before.get(statement, {}).get(statement.target.id)
            if held is not None and held.op != "const":
                yield held, statement


def _is_in_place(flow: Flow, value: Value) -> bool:
    if value.op == "setitem":
        return True
    name = value.data if isinstance(value.data, str) else ""
    if value.op == "method" and name in _MUTATORS:
        return True
    if name.endswith("_") and not name.endswith("__") and value.op not in ("module", "attr", "param"):
        return True
    inside = value.keywords.get("inplace")
    if inside is not None:
        return not inside.is_const(False)
    kept = _made(flow.owner, name.removeprefix("self.")) if flow.owner is not None and "self." in name else None
    made = kept if isinstance(kept, ast.Call) else None
    given = [*made.args[-1:], *(k.value for k in made.keywords if k.arg == "inplace")] if made is not None else []
    return any(isinstance(one, ast.Constant) and one.value is True for one in given)


def _obstacles(info: ClassInfo) -> Iterator[Obstacle]:
    for node in ast.walk(info.node):
        made = info.index.resolve(node.func) or "" if isinstance(node, ast.Call) else ""
        if made.startswith("torch.nn.") and made.rpartition(".")[2].startswith(_COUNTS):
            yield "stateful", f"{info.name} holds {made.rpartition('.')[2]}, which counts each time that it is run"
    for method in _methods(info):
        yield from _of_method(info, method)


def _methods(info: ClassInfo) -> Iterator[FunctionNode]:
    """`forward` and the methods that it calls."""
    todo, seen = ["forward"], set()
    while todo:
        name = todo.pop()
        method = info.methods.get(name)
        if method is not None and name not in seen:
            seen.add(name)
            yield method
            todo += [v.data for v in flow_of(info.index, info.definition, method, info).values if v.op == "self_call"]


def _of_method(info: ClassInfo, method: FunctionNode) -> Iterator[Obstacle]:
    where = f"{info.name}.{method.name}"
    yield from (("stateful", f"{where} changes `{text}`") for text in _changes_of_self(method))
    if any(isinstance(node, ast.Global | ast.Nonlocal) for node in ast.walk(method)):
        yield "stateful", f"{where} changes global names"
    flow = flow_of(info.index, info.definition, method, info)
    for value in flow.values:
        name = value.data if isinstance(value.data, str) else ""
        if "generator" in value.keywords or (value.op == "call" and name.startswith(_RANDOM)):
            yield "random", f"{where} draws from a generator of its own: `{name}`"
        if value.op == "module" and not _is_known(info, name):
            yield "unknown-part", f"{where} runs `self.{name}`, and it cannot be told what that is"
    for target, statement in changed_in_place(flow):
        if any(root.op == "param" for root in roots(target)):
            yield "in-place", f"{where} changes what it is given: `{ast.unparse(statement).partition(chr(10))[0]}`"


def _changes_of_self(method: FunctionNode) -> Iterator[str]:
    """Expressions below `self` that a method assigns, or changes in place."""
    for node in ast.walk(method):
        target: ast.expr | None = None
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            in_place = name.endswith("_") and not name.endswith("__")
            target = node.func.value if in_place or name in _MUTATORS else None
        if target is not None and _root(target) == first_parameter(method):
            yield ast.unparse(target)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_known(info: ClassInfo, path: str) -> bool:
    """Whether an attribute that is called is made by a class of torch, of the runtime, or of this file."""
    made = _made(info, path.partition(".")[0])
    return made is not None and _shows(info, made)


def _made(info: ClassInfo, name: str) -> ast.expr | None:
    """The value of an attribute, of the class or the nearest one above that sets it."""
    return next((one for one in info.lineage if name in one.attributes), info).attribute(name)


def _shows(info: ClassInfo, made: ast.expr) -> bool:
    if isinstance(made, ast.Starred):
        return _shows(info, made.value)
    if isinstance(made, ast.ListComp | ast.GeneratorExp):
        return _shows(info, made.elt)
    if isinstance(made, ast.List | ast.Tuple):
        return all(_shows(info, element) for element in made.elts)
    if isinstance(made, ast.Dict):
        return all(_shows(info, entry) for entry in made.values)
    if isinstance(made, ast.IfExp):
        return _shows(info, made.body) and _shows(info, made.orelse)
    if isinstance(made, ast.Lambda):
        return _shows_lambda(info, made)
    if not isinstance(made, ast.Call):
        return False
    name = info.index.resolve(made.func) or ""
    if name in ("dict", *(f"torch.nn.{kind}" for kind in ("Sequential", "ModuleList", "ModuleDict"))):
        return all(_shows(info, part) for part in [*made.args, *(keyword.value for keyword in made.keywords)])
    return name in info.index.classes or name.startswith(_KNOWN)


def _shows_lambda(info: ClassInfo, made: ast.Lambda) -> bool:
    """A lambda of `__init__` that runs parts of `self`, by their name or by a local one."""
    init = next(one.methods["__init__"] for one in info.lineage if "__init__" in one.methods)
    local = {
        target.id: statement.value
        for statement in walk_statements(init.body)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for call in (node for node in ast.walk(made) if isinstance(node, ast.Call)):
        path = ast.unparse(call.func)
        root, _, rest = path.partition(".")
        if root in local:
            path = f"{ast.unparse(local[root])}.{rest}"
        if not path.startswith(f"{first_parameter(init)}.") or not _is_known(info, path.partition(".")[2]):
            return False
    return True
