"""Other ways to build and call a class that it goes along with: tried out in a box, on the code as it was."""

from __future__ import annotations

import inspect
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from migrator.prove import building, inputs, switches
from migrator.prove.alarm import limited
from migrator.prove.codec import decode, encode
from migrator.prove.discovery import Search, arguments

_STEPS = {"even": (2, 4, -2, 6, -4), "odd": (1, 3, -1, 5)}
_DROPOUT = 0.25
_PATIENCE, _PATIENCE_IN_ALL, _ATTEMPT = 0.5, 3.0, 2.0
_SIZES = ((3, 13), (1, 7))


def vary(space: types.ModuleType, message: dict[str, Any], tensors: list[Tensor]) -> list[dict[str, Any]]:
    """Other constructor arguments with which the class still runs.

    `even` keeps the parity of every number, `odd` does not; `flip` turns one switch; `dropout` turns dropout on. It has
    to run with the same inputs, if `runs` has any, else with inputs of its own, which then come along.
    """
    return list(_Variation(space, message, tensors).all())


class _Variation:
    def __init__(self, space: types.ModuleType, message: dict[str, Any], tensors: list[Tensor]) -> None:
        self.space, self.message, self.tensors = space, message, tensors
        build = message["build"]
        parameters = [
            p for p in inspect.signature(getattr(space, build["cls"])).parameters.values() if p.kind != p.VAR_KEYWORD
        ]
        self.given = {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float)}
        self.given.update(zip((p.name for p in parameters), build["args"], strict=False))
        self.given.update(dict(build["kwargs"]["dict"]))
        self.deadline = time.monotonic() + _PATIENCE_IN_ALL

    def all(self) -> Iterator[dict[str, Any]]:
        for kind, steps in _STEPS.items():
            changed = self.numbers(steps)
            if changed != self.given:
                yield self.told(kind, changed)
        for name, value in self.given.items():
            if type(value) is bool and self.runs({**self.given, name: not value}):
                yield self.told("flip", {**self.given, name: not value})
            if type(value) in (int, float) and "drop" in name.lower() and self.runs({**self.given, name: _DROPOUT}):
                yield self.told("dropout", {**self.given, name: _DROPOUT})

    def numbers(self, steps: tuple[int, ...]) -> dict[str, Any]:
        """Move one number after the other, as far as the class goes along."""
        changed = dict(self.given)
        for name, value in self.given.items():
            if type(value) is not int or value < 2:
                continue
            for step in steps:
                other = value + step
                if other > 0 and other not in changed.values() and self.runs({**changed, name: other}):
                    changed[name] = other
                    break
        return changed

    def told(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        """The variation, with inputs if those of the message are not for it."""
        found: dict[str, Any] = {"kind": kind, "build": self.build(given)}
        if not self.message["runs"]:
            call = self.search(given)
            assert call is not None
            found.update(methods={"forward": call}, sizes={"forward": [list(size) for size in _SIZES]})
        return found

    def build(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"cls": self.message["build"]["cls"], "args": [], "kwargs": {"dict": [list(i) for i in given.items()]}}

    def runs(self, given: dict[str, Any]) -> bool:
        if time.monotonic() > self.deadline:
            return False
        try:
            if not self.message["runs"]:
                return self.search(given) is not None
            module = building.construct(self.build(given), self.tensors, self.space).eval()
            return all(_finite(module, run, self.tensors, self.space) for run in self.message["runs"])
        except Exception:
            return False

    def search(self, given: dict[str, Any]) -> list[inputs.Spec] | None:
        module = building.construct(self.build(given), self.tensors, self.space).eval()
        call = Search(module, patience=_PATIENCE).method("forward")
        if call is None:
            return None
        parameters = inputs.parameters_of(module.forward)
        for batch, length in _SIZES:
            args, kwargs = arguments(parameters, call, batch, length)
            with torch.no_grad(), switches.dropout_set(False):
                module(*args, **kwargs)
        return call


def _finite(module: nn.Module, run: dict[str, Any], tensors: list[Tensor], space: types.ModuleType) -> bool:
    """Whether a call gives nothing but finite numbers. Raises what the code raises."""
    return all(bool(t.isfinite().all()) for t in _outputs(module, run, tensors, space) if t.is_floating_point())


def _outputs(module: nn.Module, run: dict[str, Any], tensors: list[Tensor], space: types.ModuleType) -> list[Tensor]:
    args, kwargs = (decode(run[key], [t.clone() for t in tensors], space) for key in ("args", "kwargs"))
    out: list[Tensor] = []
    with torch.no_grad(), switches.dropout_set(False), limited(_ATTEMPT):
        encode(getattr(module, run["method"])(*args, **kwargs), out, strict=False)
    return out


def optional_masks(space: types.ModuleType, message: dict[str, Any], tensors: list[Tensor]) -> dict[str, inputs.Spec]:
    """Masks that a forward may get and did not, by the name of the parameter: those that run, and change the result."""
    run = message["run"]
    module = building.construct(message["build"], tensors, space).eval()
    given = {name for name, _ in run["kwargs"]["dict"]}
    parameters = inputs.parameters_of(getattr(module, run["method"]))[len(run["args"]) :]
    plain = _outputs(module, run, tensors, space)
    found: dict[str, inputs.Spec] = {}
    for parameter in parameters:
        if parameter.required or parameter.name in given or not inputs.is_mask(parameter.name):
            continue
        trial = _Trial(space, module, run, tensors, parameter.name, plain)
        spec = next((spec for spec in inputs.masks(parameter.name) if trial.matters(spec)), None)
        if spec is not None:
            found[parameter.name] = spec
    return found


@dataclass
class _Trial:
    """A call with a mask that it was made without before."""

    space: types.ModuleType
    module: nn.Module
    run: dict[str, Any]
    tensors: list[Tensor]
    name: str
    plain: list[Tensor]

    def matters(self, spec: inputs.Spec) -> bool:
        """Whether a mask changes the numbers alone, and, if it is boolean, its two values do different things."""
        new = self.outputs(spec)
        if new is None or [tensor.shape for tensor in self.plain] != [tensor.shape for tensor in new]:
            return False  # a mask that is broadcast into further axes is none that anybody means
        if inputs.same(self.plain, new) or not all(bool(t.isfinite().all()) for t in new if t.is_floating_point()):
            return False
        return "bool" not in spec or not self.added(spec)

    def added(self, spec: inputs.Spec) -> bool:
        """Whether all True does the same as all False, as when a boolean mask is added to scores."""
        yes, no = (self.outputs({**spec, "constant": value}) for value in (True, False))
        return yes is not None and no is not None and inputs.same(yes, no)

    def outputs(self, spec: inputs.Spec) -> list[Tensor] | None:
        batch, length = self.run["size"]
        mask = inputs.make(spec, batch, length, torch.Generator().manual_seed(1))
        if mask is None:
            return None
        given = [*self.run["kwargs"]["dict"], [self.name, {"tensor": len(self.tensors)}]]
        try:
            return _outputs(self.module, {**self.run, "kwargs": {"dict": given}}, [*self.tensors, mask], self.space)
        except Exception:
            return None
