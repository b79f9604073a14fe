"""Positions on a grid: rows of patches, and tables that are made of one part for the height and one for the width."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable, Iterator

from migrator.recognise.anatomy import Obstacle, text_of
from migrator.recognise.ancestry import (
    COUNTED,
    Ancestor,
    ancestry,
    declared_sizes,
    flows,
    given_by_callers,
    learned_rows,
    serves_attention,
)
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.shapes import symbol
from migrator.recognise.values import Flow, Value, strip

_CODE = "two-dimensional"
_JOINING = frozenset({"cat", "add", "stack"})
_CONCATENATING = frozenset({"numpy.concatenate", "numpy.stack", "torch.hstack", "torch.concat"})
_GRIDS = frozenset({"torch.meshgrid", "numpy.meshgrid"})
_WAVES = frozenset({"numpy.sin", "numpy.cos"})
_IMAGES = frozenset({f"torch.nn.{name}" for name in ("Conv2d", "Conv3d")})
_UNFOLDING = frozenset({"torch.nn.Unfold", "torch.nn.functional.unfold"})
_LAYOUT = frozenset({"contiguous", "expand", "flatten", "getitem", "permute", "repeat", "reshape", "to", "transpose"})


def grids(index: FileIndex) -> Iterator[Obstacle]:
    """Each table of positions on a grid, once for a function."""
    for flow in flows(index, "Parameter", "Embedding", "sin"):
        if serves_attention(index, flow.definition):
            found = next(_in_flow(flow), None)
            if found is not None:
                yield found


def _in_flow(flow: Flow) -> Iterator[Obstacle]:
    for value in flow.values:
        parts = _parts(value)
        seen = _of_patches(flow, value) if value.op == "add" and len(value.args) == 2 else ""
        if len(parts) > 1 and not seen:
            seen = _of_two_axes(flow, value, parts)
        if seen:
            node = value.node or getattr(value.statement, "value", None) or parts[0].node
            assert node is not None
            yield Obstacle(flow, node, _CODE, seen)


def _parts(value: Value) -> tuple[Value, ...]:
    """What is summed, or put side by side."""
    if value.op == "add":
        return value.args
    if value.op in _JOINING or (value.op == "call" and value.data in _CONCATENATING):
        return value.args[0].args if value.args and value.args[0].op == "tuple" else ()
    return ()


# --- rows of patches -------------------------------------------------------------------------------------------------


def _of_patches(flow: Flow, total: Value) -> str:
    """`patches + self.table`: what was seen, or ""."""
    for rows, x in (total.args, total.args[::-1]):
        table = _table(flow, rows)
        if table and any(_flattens_a_grid(one) for one in [*ancestry(flow, x), *given_by_callers(flow, x)]):
            return f"`self.{table}` has a row for each patch of a grid, and is added to `{text_of(x)}`"
    return ""


def _table(flow: Flow, rows: Value) -> str:
    """The learned table that rows are read from, whatever the tokens are."""
    behind = ancestry(flow, rows)
    if any(one.value.op in ("param", "opaque") and one.caller is None for one in behind) and rows.op != "self_call":
        return ""
    tables = {name for one in behind if (name := learned_rows(one))}
    return tables.pop() if len(tables) == 1 else ""


def _flattens_a_grid(one: Ancestor) -> bool:
    """Whether a value is the flattened grid of an image's patches."""
    value, info = one.value, one.flow.owner
    if value.op == "call" and value.data in _UNFOLDING:
        return True
    if value.op == "call" and value.data == "einops.rearrange":
        return len(value.args) > 1 and _merges_neighbours(value.args[1].data)
    if value.op == "module" and info is not None:
        made = info.attribute(str(value.data))
        return made is not None and any(_is_unfolding(info, node) for node in ast.walk(made))
    return _is_flattening(value) and any(_is_image(inner) for inner in ancestry(one.flow, value.args[0]))


def _is_unfolding(info: ClassInfo, node: ast.AST) -> bool:
    """`nn.Unfold(...)`, or `Rearrange("b c (h p) (w q) -> b (h w) (p q c)")`, in what makes a module."""
    if not isinstance(node, ast.Call):
        return False
    name = info.index.resolve(node.func) or ""
    pattern = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
    return name in _UNFOLDING or (name == "einops.layers.torch.Rearrange" and _merges_neighbours(pattern))


