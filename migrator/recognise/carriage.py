"""What has to hold, and what has to go, when additive positions leave a group of consumers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.codemod import AnyEdit, Remove, Replace, Swap, Withdraw
from migrator.recognise.composition import users_of
from migrator.recognise.consumers import (
    RETURNED,
    Consumer,
    PositionGroup,
    base_number,
    consumers,
    self_attention,
)
from migrator.recognise.coverage import handed_in, other_reader, strange_attention, uncovered
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.learned import LearnedTable, Lookup
from migrator.recognise.spelling import parenthesised
from migrator.recognise.values import Value

Obstacle = tuple[str, str, str]
_SIMPLE = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr


@dataclass(frozen=True)
class Departure:
    """A statement that goes (`replacement` None) or an expression that is replaced by its argument."""

    definition: Definition
    node: ast.AST
    replacement: str | None
    call: ast.expr | None  # the call of the carrier, where there is one
    argument: str = ""  # what the call gives while the positions are off
    edits: bool = True

    def edit(self) -> AnyEdit:
        """What happens to the text."""
        if isinstance(self.node, ast.keyword):
            assert isinstance(self.call, ast.Call) and self.node.arg is not None
            return Withdraw(self.definition, self.call, self.node.arg)
        if self.replacement is None:
            assert isinstance(self.node, ast.stmt)
            return Remove(self.definition, self.node)
        return Replace(self.definition, self.node, self.replacement)

    @property
    def off(self) -> Swap | None:
        """How the text before is switched off here."""
        if self.call is None or isinstance(self.node, ast.keyword):
            return None
        return Swap.of(self.definition, self.call, self.argument)


def keepers(index: FileIndex) -> Iterator[tuple[Consumer, Obstacle | None]]:
    """Consumers that have positions and no attention that could carry them, and what makes that doubtful."""
    for consumer in consumers(index):
        if not consumer.stacks and consumer.calls and consumer.table is None:
            yield consumer, _doubt(index, consumer)


def _doubt(index: FileIndex, consumer: Consumer) -> Obstacle | None:
    """Why the consumer, which attends by nothing that is known, may attend after all."""
    name = consumer.info.name
    strange = strange_attention(index, [name], set())
    if strange is not None:
        return *strange, "keep the positions, or see the refusal of `attention`"
    given = handed_in(index, consumer.info)
    if given:
        return "foreign-attention", f"whether {name} attends cannot be told: {given}", "keep the positions"
    holders = [component.owner for component in users_of(index, name)]
    if consumer.elsewhere == RETURNED and any(strange_attention(index, [h.name], set()) for h in holders):
        seen = f"{name} does more with its input than to add positions"
        return "carrier", seen, "let it return the plain sum, and do the rest where it is used"
    return None


def group_obstacle(index: FileIndex, group: PositionGroup) -> Obstacle | None:
    """The first reason why the positions cannot leave: (code, what was seen, remedy)."""
    for consumer in group.consumers:
        obstacle = _of_consumer(index, consumer)
        if obstacle is not None:
            return obstacle
    held = [component.name for consumer in group.consumers for component in consumer.stacks]
    strange = strange_attention(index, held, set(group.attentions))
    if strange is not None:
        return *strange, "see the refusal of `attention`, or keep the positions"
    missing = uncovered(index, group)
    if missing:
        return "uncovered", missing, "use a separate attention class there, or keep the positions"
    return _attentions(group)


def _of_consumer(index: FileIndex, consumer: Consumer) -> Obstacle | None:
    where = f"{consumer.info.name}.{consumer.attribute}"
    if consumer.elsewhere:
        seen = f"the positions of {where} do not go to attention alone: {consumer.elsewhere}"
        remedy = "give the other part an encoding of its own; a residual sum belongs into the class of its sublayer"
        return "mixed-consumers", seen, remedy
    reader = other_reader(index, consumer)
    if reader:
        use = "those uses" if "lines" in reader else "that use"
        return "positions-read", f"{where} is read by {reader}", f"remove {use}, or keep the positions"
    for flow, value in consumer.calls:
        if consumer.table is not None:
            assert value.node is not None
            if _is_conditional(flow.function, value.node) or not isinstance(value.statement, _SIMPLE):
                return "conditional", f"{where} is added under a condition", "split the two cases into two classes"
            continue
        assert isinstance(value.node, ast.Call)
        if len(value.node.args) + len(value.node.keywords) != 1:
            seen = f"`{ast.unparse(value.node)}` gives the encoding more than its input"
            return "offset", seen, "keep the positions, or number them inside the attention"
        if _is_conditional(flow.function, value.node):
            return "conditional", f"{where} is added under a condition", "split the two cases into two classes"
    init = consumer.info.methods["__init__"]
    if _is_conditional(init, consumer.assignment.value):
        return "conditional", f"{where} is built under a condition", "split the two cases into two classes"
    if consumer.dropout and consumer.replacement is None:
        seen = f"the rate of the dropout in {where} is not said where it is built"
        return "carrier", seen, "hand the rate over as a number or a name"
    if consumer.table is not None and consumer.table.holder is not None:
        return _of_item(consumer, consumer.table)
    if not _plain(consumer.assignment.statement):
        return "layout", f"{where} is assigned together with something else", "assign it in a statement of its own"
    return None


def _of_item(consumer: Consumer, table: LearnedTable) -> Obstacle | None:
    """An item of a ModuleDict stands in a line, or between commas, without a comment of its own."""
    assert table.holder is not None
    word = next(word for word in table.holder.keywords if word.arg == table.item)
    lines = consumer.info.definition.text.splitlines()
    first = consumer.info.definition.line_in_text(word) - 1
    if any(
        "#" in line for line in lines[max(first - 1, 0) : first + (word.end_lineno or word.lineno) - word.lineno + 1]
    ):
        seen = f"a comment stands beside {consumer.info.name}.{consumer.attribute}"
        return "layout", seen, "put it above the whole statement"
    return None


def _plain(statement: ast.stmt) -> bool:
    """`self.name = value` and nothing else."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return len(targets) == 1 and isinstance(targets[0], ast.Attribute)


