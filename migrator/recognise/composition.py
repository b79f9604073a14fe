"""Which class is built from which: attributes that hold other classes of the file, singly or stacked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.recognise.index import Assignment, ClassInfo, Definition, FileIndex
from migrator.recognise.syntax import once_assigned

_MEASURES = frozenset({"len", "print", "DepthScaledInit"})
_STACKS = {"torch.nn.Sequential": "sequential", "torch.nn.ModuleList": "list"}


@dataclass(frozen=True, eq=False)
class Component:
    """`self.attribute` of `owner` holds one or more instances of the class `name`, built by `call`.

    `value` is what it holds. `kind` is "single", "sequential" (called as one) or "list" (looped over). `depth` is the
    source of the number of instances, if the source says it. `attribute` is "a.b" for what an nn.ModuleDict `a` holds
    by the name b.
    """

    owner: ClassInfo
    attribute: str
    name: str
    call: ast.Call
    kind: str
    assignment: Assignment
    depth: str
    value: ast.expr


def components(info: ClassInfo) -> list[Component]:
    """The components of a class, in order; only attributes that `__init__` assigns once."""
    key = ("components", info.node)
    if key not in info.index.memo:
        info.index.memo[key] = list(_components(info))
    found: list[Component] = info.index.memo[key]
    return found


def copied(info: ClassInfo) -> Iterator[Component]:
    """Attributes that hold deep copies of one instance: by `clones(X(...), n)` or a comprehension of `deepcopy(x)`."""
    for attribute, assignments in info.attributes.items():
        value = assignments[0].value
        made = _original(info, value) if len(assignments) == 1 and isinstance(value, ast.Call) else None
        if made is not None and isinstance(made.func, ast.Name):
            yield Component(info, attribute, made.func.id, made, "list", assignments[0], "", value)


def _original(info: ClassInfo, value: ast.Call) -> ast.Call | None:
    """What the copies are made of."""
    listed = value.args[0] if value.args else None
    helper = info.index.functions.get(info.index.resolve(value.func) or "")
    if isinstance(listed, ast.ListComp | ast.GeneratorExp) and info.index.resolve(value.func) in _STACKS:
        copy = listed.elt if isinstance(listed.elt, ast.Call) and len(listed.elt.args) == 1 else None
        listed = copy.args[0] if copy is not None and info.index.resolve(copy.func) == "copy.deepcopy" else None
    elif helper is None or "deepcopy" not in helper.text:
        return None
    if isinstance(listed, ast.Name):
        listed = once_assigned(info.methods["__init__"]).get(listed.id)
    return listed if isinstance(listed, ast.Call) and _is_class(info, listed) else None


def users_of(index: FileIndex, name: str) -> list[Component]:
    """Components of other classes that hold instances of the class `name`."""
    return [c for info in index.modules.values() for c in components(info) if c.name == name]


def built_outside(index: FileIndex, name: str) -> bool:
    """Whether the file builds the class anywhere but as a component of another one."""
    inside = {id(component.call) for component in users_of(index, name)}
    return any(id(site.call) not in inside for site in index.calls.get(name, []))


def family(index: FileIndex, info: ClassInfo) -> list[Definition]:
    """The class and all that derive from it."""
    found, todo = [], [info.name]
    while todo:
        name = todo.pop()
        if name in index.classes and index.classes[name].definition not in found:
            found.append(index.classes[name].definition)
            todo += index.subclasses.get(name, [])
    return found


def runs(index: FileIndex, info: ClassInfo, attributes: set[str], known: set[int]) -> Iterator[str]:
    """Where parts of a class are run by anything but the nodes `self.attribute` whose ids are known."""
    kin = family(index, info)
    attributes = {attribute.rpartition(".")[2] for attribute in attributes}
    for definition in index.definitions:
        if any(attribute in definition.text for attribute in attributes):
            for node in _run_in(definition.tree, attributes):
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                if id(node) not in known and (not own or definition in kin):
                    yield f"line {definition.line(node)} runs {ast.unparse(node)}"


def _run_in(tree: ast.AST, attributes: set[str]) -> Iterator[ast.Attribute]:
    """`a.b` wherever it is called, looped over, indexed or handed on; not where something of it is read."""
    read = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr != "forward"}
    measured = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MEASURES
        for argument in node.args
    }
    measured |= {id(loop.iter) for loop in ast.walk(tree) if isinstance(loop, ast.For) and _only_trims(loop)}
    for node in ast.walk(tree):
        loaded = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in read | measured
        if loaded and isinstance(node, ast.Attribute) and node.attr in attributes:
            yield node


def _only_trims(loop: ast.For) -> bool:
    """Whether a loop over blocks does nothing to them but `block.a.mask = block.a.mask[:, :n]` and plain numbers."""
    if not isinstance(loop.target, ast.Name) or loop.orelse:
        return False
    allowed: set[int] = set()
    for node in ast.walk(loop):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Attribute):
            target, value = node.targets[0], node.value
            cut = isinstance(value, ast.Subscript) and any(isinstance(n, ast.Slice) for n in ast.walk(value.slice))
            same = isinstance(value, ast.Subscript) and ast.unparse(value.value) == ast.unparse(target)
            if (cut and same) or isinstance(value, ast.Constant):
                allowed |= {id(inner) for inner in ast.walk(node)}
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "isinstance")
        ):
            allowed |= {id(inner) for inner in ast.walk(node)}
    named = (node for statement in loop.body for node in ast.walk(statement) if isinstance(node, ast.Name))
    return all(id(node) in allowed for node in named if node.id == loop.target.id)


def contains(index: FileIndex, name: str, wanted: set[str], seen: frozenset[str] = frozenset()) -> bool:
    """Whether the class is one of `wanted`, or built from one at any depth."""
    if name in wanted:
        return True
    info = index.modules.get(name)
    if info is None or name in seen:
        return False
    return any(contains(index, c.name, wanted, seen | {name}) for c in components(info))


def mentioned(index: FileIndex, name: str) -> list[ClassInfo]:
    """The class and all classes of the file that it names, at any depth: what its instances may be made of."""
    found: list[ClassInfo] = []
    todo = [name]
    while todo:
        info = index.classes.get(todo.pop())
        if info is not None and info not in found:
            found.append(info)
            todo += [node.id for node in ast.walk(info.node) if isinstance(node, ast.Name) and node.id in index.classes]
    return found


def named_below(index: FileIndex, names: list[str]) -> list[Definition]:
    """The definitions of these names, of the names in them, and so on."""
    table = {definition.name: definition for definition in index.definitions if definition.name}
    found: list[Definition] = []
    todo = list(names)
    while todo:
        definition = table.get(todo.pop())
        if definition is not None and definition not in found:
            found.append(definition)
            todo += _names_in(definition)
    return found


def _names_in(definition: Definition) -> list[str]:
    if "names" not in definition.memo:
        definition.memo["names"] = sorted({node.id for node in definition.nodes if isinstance(node, ast.Name)})
    names: list[str] = definition.memo["names"]
    return names


def reached(index: FileIndex, name: str, wanted: set[str], seen: frozenset[str] = frozenset()) -> set[str]:
    """The classes of `wanted` that an instance of the class holds, itself included."""
    found = {name} & wanted
    info = index.modules.get(name)
    if info is not None and name not in seen:
        for component in components(info):
            found |= reached(index, component.name, wanted, seen | {name})
    return found


def _components(info: ClassInfo) -> Iterator[Component]:
    for attribute, assignments in info.attributes.items():
        if len(assignments) == 1:
            assignment = assignments[0]
            named = {f"{attribute}.{key}": value for key, value in info.items_of(attribute).items()}
            for name, value in (named or {attribute: assignment.value}).items():
                for call, kind, depth in _calls(info, value):
                    assert isinstance(call.func, ast.Name)
                    yield Component(info, name, call.func.id, call, kind, assignment, depth, value)


def _calls(info: ClassInfo, value: ast.expr) -> Iterator[tuple[ast.Call, str, str]]:
    if not isinstance(value, ast.Call):
        return
    if _is_class(info, value):
        yield value, "single", "1"
        return
    kind = _STACKS.get(info.index.resolve(value.func) or "")
    if kind is not None:
        for element in value.args:
            inner = element.value if isinstance(element, ast.Starred) else element
            for call, depth in _stacked(info, inner):
                yield call, kind, depth


def _stacked(info: ClassInfo, value: ast.expr) -> Iterator[tuple[ast.Call, str]]:
    if isinstance(value, ast.ListComp | ast.GeneratorExp) and isinstance(value.elt, ast.Call):
        if _is_class(info, value.elt):
            yield value.elt, _range(value)
    elif isinstance(value, ast.List | ast.Tuple):
        for element in value.elts:
            yield from _stacked(info, element)
    elif isinstance(value, ast.Call) and _is_class(info, value):
        yield value, "1"


def _range(value: ast.ListComp | ast.GeneratorExp) -> str:
    source = value.generators[0].iter
    if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.func.id == "range":
        return ast.unparse(source.args[0]) if len(source.args) == 1 else ""
    return ""


def _is_class(info: ClassInfo, call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in info.index.classes
