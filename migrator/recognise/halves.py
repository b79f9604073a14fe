"""Feed-forwards that stand in two classes: what keeps them from being changed together."""

from __future__ import annotations

import ast

from migrator.recognise.borrowers import assigned_nodes, borrower
from migrator.recognise.feed_forwards import FeedForward
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.inlining import said
from migrator.recognise.layers import layers
from migrator.recognise.values import Value, strip

_SIMPLE = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr


def halves_elsewhere(index: FileIndex, found: FeedForward) -> str:
    """What else uses one of the two classes, or their products."""
    halves = found.halves
    assert halves is not None and found.call is not None
    for info, product, value in ((found.owner, found.first, found.call), (halves.last, found.last, halves.value)):
        if info.name in index.subclasses:
            return f"{index.subclasses[info.name][0]} derives from {info.name}"
        strange = _strange_site(index, info)
        if strange:
            return strange
        calls = [v for v in (found.flow if info is found.owner else halves.frames[1].flow).values if v.op == "module"]
        if sum(call.data == product for call in calls) != 1:
            return f"{info.name} calls `self.{product}` several times"
        own = {id(value.node.func)} if isinstance(value.node, ast.Call) else set()
        line = borrower(index, info, {product}, own | set(assigned_nodes(info, {product})))
        if line:
            return f"{line} uses a part of it"
    return ""


def _strange_site(index: FileIndex, info: ClassInfo) -> str:
    """Where the class is built for anything but the feed-forward of a layer."""
    sums = [one for layer in layers(index) for one in layer.sums]
    frames = [(one, frame) for one in sums for step in (one.total, *one.steps) for frame in step.frame.callers]
    feeding = {id(frame.made) for one, frame in frames if one.kind == "feed_forward" and frame.owner is info}
    others = {id(frame.made) for one, frame in frames if one.kind != "feed_forward" and frame.owner is info}
    for site in index.calls.get(info.name, []):
        if id(site.call) not in feeding or id(site.call) in others:
            return f"line {site.definition.line(site.call)} builds {info.name} for something else"
    return ""


def apart(found: FeedForward, here: ast.expr, there: ast.expr) -> tuple[str, str, str] | None:
    """(code, what was seen, remedy) of what keeps the two products from getting a gate together."""
    halves = found.halves
    assert halves is not None and found.call is not None and found.activation is not None
    into, out = halves.frames
    widths = said(here, into), said(there, out)
    if widths[0] is None or widths[0] != widths[1]:
        seen = f"hidden width is `{ast.unparse(here)}` here and `{ast.unparse(there)}` there"
        return "hidden-width", seen, "use one expression for both"
    if not _alone(found):
        return "shared-activation", f"the output of `{found.first}` is used twice", "give each use its own product"
    nodes = (found.call.node, found.activation.node)
    simple = isinstance(found.call.statement, _SIMPLE) and isinstance(found.activation.statement, _SIMPLE)
    if not simple or not all(isinstance(node, ast.Call) for node in nodes):
        seen = f"`{found.first}` and `{found.last}` are not built or not used in plain statements side by side"
        return "layout", seen, "assign both in one block of `__init__`"
    return None


def _alone(found: FeedForward) -> bool:
    """Whether the hidden values go to the second product and nowhere else."""
    halves = found.halves
    assert halves is not None
    into, out = halves.frames
    value: Value | None = found.call
    stored = [store.value for store in found.flow.stores if store.kind == "attribute"]
    while value is not None and value.users:
        if len(value.users) != 1 or value in stored:
            return False
        value = value.users[0]
    given_out = strip(found.flow.returns[0][0])
    entering = strip(halves.value.args[0]) if halves.value.args else None
    while entering is not None and entering.op == "dropout":
        entering = strip(entering.args[0])
    taken = into.call is not None and into.outer is out.outer and into.call.users == [out.call]
    plain = entering is not None and entering.op == "param" and entering.users == _first_users(halves.value, entering)
    return value is given_out and taken and plain


def _first_users(product: Value, entering: Value) -> list[Value]:
    """The one user that lies on the way from what is handed in to the product."""
    value = product
    while value.args and strip(value.args[0]) is not entering:
        value = value.args[0]
    return [value]