def _is_conditional(function: ast.AST, node: ast.AST) -> bool:
    """Whether a node of the function is reached only if something else holds."""
    return any(
        isinstance(outer, ast.If | ast.IfExp | ast.BoolOp | ast.Try | ast.While | ast.Match)
        and any(inner is node for inner in ast.walk(outer))
        for outer in ast.walk(function)
    )


def departures(group: PositionGroup) -> Iterator[Departure]:
    """All that goes: the attribute and each call of it."""
    for consumer in group.consumers:
        definition = consumer.info.definition
        table = consumer.table
        if table is not None and table.holder is not None:
            keyword = next(word for word in table.holder.keywords if word.arg == table.item)
            yield Departure(definition, keyword, None, table.holder)
        elif consumer.replacement is not None:  # the calls stay, and only drop
            yield Departure(definition, consumer.assignment.value, consumer.replacement, None)
        else:
            yield Departure(definition, consumer.assignment.statement, None, None)
        for lookup in table.lookups if table is not None else ():
            yield from _of_lookup(definition, lookup)
        for one in table.upkeep if table is not None else ():
            kept = one.kept
            yield Departure(definition, one.node, None if kept is None else definition.source(kept), None)
        for _, value in consumer.calls if table is None else ():
            yield _of_call(definition, value) if consumer.replacement is None else _dropping(consumer, value)


def _of_lookup(definition: Definition, lookup: Lookup) -> Iterator[Departure]:
    """The sum becomes its other side, and what made the rows goes."""
    node, statement, kept = lookup.total.node, lookup.total.statement, lookup.tokens.node
    assert isinstance(node, ast.BinOp) and statement is not None
    side = node.left if kept is node.left or lookup.total.args[0] is lookup.tokens else node.right
    tokens = definition.source(side)
    replacement = parenthesised(tokens) if _binds(statement, node) else tokens
    yield Departure(definition, node, replacement, node, replacement)
    for made in lookup.unneeded:
        yield Departure(definition, made, None, None)


def said_of(group: PositionGroup) -> str:
    """What the positions are that leave."""
    tables = [one for one in group.consumers if one.table is not None]
    learned = [f"{one.info.name}.{one.attribute}" for one in tables if one.table and not one.table.is_sinusoid]
    frozen = [f"{one.info.name}.{one.attribute}" for one in tables if one.table and one.table.is_sinusoid]
    words = ["additive sinusoid"] if len(tables) < len(group.consumers) else []
    words += [f"additive sinusoid ({', '.join(frozen)} leaves the state dict)"] if frozen else []
    words += [f"learned positions ({', '.join(learned)} leaves the state dict)"] if learned else []
    return " and ".join(words)


def _dropping(consumer: Consumer, value: Value) -> Departure:
    node = value.node
    assert isinstance(node, ast.Call)
    source = consumer.info.definition.source
    argument = source(node.args[0] if node.args else node.keywords[0].value)
    dropped = f"{source(node.func)}.{consumer.dropout}({argument})"
    return Departure(consumer.info.definition, node, None, node, dropped, edits=False)


def _of_call(definition: Definition, value: Value) -> Departure:
    node, statement = value.node, value.statement
    assert isinstance(node, ast.Call) and statement is not None
    argument = definition.source(node.args[0] if node.args else node.keywords[0].value)
    targets = [ast.unparse(target) for target in statement.targets] if isinstance(statement, ast.Assign) else []
    if targets == [argument] and getattr(statement, "value", None) is node:
        return Departure(definition, statement, None, node, argument)
    replacement = parenthesised(argument) if _binds(statement, node) else argument
    return Departure(definition, node, replacement, node, argument)


def _binds(statement: ast.stmt, node: ast.expr) -> bool:
    """Whether something in the statement takes hold of the node by an operator or a dot."""
    holders = ast.Attribute | ast.Subscript | ast.BinOp | ast.UnaryOp | ast.Compare | ast.Starred | ast.Await
    return any(
        child is node
        for outer in ast.walk(statement)
        if isinstance(outer, holders)
        for child in ast.iter_child_nodes(outer)
    )


def base_obstacle(index: FileIndex, group: PositionGroup) -> Obstacle | None:
    """Why there is no one base that the group's attentions could take over."""
    bases = {base_number(index, group, consumer) for consumer in group.consumers}
    if None in bases:
        return "bases", "the base of the sinusoid is not a number that the source says", "write it as a literal"
    if len(bases) > 1:
        return "bases", f"bases {sorted(b for b in bases if b is not None)} meet in one attention", "use one base"
    return None


def _attentions(group: PositionGroup) -> Obstacle | None:
    for name, held in group.attentions.items():
        for found in held:
            if found.kind == "legacy":
                return "not-fused", f"the attention of {name} is still spelled out", "see the refusal of `attention`"
            statement = found.output.statement
            if _is_conditional(statement or found.node, found.node) or not isinstance(statement, _SIMPLE):
                seen = f"the attention of {name} stands inside of a larger statement"
                return "layout", seen, "give its result a name"
            if not self_attention(found):
                seen = f"{name} makes its queries and its keys from different inputs, or in different ways"
                return "cross-attention", seen, "keep the positions, or use a class of its own for self-attention"
    return None
