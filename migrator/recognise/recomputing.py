"""Whether a module may be computed a second time, and what stands against it."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator

from migrator.recognise.composition import mentioned
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.mutation import MUTATORS, changed_in_place, made_by
from migrator.recognise.syntax import FunctionNode, first_parameter, parameters, stored_names, walk_statements
from migrator.recognise.values import Flow, roots

_COUNTS = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "spectral_norm")
_RANDOM = ("random.", "numpy.random.", "secrets.", "uuid.", "time.", "os.urandom")
_KNOWN = ("torch.nn.", "runtime.")
_LIBRARIES = frozenset({"torch", "runtime", "einops"}) | (sys.stdlib_module_names - {"random"})
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


def _obstacles(info: ClassInfo) -> Iterator[Obstacle]:
    for node in ast.walk(info.node):
        made = info.index.resolve(node.func) or "" if isinstance(node, ast.Call) else ""
        if made.startswith("torch.nn.") and made.rpartition(".")[2].startswith(_COUNTS):
            yield "stateful", f"{info.name} holds {made.rpartition('.')[2]}, which counts each time that it is run"
    for flow in _flows(info):
        yield from _of_flow(info, flow)


def _flows(info: ClassInfo) -> Iterator[Flow]:
    """`forward`, and the methods and functions of the file that it calls, at any depth."""
    index = info.index
    todo: list[tuple[Definition, ast.AST | None, ClassInfo | None]] = []
    todo.append((info.definition, info.methods.get("forward"), info))
    seen: set[ast.AST] = set()
    while todo:
        definition, function, owner = todo.pop()
        if isinstance(function, FunctionNode) and function not in seen:
            seen.add(function)
            flow = flow_of(index, definition, function, owner)
            yield flow
            todo += [(definition, owner.methods[v.data], owner) for v in flow.of("self_call") if owner is not None]
            called = [index.functions[v.data] for v in flow.of("call") if v.data in index.functions]
            todo += [(one, one.tree, None) for one in called]


def _of_flow(info: ClassInfo, flow: Flow) -> Iterator[Obstacle]:
    method = flow.function
    where = f"{flow.owner.name}.{method.name}" if flow.owner is not None else method.name
    if flow.owner is not None:
        yield from (("stateful", f"{where} changes `{text}`") for text in _changes_of_self(method))
    if any(isinstance(node, ast.Global | ast.Nonlocal) for node in ast.walk(method)):
        yield "stateful", f"{where} changes global names"
    yield from (("stateful", f"{where} changes `{text}`") for text in _changes_of_globals(method))
    for value in flow.values:
        name = value.data if isinstance(value.data, str) else ""
        if "generator" in value.keywords or (value.op == "call" and name.startswith(_RANDOM)):
            yield "random", f"{where} draws from a generator of its own: `{name}`"
        if value.op == "call" and name == "next":
            yield "stateful", f"{where} takes the next of what is counted elsewhere"
        if value.op == "module" and not _is_known(info, name):
            yield "unknown-part", f"{where} runs `self.{name}`, and it cannot be told what that is"
        if value.op == "call" and name and not _is_known_function(info.index, name):
            yield "unknown-part", f"{where} calls `{name}`, and it cannot be told what that does"
    for target, statement in changed_in_place(flow):
        if any(root.op == "param" for root in roots(target)):
            yield "in-place", f"{where} changes what it is given: `{ast.unparse(statement).partition(chr(10))[0]}`"


def _is_known_function(index: FileIndex, name: str) -> bool:
    return (
        name in index.functions
        or name in index.classes
        or hasattr(builtins, name)
        or ("." in name and name.partition(".")[0] in _LIBRARIES)
    )


def _changes_of_self(method: FunctionNode) -> Iterator[str]:
    """Expressions below `self` that a method assigns, or changes in place."""
    for node in ast.walk(method):
        target: ast.expr | None = None
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            in_place = name.endswith("_") and not name.endswith("__")
            target = node.func.value if in_place or name in MUTATORS else None
        if target is not None and _root(target) == first_parameter(method):
            yield ast.unparse(target)


def _changes_of_globals(method: FunctionNode) -> Iterator[str]:
    """Entries and attributes, of what the module or a class holds, that a method assigns: `CALLS["block"] += 1`."""
    own = {*parameters(method), first_parameter(method), *stored_names(method.body)}
    for node in ast.walk(method):
        stored = isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
        if stored and isinstance(node, ast.Attribute | ast.Subscript) and _root(node) not in {*own, ""}:
            yield ast.unparse(node)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_known(info: ClassInfo, path: str) -> bool:
    """Whether an attribute that is called is made by a class of torch, of the runtime, or of this file."""
    made = made_by(info, path.partition(".")[0])
    return made is not None and _shows(info, made)


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
