"""Tensors that a module keeps from `__init__` on, and whether anything in the file may change one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.composition import family
from migrator.recognise.dataflow import flow_of, method_flow
from migrator.recognise.index import ClassInfo, Definition, FileIndex
from migrator.recognise.mutation import changed_in_place
from migrator.recognise.values import Value, roots

_REGISTERS = frozenset({"register_buffer", "register_parameter"})
_SETS_BY_NAME = frozenset({"setattr", "delattr", *_REGISTERS})
_REACHES_ALL = frozenset({"buffers", "named_buffers", "_buffers"})


def kept_tensors(info: ClassInfo) -> dict[str, Value]:
    """Attribute -> what `__init__` computes for it, for buffers and plain attributes that are set exactly once."""
    flow = method_flow(info, "__init__")
    found: dict[str, list[Value]] = {}
    if flow is None:
        return {}
    for value in flow.of("module"):
        tensor = value.argument(1, "tensor")
        if value.data == "register_buffer" and tensor is not None and value.args:
            found.setdefault(str(value.args[0].data), []).append(tensor)
    for store in flow.stores:
        base, _, name = store.name.rpartition(".")
        if store.kind == "attribute" and base == flow.self_name:
            found.setdefault(name, []).append(store.value)
    changed = {root for target, _ in changed_in_place(flow) for root in roots(target)}
    return {name: v[0] for name, v in found.items() if len(v) == 1 and not changed & roots(v[0])}


def is_saved(info: ClassInfo, name: str) -> bool:
    """Whether a kept tensor is part of the state dict."""
    flow = method_flow(info, "__init__")
    calls = [value for value in (flow.of("module") if flow is not None else []) if value.data == "register_buffer"]
    lasting = (call for call in calls if not (p := call.argument(2, "persistent")) or not p.is_const(False))
    return any(call.args and call.args[0].is_const(name) for call in lasting)


def writer(index: FileIndex, info: ClassInfo, name: str) -> str:
    """Where the file may give a kept tensor other contents, or ""; a cut to fewer rows and columns is none."""
    kin = [*family(index, info), *(above.definition for above in info.lineage)]
    names = {definition.name for definition in kin}
    for definition in index.definitions:
        for node, base in _writes(definition, name):
            own = isinstance(base, ast.Name) and base.id == "self"
            concerns = definition in kin if own else not _is_guarded(index, definition, node, base, names)
            if concerns and not (definition is info.definition and _is_first(info, node)):
                return f"line {definition.line(node)}: `{ast.unparse(node)}`"
    aliased = next((text for definition in kin for text in _through_names(index, definition, name)), "")
    return aliased or _wholesale(index)


def _writes(definition: Definition, name: str) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(node, owner of the tensor) for everything that may write to `owner.name`."""
    if name not in definition.text:
        return
    narrowed = {id(target) for node in ast.walk(definition.tree) for target in _narrowed(node)}
    for node in ast.walk(definition.tree):
        target: ast.Attribute | None = None
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = _reached(node, name) if id(node) not in narrowed else None
        elif isinstance(node, ast.Call):
            named = _named(node, name)
            if named is not None:
                yield node, named
            target = next((t for one in _changed_by(node) if (t := _reached(one, name)) is not None), None)
        if target is not None and isinstance(node, ast.expr):
            yield node, target.value


def _reached(node: ast.expr, name: str) -> ast.Attribute | None:
    """`a.name` inside of `a.name`, `a.name.data`, `a.name[0]`, `a.name.view(-1)`."""
    while True:
        if isinstance(node, ast.Attribute) and node.attr == name:
            return node
        if isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None


def _changed_by(call: ast.Call) -> list[ast.expr]:
    """What a call may change in place: the receiver of `x.fill_()`, what `init.zeros_(x)` is given, and `out=`."""
    callee = _callee(call)
    outs = [keyword.value for keyword in call.keywords if keyword.arg == "out"]
    if not callee.endswith("_") or callee.endswith("__"):
        return outs
    return [*outs, *([call.func.value] if isinstance(call.func, ast.Attribute) else []), *call.args]


