"""Finding out, in a box, how classes are built and called. A guess counts when the code itself runs with it."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import textwrap
import time
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from migrator.prove import building, inputs, loading
from migrator.prove.alarm import limited
from migrator.prove.codec import Unportable, encode

_LENGTHS = (13, 8, 4, 16, 32)
_SIZES = ((3, 13), (1, 7), (3, 2), (2, 8), (1, 1))
_PATIENCE, _ATTEMPT = 8.0, 2.0
_INSTANCES = 3


def discover(
    space: types.ModuleType, message: dict[str, Any], tensors: list[Tensor], out: list[Tensor]
) -> dict[str, Any]:
    """Build `message["cls"]` in one of the given ways, run it, and record how the wanted classes inside are used."""
    from migrator.prove.box import seed_all

    errors: list[str] = []
    for number, build in enumerate(message["builds"]):
        recorder = Recorder(space)
        try:
            seed_all(0)
            with recorder.watching(message["wanted"]), limited(_PATIENCE):
                module = building.construct(build, tensors, space).eval()
        except Exception as error:
            errors.append(loading.described(error))
            continue
        search = Search(module)
        found = search.methods(message["methods"])
        if not found:
            errors.append(f"no inputs were found that its forward runs with{search.why}")
            continue
        sizes, inner = _harvest(module, found, recorder, out)
        if not any(sizes.values()):
            errors.append("it runs once, but not again")
            continue
        given = recorder.inits.get(id(module))
        init = None if given is None else _placed(given[1], given[2], out)
        return {"build": number, "methods": found, "sizes": sizes, "inner": inner, "init": init}
    return {"errors": errors or ["no way to construct it is known"]}


# --- inputs -------------------------------------------------------------------------------------------------------


@dataclass
class Search:
    """Looks for calls that a module runs with."""

    module: nn.Module
    patience: float = _PATIENCE
    deadline: float = field(init=False)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def why(self) -> str:
        """What its code says most often; inputs of a wrong shape say something else each time."""
        return "".join(f"; most often it says {failure}" for failure, _ in self.failures.most_common(1))

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.patience

    def methods(self, names: list[str]) -> dict[str, list[inputs.Spec]]:
        """A working call for each method that has one."""
        found: dict[str, list[inputs.Spec]] = {}
        for name in ["forward", *names]:
            call = self.method(name)
            if call is not None:
                found[name] = call
        return found

    def method(self, name: str) -> list[inputs.Spec] | None:
        method = getattr(self.module, name, None)
        if not callable(method):
            return None
        parameters = inputs.parameters_of(method)
        embedded = _embedded(self.module, name)
        runs: list[inputs.Spec] | None = None
        for length in dict.fromkeys((*_LENGTHS, *_fixed_lengths(self.module))):
            for call in inputs.calls(parameters, self.module, embedded):
                if time.monotonic() > self.deadline:
                    return runs
                finite = attempt(self.module, name, parameters, call, 3, length, self.failures)
                if finite:
                    return _as_meant(self.module, name, parameters, call, length)
                runs = call if finite is not None and runs is None else runs
        return runs


def _fixed_lengths(module: nn.Module) -> list[int]:
    """Lengths that a square table, such as a bias for each pair of positions, may insist on."""
    tables = [tensor.shape for tensor in (*module.parameters(), *module.buffers()) if tensor.ndim >= 2]
    return [shape[-1] for shape in tables if shape[-1] == shape[-2] and 1 < shape[-1] <= 128]


def _as_meant(
    module: nn.Module, name: str, parameters: list[inputs.Parameter], call: list[inputs.Spec], length: int
) -> list[inputs.Spec]:
    """The call, with a float mask where a boolean one ran whose two values do the same: it is added to scores."""
    for place, spec in enumerate(call):
        if "bool" not in spec:
            continue
        results = [
            outcome(
                module, name, parameters, [*call[:place], {**spec, "constant": value}, *call[place + 1 :]], 3, length
            )
            for value in (True, False)
        ]
        same = all(a is not None and b is not None and inputs.same(a, b) for a, b in [results])
        added = [*call[:place], {"additive": spec["bool"]}, *call[place + 1 :]]
        if same and attempt(module, name, parameters, added, 3, length):
            call = added
    return call


def attempt(
    module: nn.Module, name: str, parameters: list[inputs.Parameter], call: list[inputs.Spec], batch: int, length: int,
    failures: Counter[str] | None = None,
) -> bool | None:  # fmt: skip
    """Whether a call gives finite numbers; None if it fails, or gives no tensor at all."""
    out = outcome(module, name, parameters, call, batch, length, failures)
    return None if out is None else all(bool(t.isfinite().all()) for t in out if t.is_floating_point())


def outcome(
    module: nn.Module, name: str, parameters: list[inputs.Parameter], call: list[inputs.Spec], batch: int, length: int,
    failures: Counter[str] | None = None,
) -> list[Tensor] | None:  # fmt: skip
    """The tensors that a call gives; None if it fails, and `failures` says how, or gives none."""
    from migrator.prove.box import seed_all

    args, kwargs = arguments(parameters, call, batch, length)
    try:
        seed_all(1)
        with torch.no_grad(), limited(_ATTEMPT):
            result = getattr(building_copy(module), name)(*args, **kwargs)
    except Exception as error:
        if failures is not None:
            failures[loading.described(error)] += 1
        return None
    out: list[Tensor] = []
    encode(result, out, strict=False)
    return out or None


def building_copy(module: nn.Module) -> nn.Module:
    """A copy where that is possible; discovery may do without."""
    try:
        return building.copied(module)
    except (RuntimeError, TypeError):
        return module


def arguments(
    parameters: list[inputs.Parameter], call: list[inputs.Spec], batch: int, length: int
) -> tuple[list[Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter, spec in zip([p for p in parameters if p.required], call, strict=True):
        value = inputs.make(spec, batch, length, generator)
        if parameter.keyword_only:
            kwargs[parameter.name] = value
        else:
            args.append(value)
    return args, kwargs


def _embedded(module: nn.Module, name: str) -> set[str]:
    """Parameters that the method hands to an nn.Embedding of the module, as far as its source shows."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(module, name))))
    except (OSError, TypeError, SyntaxError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
            target = getattr(module, node.func.attr, None)
            if isinstance(target, nn.Embedding) and isinstance(node.args[0], ast.Name):
                found.add(node.args[0].id)
    return found


# --- what happens inside ------------------------------------------------------------------------------------------


class Recorder:
    """Records constructor arguments and calls of some classes while they are watched."""

    def __init__(self, space: types.ModuleType) -> None:
        self.space = space
        self.inits: dict[int, tuple[nn.Module, Any, list[Tensor]]] = {}
        self.calls: list[tuple[nn.Module, str, Any, Any, list[Tensor]]] = []

    @contextlib.contextmanager
    def watching(self, names: list[str]) -> Iterator[None]:
        replaced: list[tuple[type, str, Any]] = []
        for name in names:
            cls = getattr(self.space, name, None)
            if isinstance(cls, type) and issubclass(cls, nn.Module):
                for key, value in list(vars(cls).items()):
                    if inspect.isfunction(value) and (key == "__init__" or not key.startswith("_")):
                        replaced.append((cls, key, value))
                        setattr(cls, key, self._init(value) if key == "__init__" else self._call(key, value))
        try:
            yield
        finally:
            for cls, key, value in replaced:
                setattr(cls, key, value)

    def _init(self, function: Any) -> Any:
        def recorded(module: Any, *args: Any, **kwargs: Any) -> None:
            if id(module) not in self.inits:  # the outermost class of a hierarchy is the one that was called
                tensors: list[Tensor] = []
                with contextlib.suppress(Unportable):
                    given = self._encoded(args, kwargs, tensors)
                    self.inits[id(module)] = (module, {"cls": type(module).__name__, **given}, tensors)
            function(module, *args, **kwargs)

        return recorded

    def _call(self, name: str, function: Any) -> Any:
        def recorded(module: Any, *args: Any, **kwargs: Any) -> Any:
            tensors: list[Tensor] = []
            with contextlib.suppress(Unportable):
                given = self._encoded(args, kwargs, tensors)
                self.calls.append((module, name, given["args"], given["kwargs"], tensors))
            return function(module, *args, **kwargs)

        return recorded

    def _encoded(self, args: Any, kwargs: Any, tensors: list[Tensor]) -> dict[str, Any]:
        given = {
            "args": encode(list(args), tensors, self.space),
            "kwargs": encode(kwargs, tensors, self.space),
        }
        tensors[:] = [tensor.detach().clone() for tensor in tensors]
        return given


def _harvest(
    module: nn.Module, found: dict[str, list[inputs.Spec]], recorder: Recorder, out: list[Tensor]
) -> tuple[dict[str, list[list[int]]], list[dict[str, Any]]]:
    """Run at several sizes: which of them work, and what reached the wanted classes inside."""
    from migrator.prove.box import seed_all

    sizes: dict[str, list[list[int]]] = {name: [] for name in found}
    runs: dict[str, list[dict[str, Any]]] = {}
    paths = {id(child): path for path, child in module.named_modules()}
    names = {type(child).__name__ for child in module.modules() if id(child) != id(module)}
    for name, call in found.items():
        parameters = inputs.parameters_of(getattr(module, name))
        others = [(3, length) for length in (*_LENGTHS, *_fixed_lengths(module))]
        for batch, length in dict.fromkeys((*_SIZES, *others)):
            if sizes[name] and (batch, length) not in _SIZES:
                break
            args, kwargs = arguments(parameters, call, batch, length)
            recorder.calls.clear()
            seed_all(1)
            try:
                with recorder.watching(sorted(names)), torch.no_grad(), limited(_ATTEMPT):
                    getattr(module, name)(*args, **kwargs)
            except Exception:
                continue
            sizes[name].append([batch, length])
            _collect(recorder, paths, runs, [batch, length])
    return sizes, _instances(module, recorder, runs, out)


def _collect(recorder: Recorder, paths: dict[int, str], runs: dict[str, list[dict[str, Any]]], size: list[int]) -> None:
    seen: set[tuple[str, str]] = set()
    for module, name, args, kwargs, tensors in recorder.calls:
        path = paths.get(id(module))
        if path and (path, name) not in seen:
            seen.add((path, name))
            runs.setdefault(path, []).append(
                {"size": size, "method": name, "args": args, "kwargs": kwargs, "tensors": tensors}
            )


def _instances(
    module: nn.Module, recorder: Recorder, runs: dict[str, list[dict[str, Any]]], out: list[Tensor]
) -> list[dict[str, Any]]:
    """A few instances of each class: those that were constructed differently."""
    chosen: dict[str, set[str]] = {}
    found: list[dict[str, Any]] = []
    for path, child in module.named_modules():
        name = type(child).__name__
        if path not in runs:
            continue
        init = recorder.inits.get(id(child))
        signature = json.dumps(init[1], sort_keys=True, default=str) if init else ""
        kept = chosen.setdefault(name, set())
        if signature in kept or len(kept) >= _INSTANCES:
            continue
        kept.add(signature)
        found.append({"cls": name, "path": path, "init": init and _placed(init[1], init[2], out),
                      "runs": [_placed_run(run, out) for run in runs[path]]})  # fmt: skip
    return found


def _placed_run(run: dict[str, Any], out: list[Tensor]) -> dict[str, Any]:
    values = {"args": run["args"], "kwargs": run["kwargs"]}
    return {"size": run["size"], "method": run["method"], **_placed(values, run["tensors"], out)}


def _placed(data: dict[str, Any], tensors: list[Tensor], out: list[Tensor]) -> dict[str, Any]:
    """The encoded values, with their own tensors at the end of `out`: [first, count] says where."""
    first = len(out)
    out += tensors
    return {**data, "tensors": [first, len(tensors)]}
