"""Sinusoids of a value that is handed in, such as the step of a diffusion, and not of a place in a sequence."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recognise.anatomy import Obstacle, text_of
from migrator.recognise.ancestry import COUNTED, Ancestor, ancestry, attends, called, flows, reaches_attention
from migrator.recognise.index import FileIndex
from migrator.recognise.values import Flow, Value

_CODE = "timestep"
_PRODUCTS = frozenset({"div", "einsum", "matmul", "mul", "outer"})


def timesteps(index: FileIndex) -> Iterator[Obstacle]:
    """Each sinusoid of a value that a class hands to its attention."""
    waves = [flow for flow in flows(index, "sin") if any(_is_wave_of_data(flow, value) for value in flow.values)]
    if not waves:
        return
    for flow in flows(index, "forward"):
        if flow.owner is None or not attends(index, flow.owner.name):
            continue
        for value in flow.values:
            if _is_wave(flow, value, waves) and reaches_attention(flow, value) and value.node is not None:
                seen = f"`{text_of(value)}` is a sinusoid of a value that is handed in, and of no place in a sequence"
                yield Obstacle(flow, value.node, _CODE, seen)


def _is_wave_of_data(flow: Flow, value: Value) -> bool:
    """Whether a value is the sine of a parameter of the function times frequencies."""
    if value.op != "sin" or not value.args:
        return False
    behind = ancestry(flow, value.args[0], leaves=COUNTED | {"exp", "pow"})
    return any(_parted(flow, one.value) for one in behind if one.value.op in _PRODUCTS)


def _parted(flow: Flow, product: Value) -> bool:
    """One factor is handed in and not counted, the other one counts the frequencies or keeps them."""
    factors = [arg for arg in product.args if arg.op != "const"]
    if len(factors) != 2:
        return False
    kinds = [{one.value.op for one in ancestry(flow, factor)} for factor in factors]
    data = ["param" in ops and not ops & COUNTED for ops in kinds]
    frequencies = [bool(ops & {"arange", "attr"}) for ops in kinds]
    return (data[0] and frequencies[1]) or (data[1] and frequencies[0])


def _is_wave(flow: Flow, value: Value, waves: list[Flow]) -> bool:
    """Whether a value is what one of these functions, or a part that ends in one, makes of something not counted."""
    if called(flow, value) is None:
        return False
    behind = ancestry(flow, value)
    inside = [one for one in behind if one.flow in waves and one.caller is not None]
    return bool(inside) and not any(_counted(one) for one in behind)


def _counted(one: Ancestor) -> bool:
    """A number of a place, that goes into the function from outside."""
    return one.value.op in COUNTED and one.caller is None
