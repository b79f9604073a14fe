"""The weights that write to the residual stream, and who sets their initial values."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.blocks import Block, Sublayer, linears
from migrator.recognise.composition import components
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.lambdas import lambda_flow
from migrator.recognise.noise import behind_noise
from migrator.recognise.stacks import Stack
from migrator.recognise.values import Flow, Value, strip


def residual_outputs(index: FileIndex, block: Block) -> tuple[str, ...] | None:
    """Paths below a block of the weights whose products are added to the residual; None if one cannot be told."""
    paths = [_of_sublayer(index, block, sublayer) for sublayer in block.sublayers]
    known = tuple(path for path in paths if path is not None)
    return known if len(known) == len(paths) else None


def _of_sublayer(index: FileIndex, block: Block, sublayer: Sublayer) -> str | None:
    return _last_weight(index, block.info, sublayer.branch)


def _last_weight(index: FileIndex, info: ClassInfo, value: Value, depth: int = 6) -> str | None:
    value = behind_noise(info, value)
    while value.op in ("unpack", "getitem") and value.args:
        value = behind_noise(info, value.args[0])
    if depth == 0:
        return None
    if value.op == "matmul" and strip(value.args[1]).op == "attr":
        name: str = strip(value.args[1]).data
        return name if _is_parameter(info, name) else None
    if value.op != "module":
        return None
    if value.data in linears(info):
        return f"{value.data}.weight"
    kept = lambda_flow(info, str(value.data))
    if kept is not None:
        return _last_weight(index, info, _returned(kept), depth - 1)
    inside = _inside(index, info, value.data, depth)
    return f"{value.data}.{inside}" if inside is not None else None


def _inside(index: FileIndex, info: ClassInfo, attribute: str, depth: int) -> str | None:
    """The last weight inside a submodule."""
    held = next((c for c in components(info) if c.attribute == attribute and c.kind == "single"), None)
    if held is not None:
        inner = index.modules.get(held.name)
        flow = method_flow(inner) if inner is not None else None
        if inner is None or flow is None or len(flow.returns) != 1:
            return None
        return _last_weight(index, inner, _returned(flow), depth - 1)
    value = info.attribute(attribute)
    if not isinstance(value, ast.Call):
        return None
    name = index.resolve(value.func)
    if name == "runtime.SwiGLU":
        return "down.weight"
    if name == "torch.nn.MultiheadAttention":
        return "out_proj.weight"
    if name == "torch.nn.Sequential":
        return last_of_sequential(index, value)
    return None


def last_of_sequential(index: FileIndex, value: ast.Call) -> str | None:
    """The path of the weight that a Sequential ends with, but for dropout behind it."""
    for position in range(len(value.args) - 1, -1, -1):
        item = value.args[position]
        name = index.resolve(item.func) if isinstance(item, ast.Call) else None
        if name == "torch.nn.Linear":
            return f"{position}.weight"
        if name == "runtime.SwiGLU":
            return f"{position}.down.weight"
        if name not in ("torch.nn.Dropout", "torch.nn.Identity"):
            return None
    return None


def _returned(flow: Flow) -> Value:
    value = flow.returns[0][0]
    return value.args[0] if value.op == "tuple" and value.args else value


def _is_parameter(info: ClassInfo, name: str) -> bool:
    return info.attribute(name) is not None


def scaled_by(info: ClassInfo, attribute: str) -> str:
    """The attribute that scales the initial values of `attribute`, if there is one."""
    for name in info.attributes:
        value = info.attribute(name)
        if not isinstance(value, ast.Call) or info.index.resolve(value.func) != "runtime.DepthScaledInit":
            continue
        if value.args and ast.unparse(value.args[0]) == f"self.{attribute}":
            return f"self.{name}"
    return ""


_INITIALISERS = ("apply", "init_weights", "_init_weights", "post_init", "reset_parameters", "_reset_parameters")


def own_initialisation(info: ClassInfo) -> tuple[str, str]:
    """(class, what in its `__init__` sets initial values) of the class or of one that holds it, or ("", "")."""
    todo, seen = [info], set[str]()
    while todo:
        one = todo.pop(0)
        how = _initialisation(one) if one.name not in seen else ""
        if how:
            return one.name, how
        seen.add(one.name)
        todo += [
            holder for holder in info.index.classes.values() if any(c.name == one.name for c in components(holder))
        ]
    return "", ""


def _initialisation(info: ClassInfo) -> str:
    """What sets initial values of the whole model: `.apply(...)`, a walk over parameters or modules."""
    init = info.methods.get("__init__")
    for node in ast.walk(init) if init is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _INITIALISERS:
            return f"self.{node.func.attr}(...)"
    for node in ast.walk(init) if init is not None else ():
        if isinstance(node, ast.For) and any(_changes_values(statement) for statement in node.body):
            for walk in ("named_parameters", "parameters", "named_modules", "modules"):
                if f".{walk}()" in ast.unparse(node.iter):
                    return f"a loop over {walk}()"
    return ""


def _changes_values(statement: ast.stmt) -> bool:
    """Whether it calls anything that ends in `_`, as whatever changes a tensor in place does, or stores to `.data`."""
    calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
    names = [func.attr if isinstance(func, ast.Attribute) else ast.unparse(func) for func in calls]
    stored = [node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
    return any(name.endswith("_") and name != "requires_grad_" or "init" in name for name in names) or "data" in stored


def embeddings_into(index: FileIndex, stack: Stack) -> Iterator[tuple[str, ast.stmt, str]]:
    """(attribute, its assignment, the statement that sets std 0.02) for embeddings that flow into the stack."""
    owner = stack.owner
    for name in owner.attributes:
        value = owner.attribute(name)
        if not isinstance(value, ast.Call) or index.resolve(value.func) != "torch.nn.Embedding":
            continue
        if any(k.arg in ("padding_idx", "_weight") for k in value.keywords) or len(value.args) > 2:
            continue
        if _flows_into(name, stack.entry) and not _initialised(owner, name):
            nn = ast.unparse(value.func).rpartition(".")[0]
            normal = f"{nn}.init.normal_" if nn else "torch.nn.init.normal_"
            yield name, owner.attributes[name][0].statement, f"{normal}(self.{name}.weight, std=0.02)"


def _initialised(owner: ClassInfo, attribute: str) -> bool:
    """Whether `__init__` hands `self.attribute.weight` to some function, or calls a method of it."""
    calls = [node for node in ast.walk(owner.methods["__init__"]) if isinstance(node, ast.Call)]
    parts = [part for call in calls for part in [call.func, *call.args, *(k.value for k in call.keywords)]]
    return any(f"self.{attribute}.weight" in ast.unparse(part) for part in parts)


def replaced_output(index: FileIndex, stack: Stack, outputs: tuple[str, ...]) -> str:
    """The target of an assignment that puts another tensor or module into the place of a residual output."""
    suffixes = {path[at:] for path in outputs for at in range(len(path)) if at == 0 or path[at - 1] == "."}
    suffixes |= {suffix.rpartition(".weight")[0] for suffix in suffixes} - {""}
    last = {suffix.rpartition(".")[2] for suffix in suffixes}
    for definition in index.definitions:
        for node in definition.nodes if "." in definition.text else ():
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Attribute) and target.attr in last:
                    text = ast.unparse(target)
                    owner, _, path = text.partition(".")
                    if _replaces(owner, path, suffixes):
                        return text
    return ""


def _replaces(owner: str, path: str, suffixes: set[str]) -> bool:
    """`block.ff.weight`, `self.blocks[0].ff` or `self.ff.weight`, but not `self.ff`, which builds it."""
    if owner == "self" and "." not in path:
        return False
    return any(path == suffix or path.endswith(f".{suffix}") for suffix in suffixes - {"weight"})


def _flows_into(attribute: str, entry: Value) -> bool:
    seen: set[Value] = set()
    todo = [entry]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.op == "module" and value.data == attribute:
            return True
        todo.extend(value.operands())
    return False
