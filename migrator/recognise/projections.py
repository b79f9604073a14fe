"""The linear products that queries, keys and values come from, and what keeps them from being one product."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrator.recognise.aliases import check_view
from migrator.recognise.anatomy import Attention, Stop, text_of
from migrator.recognise.attention import compiles_scripts
from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.operations import MATMULS
from migrator.recognise.shapes import einsum_of
from migrator.recognise.values import Value
from migrator.recognise.widths import parameter_shape

_CALLS = frozenset({"module", "call", "call_local", "self_call"})
_NORMS = frozenset({"torch.nn.LayerNorm", "torch.nn.RMSNorm", "torch.nn.functional.normalize"})
_CROSSED = _NORMS | {"runtime.RotaryEmbedding"}
_WEIGHTS = ("Linear", "Parameter", "Conv", "Embedding")
_FUSED = "runtime.FusedProjection"
_SIMPLE = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr
_CHOICES = ast.IfExp | ast.BoolOp | ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom


@dataclass(frozen=True, eq=False)
class Projection:
    """`value` is the product of `source` with the weight in `self.attribute`, which `weight` reads.

    kind: "linear" for a call of an nn.Linear, "heads" for an einsum with a weight (heads, head_dim, in_features).
    """

    kind: str
    value: Value
    source: Value
    attribute: str
    weight: ast.expr

    @property
    def node(self) -> ast.Call:
        assert isinstance(self.value.node, ast.Call)
        return self.value.node

    @property
    def statement(self) -> ast.stmt:
        assert self.value.statement is not None
        return self.value.statement


def products(found: Attention) -> list[Value]:
    """The products behind queries, keys and values, one each; the same one twice where one product makes both.

    Raises Stop("not-linear") where there is none, or more than one.
    """
    result = []
    for role, value in (("queries", found.q), ("keys", found.k), ("values", found.v)):
        behind = list(dict.fromkeys(_behind(found, value)))
        if len(behind) != 1:
            said = " and ".join(text_of(one) for one in behind)
            seen = f"more than one product: {said}" if behind else "no product of this method"
            raise Stop("not-linear", f"the {role} come from {seen}", value.node)
        result += behind
    return result


def projection(owner: ClassInfo, value: Value) -> Projection:
    """What a product is. Raises Stop where it is not one that can share a matmul."""
    if value.op == "module" and isinstance(value.node, ast.Call):
        made = owner.attributes.get(value.data, [])
        kinds = {owner.index.resolve(one.value.func) for one in made if isinstance(one.value, ast.Call)}
        if kinds == {"torch.nn.Linear"} and len(value.args) == 1 and not value.keywords:
            return Projection("linear", value, value.args[0], value.data, value.node.func)
    letters = einsum_of(value)
    if letters is not None and isinstance(value.node, ast.Call):
        return _of_heads(owner, value, letters[0].operands, letters[0].output)
    raise Stop("not-linear", f"`{text_of(value)}` is no nn.Linear that is given one input", value.node)


def is_fused(owner: ClassInfo, value: Value) -> bool:
    """Whether the product is a call of the runtime's FusedProjection."""
    made = owner.attribute(value.data) if value.op == "module" else None
    return isinstance(made, ast.Call) and owner.index.resolve(made.func) == _FUSED


def fused_attribute(owner: ClassInfo) -> str:
    """The attribute that holds a FusedProjection, or ""."""
    for name in owner.attributes:
        made = owner.attribute(name)
        if isinstance(made, ast.Call) and owner.index.resolve(made.func) == _FUSED:
            return name
    return ""


def _behind(found: Attention, value: Value) -> Iterator[Value]:
    """Products that a value is made from, and nothing behind those."""
    todo, seen = [value], set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        if _is_product(found.owner, one):
            yield one
        else:
            todo += _operands(found.owner, one)


def _operands(owner: ClassInfo | None, value: Value) -> Iterable[Value]:
    """The operands; `q, k = rotated(q, k)` gives out in each place what it took in this place."""
    inner = value.args[0] if value.op == "unpack" else None
    if inner is not None and inner.op in _CALLS and len(inner.args) > value.data and not _is_product(owner, inner):
        return [inner.args[value.data]]
    return value.operands()


def _is_product(owner: ClassInfo | None, value: Value) -> bool:
    if value.op == "module":
        return owner is None or not _is_crossed(owner, value.data)
    if value.op in MATMULS or value.op in ("einsum", "linear"):
        return any(operand.op == "attr" for operand in value.args)
    return value.op == "call" and str(value.data).startswith("torch.nn.functional.conv")


def _is_crossed(owner: ClassInfo, attribute: str) -> bool:
    """Whether a module turns or normalises what it gets, without a product of its own."""
    made = owner.attribute(attribute)
    name = owner.index.resolve(made.func) if isinstance(made, ast.Call) else None
    info = owner.index.modules.get(name or "")
    return name in _CROSSED or (info is not None and not any(word in info.definition.text for word in _WEIGHTS))


