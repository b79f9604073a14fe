"""Which statements nobody needs any more once a value is computed in another way."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from migrator.recognise.hiding import fill_of_hidden_future
from migrator.recognise.syntax import stored_names, walk_statements
from migrator.recognise.values import Flow, Store, Value, roots


def unneeded(flow: Flow, replaced: Value, kept: Iterable[Value], respelt: Iterable[Value] = ()) -> list[ast.stmt]:
    """Outermost statements that served `replaced` alone, if its new expression needs only the values `kept`.

    Values that are `respelt` no longer need what they were made of.
    Only plain assignments to names, and branches made of such, are ever given up; what a user left unused stays.
    """
    return _Sweep(flow, replaced, set(kept), set(respelt)).run()


_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef


_IN_PLACE = frozenset({"add", "div", "masked_fill", "mul", "sub"})
_RESULTS = _IN_PLACE | {"bmm", "einsum", "matmul", "softmax"}


class _Sweep:
    def __init__(self, flow: Flow, replaced: Value, kept: set[Value], respelt: set[Value]) -> None:
        self.flow, self.kept = flow, kept
        self.inside = written_in(flow, replaced) | respelt
        self.dead: set[ast.stmt] = set()
        self.changes = {s.statement: s.value for s in flow.stores if _changes_a_result(flow, s)}
        self.fixed = {value for value, _ in flow.returns} | {store.value for store in flow.stores}
        self.fixed -= {replaced, *self.changes.values()}
        self.served = _operands(replaced)
        self.statement = replaced.statement
        self.captured = _captured(flow.function)

    def run(self) -> list[ast.stmt]:
        statements = list(walk_statements(self.flow.function.body))
        checks = self.checks_of_sizes(statements)
        self.dead = set(checks)
        self.grow(statements)
        needed = {check for check, values in checks.items() if any(self.lives(value) for value in values)}
        if needed:
            self.dead = checks.keys() - needed
            self.grow(statements)
        nested = {id(inner) for s in self.dead for inner in walk_statements([s]) if inner is not s}
        return [statement for statement in statements if statement in self.dead and id(statement) not in nested]

    def checks_of_sizes(self, statements: list[ast.stmt]) -> dict[ast.stmt, list[Value]]:
        """`assert scores.size() == (b, t, t)`, with what it asks the size of: that cannot be asked of what is gone."""
        found: dict[ast.stmt, list[Value]] = {}
        for statement in statements:
            here = (
                [v for v in self.flow.values if v.statement is statement] if isinstance(statement, ast.Assert) else []
            )
            sized = (v.args[0] for v in here if v.op in ("size", "shape"))
            asked = [one for one in sized if one in self.served and all(root.op in _RESULTS for root in roots(one))]
            read = {operand for v in here if v.op not in ("size", "shape") for operand in v.operands()}
            if asked and not read & set(asked):
                found[statement] = asked
        return found

    def grow(self, statements: list[ast.stmt]) -> None:
        growing = True
        while growing:
            growing = False
            for statement in reversed(statements):
                if statement not in self.dead and self.dies(statement):
                    self.dead.add(statement)
                    growing = True

    def dies(self, statement: ast.stmt) -> bool:
        if statement is self.statement:
            return False
        if isinstance(statement, ast.If):
            inner = list(walk_statements([statement]))[1:]
            return all(s in self.dead or isinstance(s, ast.Pass) for s in inner) and any(s in self.dead for s in inner)
        if isinstance(statement, ast.Delete):
            return self.deletes_the_dead(statement)
        if statement in self.changes:
            return self.changes[statement] in self.served and not self.lives(self.changes[statement])
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            return False
        if any(isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom) for node in ast.walk(statement)):
            return False
        values = self.flow.assigned.get(statement, [])
        if not values or not all(_assigns_names(target) for target in _targets(statement)):
            return False
        if stored_names([statement]) & self.captured:
            return False
        return any(value in self.served for value in values) and not any(self.lives(value) for value in values)

    def deletes_the_dead(self, statement: ast.Delete) -> bool:
        held = self.flow.deleted.get(statement, [])
        if len(held) != len(statement.targets):
            return False
        others = {other: values for other, values in self.flow.deleted.items() if other is not statement}
        return all(value in self.served and not self.lives(value, deleted=others) for value in held)

    def lives(self, value: Value, depth: int = 20, deleted: dict[ast.stmt, list[Value]] | None = None) -> bool:
        if value in self.kept or value in self.fixed:
            return True
        # A name that is deleted has to be there.
        deleted = self.flow.deleted if deleted is None else deleted
        if any(value in values and statement not in self.dead for statement, values in deleted.items()):
            return True
        if depth == 0:
            return True
        return any(self.counts(user, depth) for user in value.users)

    def counts(self, user: Value, depth: int) -> bool:
        """Whether a use keeps its operand alive."""
        if user in self.inside:
            return False
        if user.op in ("phi", "undefined") and user.node is None:
            return self.lives(user, depth - 1)
        if user.op == "unpack":
            return self.lives(user, depth - 1) if user.statement not in self.dead else False
        return user.statement not in self.dead


def _changes_a_result(flow: Flow, store: Store) -> bool:
    """Whether a statement changes a tensor in place that this function made, and that has one name.

    `scores.masked_fill_(...)`, or `hide_(scores, ...)` of a function of the file that hides later keys.
    """
    value, call = store.value, store.value.node
    if store.kind != "effect" or not isinstance(call, ast.Call):
        return False
    name = call.func.value if isinstance(call.func, ast.Attribute) else call.args[0] if call.args else None
    known = value.op in _IN_PLACE and isinstance(call.func, ast.Attribute) and call.func.attr.endswith("_")
    known = known or (value.op == "call" and fill_of_hidden_future(flow.index, value) is not None)
    if not known or not isinstance(name, ast.Name):
        return False
    memory = roots(value.args[0])
    others = (held for other, held in flow.before[store.statement].items() if other != name.id)
    return all(root.op in _RESULTS for root in memory) and not any(memory & roots(held) for held in others)


def written_in(flow: Flow, value: Value) -> set[Value]:
    """The value and everything written inside its own expression."""
    if value.node is None:
        return {value}
    nodes = {id(node) for node in ast.walk(value.node)}
    return {v for v in flow.values if v.node is not None and id(v.node) in nodes}


def _captured(function: ast.AST) -> set[str]:
    """Names that nested functions may read, whenever they are called."""
    scopes = (node for node in ast.walk(function) if node is not function and isinstance(node, _SCOPES))
    return {node.id for scope in scopes for node in ast.walk(scope) if isinstance(node, ast.Name)}


def _operands(value: Value) -> set[Value]:
    seen: set[Value] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo.extend(one.operands())
    return seen


def _targets(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _assigns_names(target: ast.expr) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return all(_assigns_names(element) for element in target.elts)
    return isinstance(target, ast.Name)
