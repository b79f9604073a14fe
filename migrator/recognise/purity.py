"""Which expressions may be evaluated at another place, and how often."""

from __future__ import annotations

import ast
from collections.abc import Collection

from migrator.recognise.liveness import written_in
from migrator.recognise.syntax import walk_statements
from migrator.recognise.values import Flow, Value

_UNKNOWN = frozenset({"dropout", "call_local", "self_call", "opaque"})
_COSTLY = frozenset({"module", "matmul", "bmm", "einsum", "softmax", "call"})
_RANDOM = ("rand", "drop", "normal", "bernoulli", "multinomial", "gumbel")


def may_move(flow: Flow, value: Value, to: ast.stmt, dead: Collection[ast.stmt]) -> bool:
    """Whether the expression of `value` can as well stand in the statement `to`, once the statements `dead` are gone.

    What costs something must not be computed twice; what may have an effect, or draw random numbers, must not
    change places with anything else that does.
    """
    assert value.statement is not None
    written = written_in(flow, value)
    unknown = any(_is_unknown(one) for one in written)
    if not unknown and not any(one.op in _COSTLY for one in written):
        return True
    gone = {id(inner) for statement in dead for inner in walk_statements([statement])}
    if id(value.statement) not in gone:
        return False
    return not unknown or not any(_acts(statement) for statement in _between(flow, value.statement, to, gone))


def _is_unknown(value: Value) -> bool:
    if value.op == "module":
        return not value.keeps_rank
    if value.op == "call":
        name = str(value.data)
        return not name.startswith(("torch.", "math.")) or any(word in name for word in _RANDOM)
    return value.op in _UNKNOWN or (value.op == "method" and str(value.data).endswith("_"))


def _between(flow: Flow, first: ast.stmt, last: ast.stmt, gone: set[int]) -> list[ast.stmt]:
    order = list(walk_statements(flow.function.body))
    inside = order[order.index(first) : order.index(last)]
    return [statement for statement in inside if id(statement) not in gone]


def _acts(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))