def _merges_neighbours(pattern: object) -> bool:
    """Whether "b c (h p) (w q) -> b (h w) c" makes one axis, and not the last, of two that were side by side."""
    if not isinstance(pattern, str):
        return False
    before, _, after = pattern.partition("->")
    source = [re.findall(r"\w+", axis) for axis in re.findall(r"\([^)]*\)|\S+", before)]
    for axis in re.findall(r"\([^)]*\)|\S+", after)[:-1]:
        places = {place for name in re.findall(r"\w+", axis) for place, names in enumerate(source) if name in names}
        if any(place > 0 and place + 1 in places for place in places):
            return True
    return False


def _is_flattening(value: Value) -> bool:
    """`image.flatten(2)` and `image.reshape(b, c, h * w)`; `view(b, -1, c)` of an image whose channels are last."""
    if value.op == "flatten":
        moved = strip(value.args[0]).op in ("transpose", "permute")
        return len(value.args) == 2 and value.args[1].data in (2, -2) and not moved
    if value.op not in ("view", "reshape") or len(value.args) != 4:
        return False
    moved = strip(value.args[0]).op in ("transpose", "permute")
    one = value.args[2 if moved else 3]
    return one.op == "mul" or one.is_const(-1)


def _is_image(one: Ancestor) -> bool:
    value, info = one.value, one.flow.owner
    made = info.attribute(str(value.data)) if value.op == "module" and info is not None else None
    calls = (node for node in ast.walk(made) if isinstance(node, ast.Call)) if made is not None else ()
    return info is not None and any(info.index.resolve(call.func) in _IMAGES for call in calls)


# --- one part for each axis ------------------------------------------------------------------------------------------


def _of_two_axes(flow: Flow, value: Value, parts: tuple[Value, ...]) -> str:
    """What was seen of two parts that count along different axes, or ""."""
    behind = [ancestry(flow, part, leaves=COUNTED | {"call_local"}) for part in parts]
    waves = [any(one.value.op in ("sin", "cos") or one.value.data in _WAVES for one in part) for part in behind]
    meshed = any(one.value.op == "call" and one.value.data in _GRIDS for part in behind for one in part)
    if all(waves) and meshed:
        return f"`{text_of(value)}` joins sinusoids of the rows and the columns of a grid"
    if any(one.value.op == "param" and one.caller is None for part in behind for one in part):
        return ""
    counted = [_counters(part) for part in behind]
    tables = [{name for one in part if (name := learned_rows(one))} for part in behind]
    for i in range(len(parts)):
        for j in range(i):
            apart = counted[i] - counted[j] and counted[j] - counted[i]
            if apart and waves[i] and waves[j]:
                return f"`{text_of(value)}` joins sinusoids along two axes"
            laid = _laid(flow, parts[i]), _laid(flow, parts[j])
            crossed = laid[0] - laid[1] and laid[1] - laid[0]
            if (apart or crossed) and len(tables[i]) == len(tables[j]) == 1 and tables[i] != tables[j]:
                names = sorted(tables[i] | tables[j])
                return f"`self.{names[0]}` and `self.{names[1]}` hold the positions along two axes"
    return ""


def _counters(part: list[Ancestor]) -> set[Hashable]:
    """What is counted along which axis: by `arange` of a length, or by the sum of a mask along an axis."""
    found: set[Hashable] = set()
    for one in part:
        if one.value.op == "arange" and one.value.args:
            found.add(symbol(one.value.args[0]))
        axis = one.value.argument(1, "dim") if one.value.op == "cumsum" else None
        if axis is not None:
            found.add(("cumsum", axis.data))
    return found


def _laid(flow: Flow, part: Value) -> set[Hashable]:
    """The axes along which a table is repeated: those of size 1 that it has or is given."""
    found: set[Hashable] = set()
    value = strip(part)
    while value.args and (value.op in _LAYOUT or value.op in ("unsqueeze", "call")):
        if value.op == "unsqueeze":
            found.add(value.args[1].data)
        elif value.op == "getitem" and isinstance(value.data, ast.Tuple):
            items = value.data.elts
            found |= {k for k, item in enumerate(items) if isinstance(item, ast.Constant) and item.value is None}
        elif value.op == "call" and value.data == "einops.rearrange" and len(value.args) > 1:
            after = str(value.args[1].data).partition("->")[2]
            axes = re.findall(r"\([^)]*\)|\S+", after)
            found |= {place for place, axis in enumerate(axes) if axis in ("()", "1")}
        value = strip(value.args[0])
    if value.op == "attr" and flow.owner is not None:
        found |= {k for k, size in enumerate(declared_sizes(flow.owner, str(value.data))) if size == "1"}
    return found
