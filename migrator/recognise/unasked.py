"""Attention whose weights are looked at under a condition: what it is where nobody asks for them.

`if head_mask is not None: probs = probs * head_mask`, `return (y, probs) if need_weights else y`: where there is no
head mask and nobody needs the weights, that is plain attention.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrator.recognise.anatomy import Attention, Obstacle
from migrator.recognise.attention import in_flow
from migrator.recognise.conditions import Assumed, denied, holds, text_of
from migrator.recognise.dataflow import flow_of
from migrator.recognise.speaker import Unspeakable
from migrator.recognise.syntax import blocks_of, stored_names, walk_statements
from migrator.recognise.values import Flow, Value
from migrator.recognise.weights import is_sum_of

CODES = frozenset({"weights", "weights-used"})


@dataclass(frozen=True, eq=False)
class Unasked:
    """`attention` is what the function computes where `assumed` holds; `tests` ask about that, wherever they stand."""

    attention: Attention
    assumed: Assumed
    tests: tuple[ast.stmt, ...]

    @property
    def condition(self) -> str:
        return text_of(self.assumed)

    def can_be_asked_at(self, statement: ast.stmt) -> bool:
        """Whether the condition means the same at a statement as where the function itself asks."""
        flow = self.attention.flow
        asked = [node for text, _ in self.assumed for node in ast.walk(ast.parse(text))]
        words = {node.id for node in asked if isinstance(node, ast.Name)}
        stored = {store.name for store in flow.stores if store.kind == "attribute"}
        if any(text.removesuffix(" is None") in stored for text, _ in self.assumed):
            return False
        then = [flow.before.get(test) for test in self.tests]
        now = flow.before[statement]
        return all(names is None or all(names.get(word) is now.get(word) for word in words) for names in then)


def unasked(found: Obstacle) -> Unasked | None:
    """The attention behind an obstacle that only stands where somebody asks for the weights."""
    flow = found.flow
    softmaxes = {id(value.node): value for value in flow.of("softmax")}
    if found.code not in CODES or len(softmaxes) != 1:
        return None
    wishes = list(_wishes(flow, next(iter(softmaxes.values()))))
    assumed = frozenset(one for _, denial in wishes for one in denial)
    if not assumed or len({text for text, _ in assumed}) < len(assumed) or _under(flow, assumed) is None:
        return None
    for one in sorted(assumed):
        if _under(flow, assumed - {one}) is not None:
            assumed -= {one}
    attention = _under(flow, assumed)
    assert attention is not None
    tests = [statement for statement, test in _tests(flow) if holds(test, assumed) is not None]
    return Unasked(attention, assumed, tuple(tests)) if assumed else None


def _under(flow: Flow, assumed: Assumed) -> Attention | None:
    """The one attention of the function, if it is understood under these assumptions."""
    if not assumed:
        return None
    found = in_flow(flow_of(flow.index, flow.definition, flow.function, flow.owner, assumed))
    one = found[0] if len(found) == 1 else None
    return one if isinstance(one, Attention) and one.kind == "legacy" else None


def _wishes(flow: Flow, softmax: Value) -> Iterator[tuple[ast.stmt, list[tuple[str, bool]]]]:
    """Tests on whose one side the weights are read, and what has to be assumed so that they are not."""
    names = _names_of(flow, softmax)
    for statement, test in _tests(flow):
        sides = [_reads(side, names) for side in _sides(statement, test)]
        if sides[0] and not sides[1]:
            denial = denied(test)
        elif sides[1] and not sides[0]:
            denial = denied(ast.UnaryOp(ast.Not(), test))
        else:
            continue
        if denial is not None:
            yield statement, denial


def _tests(flow: Flow) -> Iterator[tuple[ast.stmt, ast.expr]]:
    """Every test of a branch, and the statement that it stands in."""
    for statement in walk_statements(flow.function.body):
        if isinstance(statement, ast.If):
            yield statement, statement.test
            continue
        for node in ast.walk(statement) if isinstance(statement, ast.Assign | ast.AugAssign | ast.Return) else ():
            if isinstance(node, ast.IfExp):
                yield statement, node.test


def _sides(statement: ast.stmt, test: ast.expr) -> tuple[list[ast.AST], list[ast.AST]]:
    if isinstance(statement, ast.If):
        return list(statement.body), list(statement.orelse)
    choice = next(n for n in ast.walk(statement) if isinstance(n, ast.IfExp) and n.test is test)
    return [choice.body], [choice.orelse]


def _reads(nodes: list[ast.AST], names: set[str]) -> bool:
    loads = (n for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return any(load.id in names for load in loads)


def _names_of(flow: Flow, softmax: Value) -> set[str]:
    """Names that hold the weights, or what is made of them before they meet the values."""
    weights: set[Value] = set()
    todo = [softmax]
    while todo:
        value = todo.pop()
        if value not in weights:
            weights.add(value)
            todo += [user for user in value.users if not is_sum_of(user, value) and user.op != "tuple"]
    held = (s for s, values in flow.assigned.items() if any(value in weights for value in values))
    return stored_names(list(held))


# --- where the call goes ---------------------------------------------------------------------------------------------


def served_alone(behind: Unasked, statement: ast.stmt, dead: list[ast.stmt]) -> list[ast.stmt]:
    """From the first statement that only serves the weighted sum to the one that it stands in."""
    block = _block_of(behind.attention.flow, statement)
    start = min([block.index(s) for s in dead if s in block], default=block.index(statement))
    served = block[start : block.index(statement) + 1]
    if any(s not in served for s in dead) or not behind.can_be_asked_at(served[0]):
        raise Unspeakable("the condition means something else where it would be asked")
    return served


def needed_either_way(
    behind: Unasked, served: list[ast.stmt], dead: list[ast.stmt], respelt: Iterable[Value]
) -> list[ast.stmt]:
    """Statements between the scores and the weighted sum that are needed either way, such as a mask of their sizes.

    Args:
        respelt: sizes of the scores that can be said without them.
    """
    said = [value.node for value in respelt if value.node is not None]
    hoisted: list[ast.stmt] = []
    for place, statement in enumerate(served[:-1]):
        if statement in dead or _does_nothing(statement, behind.assumed):
            continue
        passed = [other for other in served[:place] if other not in hoisted]
        changed = stored_names([statement]) & _names_in(passed)
        needed = _read_but_for(statement, said) & stored_names(passed)
        if changed or needed or not _is_plain(behind.attention.flow, statement):
            raise Unspeakable("something else is computed between the scores and the weighted sum")
        hoisted.append(statement)
    return hoisted


def _does_nothing(statement: ast.stmt, assumed: Assumed) -> bool:
    """Whether a statement is passed over, or sets a name to None, where the assumptions hold."""
    if isinstance(statement, ast.If):
        return not statement.orelse and holds(statement.test, assumed) is False
    choice = statement.value if isinstance(statement, ast.Assign) else None
    if not isinstance(choice, ast.IfExp):
        return False
    answer = holds(choice.test, assumed)
    taken = choice.body if answer else choice.orelse
    return answer is not None and isinstance(taken, ast.Constant) and taken.value is None


def _read_but_for(statement: ast.stmt, said: list[ast.expr]) -> set[str]:
    """Names that a statement reads, but for those inside of expressions that are said in another way."""
    inside = {id(node) for expression in said for node in ast.walk(expression)}
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return {node.id for node in names if id(node) not in inside}


def _is_plain(flow: Flow, statement: ast.stmt) -> bool:
    """Whether it only takes sizes, slices and attributes, so that it may as well run earlier."""
    plain = {"attr", "const", "getattr", "getitem", "param", "shape", "size", "slice", "sub", "tuple", "unpack"}
    values = (value for value in flow.values if value.statement is statement)
    return isinstance(statement, ast.Assign) and all(value.op in plain for value in values)


def _names_in(statements: list[ast.stmt]) -> set[str]:
    return {node.id for s in statements for node in ast.walk(s) if isinstance(node, ast.Name)}


def left_unset(found: Attention, served: list[ast.stmt], hoisted: list[ast.stmt]) -> tuple[list[str], list[str]]:
    """Names that are set on the other path alone and read in the last statement itself, and those read afterwards."""
    last, flow = served[-1], found.flow
    made = stored_names([s for s in served[:-1] if s not in hoisted]) - set(flow.before[served[0]])
    now = _read_but_for(last, [found.node]) & made
    names = (node for node in ast.walk(flow.function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    later = {node.id for node in names if node.lineno > (last.end_lineno or 0)} & made - stored_names([last])
    return sorted(now), sorted(later - now)


def _block_of(flow: Flow, statement: ast.stmt) -> list[ast.stmt]:
    """The statements among which one stands."""
    blocks = [flow.function.body, *(body for s in walk_statements(flow.function.body) for body in blocks_of(s))]
    return next(block for block in blocks if statement in block)