def _of_heads(owner: ClassInfo, value: Value, terms: tuple[str, ...], output: str) -> Projection:
    """einsum "btc,hdc->bhtd" of an input and a bare weight, in any letters and either order."""
    pairs = list(zip(terms, value.args[1:], strict=True))
    if len(pairs) == 2 and pairs[0][1].op == "attr":
        pairs.reverse()
    (x, source), (w, weight) = pairs if len(pairs) == 2 else (("", value), ("", value))
    shape = parameter_shape(owner, weight.data) if weight.op == "attr" else None
    distinct = len(x) == len(w) == 3 and len({*x, *w}) == 5 and x[2] == w[2]
    if not distinct or output != f"{x[0]}{w[0]}{x[1]}{w[1]}" or shape is None or len(shape) != 3:
        raise Stop("equation", f"`{text_of(value)}` does not give (batch, heads, seq_len, head_dim)", value.node)
    assert weight.node is not None
    return Projection("heads", value, source, weight.data, weight.node)


# --- what is in the way ---------------------------------------------------------------------------------------------


def check_fusible(index: FileIndex, owner: ClassInfo, found: Attention, parts: list[Projection]) -> None:
    """Raises Stop at the first thing that is in the way."""
    if compiles_scripts(index):
        raise Stop("scripted", "the file compiles code with `torch.jit.script`")
    if "__init__" not in owner.methods:
        raise Stop("layout", f"{owner.name} has no `__init__`")
    if index.subclasses.get(owner.name):
        raise Stop("subclassed", f"{index.subclasses[owner.name][0]} derives from {owner.name}")
    for part in parts:
        _check_assignment(owner, part.attribute)
    _check_borrowers(index, owner, parts)
    for part in parts:
        check_view(found.flow, part.value)
        _check_gradient(part)
    _check_written(found, {part.attribute for part in parts})
    _check_statements(found, parts)


def _check_assignment(owner: ClassInfo, attribute: str) -> None:
    assigned = owner.attributes.get(attribute, [])
    if len(assigned) != 1 or attribute in owner.stores_outside_init:
        raise Stop("reassigned", f"`self.{attribute}` is assigned more than once")
    if assigned[0].statement not in owner.methods["__init__"].body:
        raise Stop("reassigned", f"`self.{attribute}` is assigned under a condition")


def _check_borrowers(index: FileIndex, owner: ClassInfo, parts: list[Projection]) -> None:
    """A hook or a wrapper would have the products made one by one again; a bare weight may be read by anyone."""
    linear = [part for part in parts if part.kind == "linear"]
    attributes = {part.attribute for part in linear}
    if len({part.attribute for part in parts}) < len(parts):
        raise Stop("used-elsewhere", "two of the products share one weight")
    own = {id(part.node.func) for part in linear} | set(assigned_nodes(owner, attributes))
    line = borrower(index, owner, attributes, own) if attributes else ""
    if line:
        raise Stop("used-elsewhere", f"{line} uses one of the projections too")


def _check_gradient(part: Projection) -> None:
    """A weight without a gradient would get one of zeros, which optimizers that decay weights do not pass over."""
    stopped = [user for user in part.value.users if user.op == "detach"]
    if stopped and len(stopped) == len(part.value.users):
        raise Stop("not-linear", f"`{text_of(stopped[0])}` gives no gradient to the weight", part.node)


def _check_written(found: Attention, attributes: set[str]) -> None:
    """All weights have to be what they are when the first product is made: `self.k.weight.data.mul_(2)`."""
    own = tuple(f"{found.flow.self_name}.{attribute}." for attribute in attributes)
    for node in ast.walk(found.flow.function):
        callee = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and callee.endswith("_") and callee.startswith(own):
            raise Stop("used-elsewhere", f"`{ast.unparse(node)}` changes a weight where it is used", node)


def _check_statements(found: Attention, parts: list[Projection]) -> None:
    """All products have to be made whenever one is: in simple statements of one block, and unconditionally."""
    statements = [part.statement for part in parts]
    blocks = blocks_of(found.flow.function)
    if not any(all(statement in block for statement in statements) for block in blocks):
        raise Stop("conditional", "the projections stand in different blocks")
    for part in parts:
        inside = [node for node in ast.walk(part.statement) if isinstance(node, _CHOICES)]
        chosen = any(inner is part.node for choice in inside for inner in ast.walk(choice))
        if chosen or not isinstance(part.statement, _SIMPLE):
            raise Stop("conditional", f"`{ast.unparse(part.node)}` is not always computed")


def blocks_of(function: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every list of statements of a function."""
    for node in ast.walk(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block
