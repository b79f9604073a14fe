"""Masks by arithmetic: `scores * mask - 1e9 * (1 - mask)` with a mask of zeros and ones."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

from migrator.recognise.index import ClassInfo
from migrator.recognise.masks import constant
from migrator.recognise.syntax import first_parameter, walk_statements
from migrator.recognise.values import Value, strip

_KEEPS_ZEROS_AND_ONES = frozenset({"ones", "tril", "triu", "view", "reshape", "unsqueeze", "expand"})


@dataclass(frozen=True)
class Mixed:
    """`product` is `scores * mask`; where `mask` is 0, `fill` comes instead."""

    scores: Value
    mask: Value
    fill: Value
    product: Value


def mixed_with_a_number(value: Value, leads: Callable[[Value], bool]) -> Mixed | None:
    """The parts of `scores * mask - n * (1 - mask)`, or of the same with `+ -n`."""
    product, other = (strip(arg) for arg in value.args)
    if product.op != "mul" or other.op != "mul":
        return None
    number, rest = other.args if constant(other.args[0]) is not None else other.args[::-1]
    amount = constant(number)
    if amount is None or rest.op != "sub" or constant(rest.args[0]) != 1:
        return None
    scores, mask = product.args if leads(product.args[0]) else product.args[::-1]
    if not leads(scores) or leads(mask) or not _same(mask, rest.args[1]):
        return None
    fill = Value("const", data=amount if value.op == "add" else -amount)
    return Mixed(scores, mask, fill, product)


def _same(one: Value, other: Value) -> bool:
    """One value, or two times the same text of one expression."""
    if one is other:
        return True
    texts = [ast.unparse(value.node) for value in (one, other) if value.node is not None]
    return len(texts) == 2 and texts[0] == texts[1] and one.statement is other.statement


def is_zero_one(mask: Value, owner: ClassInfo | None) -> bool:
    """Whether a mask is a part of a buffer that `__init__` fills with zeros and ones."""
    while mask.op == "getitem":
        mask = mask.args[0]
    if mask.op != "attr" or owner is None or mask.data in owner.stores_outside_init | set(owner.attributes):
        return False
    made = buffer(owner, mask.data)
    return made is not None and _is_zero_one(made, owner)


def buffer(owner: ClassInfo, name: str) -> ast.expr | None:
    """The tensor that `__init__` registers as a buffer of this name, if it does so once."""
    init = owner.methods.get("__init__")
    found: list[ast.expr] = []
    for statement in walk_statements(init.body if init is not None else []):
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or len(call.args) < 2 or not isinstance(call.func, ast.Attribute):
            continue
        of_self = isinstance(call.func.value, ast.Name) and call.func.value.id == first_parameter(init)
        said = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
        if of_self and call.func.attr == "register_buffer" and said == name:
            found.append(call.args[1])
    return found[0] if len(found) == 1 else None


def _is_zero_one(node: ast.expr, owner: ClassInfo) -> bool:
    """`torch.tril(torch.ones(n, n)).view(1, 1, n, n)` and the like."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = owner.index.resolve(node.func) or ""
    if name.startswith("torch."):
        inner = node.args[0] if node.args and name != "torch.ones" else None
        known = name.removeprefix("torch.") in _KEEPS_ZEROS_AND_ONES and not node.keywords
        return known and (inner is None or _is_zero_one(inner, owner))
    return node.func.attr in _KEEPS_ZEROS_AND_ONES and _is_zero_one(node.func.value, owner)
