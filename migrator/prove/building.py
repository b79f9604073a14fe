"""What a box does with modules: construct, describe, differentiate and train them."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from migrator.prove import switches
from migrator.prove.codec import decode

Build = dict[str, Any]


def construct(build: Build, tensors: list[Tensor], space: types.ModuleType) -> nn.Module:
    """A module from a call that stands in the text (`setup` and `call`), or from a class and its arguments."""
    if "function" in build:
        return AsModule(getattr(space, build["cls"]))
    module = evaluated(build, tensors, space)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{build['cls']}(...) gave a {type(module).__name__}, which is no nn.Module")
    return module


def evaluated(build: Build, tensors: list[Tensor], space: types.ModuleType) -> Any:
    """What such a call gives, module or not."""
    if "call" in build:
        names = dict(space.__dict__)
        for statement in build["setup"]:
            exec(statement, names)
        return eval(build["call"], names)
    # Cloned, because a constructor may keep what it is given, and change it.
    args, kwargs = (decode(build[name], [t.clone() for t in tensors], space) for name in ("args", "kwargs"))
    return getattr(space, build["cls"])(*args, **kwargs)


class AsModule(nn.Module):
    """A function of the file in the place of a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.forward = function


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def tied(module: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same tensor."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [sorted(names) for names in groups.values() if len(names) > 1]


def modules_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Each submodule by its path: the names of its classes, and of a layer norm what its formula needs."""
    return {path: _described(child) for path, child in module.named_modules()}


def _described(module: nn.Module) -> dict[str, Any]:
    classes = [cls.__name__ for cls in type(module).__mro__ if cls not in (nn.Module, object)]
    found: dict[str, Any] = {"classes": classes}
    if isinstance(module, nn.LayerNorm | getattr(nn, "RMSNorm", nn.LayerNorm)):
        found["norm"] = {
            "eps": module.eps,
            "axes": len(module.normalized_shape),
            "weight": module.weight is not None,
            "bias": getattr(module, "bias", None) is not None,
            "centred": isinstance(module, nn.LayerNorm),
        }
    if isinstance(module, nn.ModuleList | nn.Sequential):
        found["length"] = len(module)
    return found


def attributes_of(module: nn.Module) -> dict[str, dict[str, str]]:
    """Public attributes of each submodule, by path, with the names of their types."""
    hidden = set(vars(nn.Module()))
    table: dict[str, dict[str, str]] = {}
    for path, child in module.named_modules():
        own = {name: type(value).__name__ for name, value in vars(child).items() if name not in hidden}
        own |= {name: type(value).__name__ for name, value in child._modules.items()}
        own |= {name: type(value).__name__ for name, value in [*child._parameters.items(), *child._buffers.items()]}
        table[path] = {name: kind for name, kind in own.items() if not name.startswith("_")}
    return table


def initialise(module: nn.Module) -> None:
    """What scripts hand to `model.apply`: linear layers start anew."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def disturb(module: nn.Module, noise: float) -> None:
    """Make every parameter larger or smaller by this fraction of itself."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters() if noise else ():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + noise * signs)


def normed(
    weight: Tensor | None, bias: Tensor | None, eps: float | None, axes: int, centred: bool, place: int | None
) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that puts the reference norm behind a module, or behind one of its results."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if place is None:
            return switches.reference_norm(output, weight, bias, eps, axes, centred)
        results = list(output)
        results[place] = switches.reference_norm(results[place], weight, bias, eps, axes, centred)
        return tuple(results)

    return hook


# --- gradients ----------------------------------------------------------------------------------------------------


def leaf(tensor: Tensor, grads: bool) -> Tensor:
    return tensor.clone().requires_grad_(grads and tensor.is_floating_point())


def passed(tensor: Tensor) -> Tensor:
    """What the call gets: user code may change it in place, which a leaf would not allow."""
    return tensor.clone() if tensor.requires_grad else tensor


def weights_for(tensor: Tensor) -> Tensor:
    """Fixed weights: all different, so that no output can stand for another, and positive, so that none cancel."""
    count = torch.arange(tensor.numel(), dtype=torch.float64)
    wave = torch.cos(0.7 * count + 0.3 * torch.sin(count) + 0.5)
    return (1.0 + 0.7 * wave).to(tensor.dtype).reshape(tensor.shape)


def weighted_sum(outputs: list[Tensor]) -> Tensor | None:
    """The scalar that is differentiated: all outputs that can be, each element with a weight of its own."""
    parts = [torch.view_as_real(o) if o.is_complex() else o for o in outputs if o.requires_grad]
    parts = [part for part in parts if part.is_floating_point()]
    return sum((part * weights_for(part)).sum() for part in parts) if parts else None  # type: ignore[return-value]


def backward(outputs: list[Tensor]) -> bool:
    total = weighted_sum(outputs)
    if total is None or not total.requires_grad:
        return False
    total.backward()  # type: ignore[no-untyped-call]
    return True


def loss_of(outputs: list[Tensor]) -> Tensor:
    """The first scalar that can be differentiated, else the mean square distance of all outputs to fixed targets."""
    floats = [output for output in outputs if output.requires_grad and output.is_floating_point()]
    scalar = next((output for output in floats if output.ndim == 0), None)
    if scalar is not None:
        return scalar
    if not floats:
        raise ValueError("no output can be differentiated")
    return torch.stack([((output - weights_for(output)) ** 2).mean() for output in floats]).sum()


class AdamW:
    """torch's own AdamW in its functional form, because the class would import the compiler, which takes seconds."""

    def __init__(self, module: nn.Module, rate: float = 1e-3) -> None:
        self.rate = rate
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros(()) for _ in self.parameters]

    def step(self) -> None:
        from torch.optim.adamw import adamw

        used = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        grads = [grad for i in used if (grad := self.parameters[i].grad) is not None]
        chosen = [[values[i] for i in used] for values in (self.parameters, self.means, self.squares, self.steps)]
        with torch.no_grad():
            adamw(
                chosen[0], grads, chosen[1], chosen[2], [], chosen[3], foreach=False, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=self.rate, weight_decay=0.01, eps=1e-8, maximize=False,
            )  # fmt: skip


# --- watching -----------------------------------------------------------------------------------------------------


def watch(module: nn.Module, paths: list[str], found: list[Tensor]) -> list[list[Any]]:
    """Record input and output of each call of the submodules at `paths`, in order: [path, input, output]."""
    log: list[list[Any]] = []

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            ends = [args[0] if args else None, output]
            places: list[int | None] = []
            for end in ends:
                places.append(len(found) if isinstance(end, Tensor) else None)
                if isinstance(end, Tensor):
                    found.append(end.detach().clone())
            log.append([path, *places])

        return hook

    for path in paths:
        module.get_submodule(path).register_forward_hook(recorder(path))
    return log


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, in which functions that a module keeps speak of the copy too: `self.mlpf = lambda x: m.fc(x)`."""
    memo: dict[int, Any] = {}
    result = copy.deepcopy(module, memo)
    for child in result.modules():
        for name, value in list(vars(child).items()):
            if isinstance(value, types.FunctionType) and value.__closure__:
                vars(child)[name] = _closed_over(value, memo)
    return result


def _closed_over(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """The function, with what was copied in place of what it closed over."""
    cells = tuple(_cell(cell, memo) for cell in function.__closure__ or ())
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _cell(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    try:
        held = cell.cell_contents
    except ValueError:  # nothing is assigned yet
        return cell
    return types.CellType(memo[id(held)]) if isinstance(held, nn.Module) and id(held) in memo else cell
