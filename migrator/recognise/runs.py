"""Whether a stack of blocks is run once, as a whole, in one place that can be seen."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.composition import Component
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.syntax import FunctionNode, walk_statements

_HARMLESS = frozenset({"apply", "eval", "train", "to", "parameters", "named_parameters", "modules", "requires_grad_"})
_ASKING = frozenset({"hasattr", "getattr", "isinstance"})
Obstacle = tuple[str, str, str]

# Meaning of the codes, for the codemods that hand them on.
RUN_REFUSALS = {
    "mixed-stack": "the blocks stand between other modules, or beside blocks of other classes",
    "one-of-several": "the blocks are run, or their output is given out, in more than one place",
    "repeated": "the same blocks are run several times",
    "run-unknown": "it cannot be told how the blocks are run",
}


def members(component: Component) -> list[ast.expr]:
    """The expressions that the modules of a stack come from, in order."""
    value = component.value
    if component.kind == "single" or not isinstance(value, ast.Call):
        return [component.call]
    return [member for argument in value.args for member in _flat(argument)]


def _flat(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Starred):
        yield from _flat(node.value)
    elif isinstance(node, ast.List | ast.Tuple):
        for element in node.elts:
            yield from _flat(element)
    else:
        yield node


def obstacle_of(component: Component, function: FunctionNode, statement: ast.stmt, runs: int) -> Obstacle | None:
    """What keeps a stack from being `runs` = 1 run, by `statement` of `function`, of blocks of one class."""
    if not all(_is_block(member, component.name) for member in members(component)):
        seen = f"`{component.attribute}` holds other modules besides the {component.name}s"
        return "mixed-stack", seen, "keep the blocks alone in one nn.Sequential or nn.ModuleList"
    return run_obstacle(component, function, statement, runs)


def run_obstacle(component: Component, function: FunctionNode, statement: ast.stmt, runs: int) -> Obstacle | None:
    """What keeps what `component` holds from being run once, by `statement` of `function`."""
    attribute = component.attribute
    if not runs:
        remedy = f"write `for block in self.{attribute}: x = block(x)`"
        return "run-unknown", f"it cannot be told how `{attribute}` is run", remedy
    if _in_a_loop(function, statement):
        return "repeated", f"`{attribute}` is run in a loop", "build as many blocks as are run"
    if runs > 1 or _reads(component) > 1 or _run_from_outside(component.owner.index, component):
        return "one-of-several", f"`{attribute}` is run in more than one place", "run it in one method, and call that"
    if any(isinstance(node, ast.Return) for node in ast.walk(statement)) and isinstance(statement, ast.For):
        return "one-of-several", f"the loop over `{attribute}` may return early", "leave the loop by `break`"
    return None


def _is_block(member: ast.expr, name: str) -> bool:
    call = member.elt if isinstance(member, ast.ListComp | ast.GeneratorExp) else member
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name


def _in_a_loop(function: FunctionNode, statement: ast.stmt) -> bool:
    loops = [s for s in walk_statements(function.body) if isinstance(s, ast.For | ast.While) and s is not statement]
    return any(inner is statement for loop in loops for inner in walk_statements(loop.body))


def _reads(component: Component) -> int:
    """How often the stack is read by methods of its owner and of the classes derived from it, but for harmless ends."""
    index, names = component.owner.index, [component.owner.name]
    for name in names:
        names.extend(index.subclasses.get(name, []))
    methods = [m for name in names for m in index.classes[name].methods.values() if m.name != "__init__"]
    return sum(_counted(method, component.attribute) for method in methods)


def _counted(method: FunctionNode, attribute: str) -> int:
    inside = {id(part) for node in ast.walk(method) for part in _harmless(node)}
    return sum(
        isinstance(node, ast.Attribute) and id(node) not in inside and _is_own(node, attribute)
        for node in ast.walk(method)
    )


def _harmless(node: ast.AST) -> list[ast.expr]:
    """Operands that a node reads without running them."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("len", "repr"):
        return node.args
    if isinstance(node, ast.For):
        return [node.iter] if _only_sets(node.body) and not node.orelse else []
    return [node.value] if isinstance(node, ast.Attribute) and node.attr in _HARMLESS else []


def _only_sets(body: list[ast.stmt]) -> bool:
    """Whether a loop's body does nothing but ask for attributes and set them."""
    calls = (node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call))
    asking = all(isinstance(call.func, ast.Name) and call.func.id in _ASKING for call in calls)
    return asking and all(_sets(statement) for statement in walk_statements(body))


def _sets(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in statement.targets)
    return isinstance(statement, ast.If | ast.Pass)


def _is_own(node: ast.Attribute, attribute: str) -> bool:
    """Whether a node is `self.attribute`."""
    return node.attr == attribute.rpartition(".")[2] and ast.unparse(node) == f"self.{attribute}"


def _run_from_outside(index: FileIndex, component: Component) -> bool:
    return any(_runs(definition, component.attribute) for definition in index.definitions)


def _runs(definition: Definition, attribute: str) -> bool:
    """Whether `anything.attribute` is called or looped over, where `anything` is not `self`."""
    if f".{attribute}" not in definition.text:
        return False
    nodes = ast.walk(definition.tree)
    used = [
        n.func if isinstance(n, ast.Call) else n.iter
        for n in nodes
        if isinstance(n, ast.Call | ast.For) and not _harmless(n)
    ]
    return any(
        isinstance(one, ast.Attribute) and not _is_own(one, attribute) and ast.unparse(one).endswith(f".{attribute}")
        for one in used
    )
