"""The state of an optimizer follows its parameters, which torch numbers in the order of their groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Shapes = Mapping[str, Sequence[int]]
Groups = list[list[str]]
Rule = Callable[[Sequence[str], Shapes], Groups]


class Unclear(Exception):
    """It cannot be told which number is which parameter."""


@dataclass(frozen=True)
class Parameters:
    """Names of a model's parameters in its own order, and their shapes."""

    order: Sequence[str]
    shapes: Shapes


def follow(optimizer: dict[str, Any], old: Parameters, new: Parameters, reused: Mapping[str, str]) -> dict[str, Any]:
    """The optimizer's state for the new parameters; those that are not `reused` (old name -> new name) start without.

    Raises:
        Unclear: nothing that is known of the file says which parameter is which.
    """
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    if any(type(number) is not int for number in numbers):
        raise Unclear("its parameters are not numbered")
    if len(numbers) == len(old.order) and [reused.get(name) for name in old.order] == list(new.order):
        return optimizer  # the same parameters in the same order, however they are grouped
    rule, groups = _grouping(optimizer, old)
    names = dict(zip(numbers, [name for group in groups for name in group], strict=True))
    after = rule(new.order, new.shapes)
    place = {name: number for number, name in enumerate(name for group in after for name in group)}
    state = {
        place[reused[names[number]]]: value
        for number, value in optimizer["state"].items()
        if names.get(number) in reused and reused[names[number]] in place
    }
    return {**optimizer, "state": state, "param_groups": _groups(optimizer["param_groups"], after, place)}


def _groups(old: Sequence[dict[str, Any]], after: Groups, place: Mapping[str, int]) -> list[dict[str, Any]]:
    groups = []
    for group, names in zip(old, after, strict=True):
        more = {"param_names": list(names)} if "param_names" in group else {}
        groups.append({**group, "params": [place[name] for name in names], **more})
    return groups


# --- who is who -----------------------------------------------------------------------------------------------------


def _all(order: Sequence[str], shapes: Shapes) -> Groups:
    return [list(order)]


def _matrices_first(order: Sequence[str], shapes: Shapes) -> Groups:
    """Weight decay for matrices, none for vectors."""
    return [[name for name in order if len(shapes[name]) >= 2], [name for name in order if len(shapes[name]) < 2]]


def _vectors_first(order: Sequence[str], shapes: Shapes) -> Groups:
    return _matrices_first(order, shapes)[::-1]


def _sorted(rule: Rule) -> Rule:
    return lambda order, shapes: rule(sorted(order), shapes)


_RULES: tuple[Rule, ...] = (
    _all, _matrices_first, _vectors_first, _sorted(_matrices_first), _sorted(_vectors_first),
)  # fmt: skip


def _grouping(optimizer: dict[str, Any], old: Parameters) -> tuple[Rule, Groups]:
    """The one usual way to group parameters that the file agrees with, and the names that it gives."""
    found: list[tuple[Rule, Groups]] = []
    for rule in _RULES:
        groups = rule(old.order, old.shapes)
        if _agrees(optimizer, groups, old.shapes) and groups not in [other for _, other in found]:
            found.append((rule, groups))
    if not found:
        count = sum(len(group["params"]) for group in optimizer["param_groups"])
        raise Unclear(f"its {count} parameters are not grouped in a way that is known, or are not those of the model")
    if len(found) > 1:
        raise Unclear("its parameters can be told apart neither by name nor by shape")
    return found[0]


def _agrees(optimizer: dict[str, Any], groups: Groups, shapes: Shapes) -> bool:
    given = optimizer["param_groups"]
    if [len(group["params"]) for group in given] != [len(names) for names in groups]:
        return False
    for group, names in zip(given, groups, strict=True):
        if list(group.get("param_names", names)) != names:
            return False
        for number, name in zip(group["params"], names, strict=True):
            if not _fits(optimizer["state"].get(number, {}), tuple(shapes[name])):
                return False
    return True


def _fits(state: Any, shape: tuple[int, ...]) -> bool:
    """Whether what an optimizer keeps of a parameter has its shape, or is a number such as the step."""
    tensors = [value for value in state.values() if isinstance(value, Tensor)] if isinstance(state, dict) else []
    return all(tuple(value.shape) == shape or value.ndim == 0 for value in tensors)