def _named(call: ast.Call, name: str) -> ast.expr | None:
    """The owner in `setattr(owner, "name", ...)` and `owner.register_buffer("name", ...)`."""
    callee = _callee(call)
    if callee not in _SETS_BY_NAME or not any(isinstance(a, ast.Constant) and a.value == name for a in call.args):
        return None
    return call.func.value if isinstance(call.func, ast.Attribute) else call.args[0]


def _callee(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else str(getattr(call.func, "id", ""))


def _narrowed(node: ast.AST) -> list[ast.expr]:
    """The target of `x.mask = x.mask[:, :, :n, :n]`, which leaves a smaller triangle."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.value, ast.Subscript):
        return []
    index = node.value.slice
    items = index.elts if isinstance(index, ast.Tuple) else []
    same = ast.unparse(node.targets[0]) == ast.unparse(node.value.value)
    slices = [item for item in items if isinstance(item, ast.Slice) and item.lower is item.step is None]
    ends = [ast.unparse(item.upper) if item.upper is not None else "" for item in slices]
    square = len(ends) == len(items) >= 2 and ends[-1] == ends[-2] and not any(ends[:-2])
    return node.targets if same and square else []


def _is_first(info: ClassInfo, node: ast.expr) -> bool:
    """Whether a write is the one of `__init__` that makes the tensor."""
    init = info.methods.get("__init__")
    makes = isinstance(node, ast.Attribute) or (isinstance(node, ast.Call) and _callee(node) in _REGISTERS)
    return makes and init is not None and any(inner is node for inner in ast.walk(init))


def _is_guarded(index: FileIndex, definition: Definition, node: ast.expr, owner: ast.expr, names: set[str]) -> bool:
    """Whether `isinstance(owner, ...)` around a write says that the owner is none of the classes `names`."""
    wanted = ast.unparse(owner)
    for branch in ast.walk(definition.tree):
        if isinstance(branch, ast.If) and any(inner is node for part in branch.body for inner in ast.walk(part)):
            tests = branch.test.values if isinstance(branch.test, ast.BoolOp) else [branch.test]
            conjoined = not isinstance(branch.test, ast.BoolOp) or isinstance(branch.test.op, ast.And)
            for test in tests if conjoined else []:
                kinds = _isinstance_of(index, test, wanted)
                if kinds and not kinds & {*names, "torch.nn.Module", ""}:
                    return True
    return False


def _isinstance_of(index: FileIndex, test: ast.expr, wanted: str) -> set[str]:
    """The classes of `isinstance(wanted, classes)`."""
    if not isinstance(test, ast.Call) or getattr(test.func, "id", "") != "isinstance" or len(test.args) != 2:
        return set()
    kinds = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
    return {index.resolve(kind) or "" for kind in kinds} if ast.unparse(test.args[0]) == wanted else set()


def _through_names(index: FileIndex, definition: Definition, name: str) -> Iterator[str]:
    """`mask = self.mask; mask[0] = 1` changes the tensor for good."""
    info = index.classes.get(definition.name)
    for method in info.methods.values() if info is not None and info.definition is definition else ():
        if name in definition.source(method):
            for target, statement in changed_in_place(flow_of(index, definition, method, info)):
                if any(root.op == "attr" and root.data == name for root in roots(target)):
                    yield f"line {definition.line(statement)}, through another name"


def _wholesale(index: FileIndex) -> str:
    """Code that goes over all buffers, whatever their names."""
    for definition in index.definitions:
        if "buffers" in definition.text:
            for node in ast.walk(definition.tree):
                if isinstance(node, ast.Attribute) and node.attr in _REACHES_ALL:
                    return f"line {definition.line(node)} goes over all buffers"
    return ""
