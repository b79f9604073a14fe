"""Runs a text before and after its migration side by side, in float64, with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tests.cases import load

TOLERANCE = 1e-10


@contextmanager
def double_precision() -> Iterator[None]:
    """float64 everywhere, and one thread: the tensors are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


class Pair:
    """The legacy and the migrated version of a module, built from the same seed and then given the same weights."""

    def __init__(self, before: str, after: str) -> None:
        self.texts = load(before, "before"), load(after, "after")

    def build(self, name: str, arguments: Any, seed: int = 0) -> list[Any]:
        """One object of each text: instances of the class `name`, or the function `name` itself."""
        if arguments is None:
            return [getattr(text, name) for text in self.texts]
        built = []
        for text in self.texts:
            torch.manual_seed(seed)
            positional, named = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
            built.append(getattr(text, name)(*positional, **named))
        return built


def assert_same_start(legacy: nn.Module, migrated: nn.Module) -> None:
    """The same seed gives the same initial state, entry by entry and in the same order."""
    one, other = legacy.state_dict(), migrated.state_dict()
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


def randomise(module: nn.Module, seed: int = 1) -> None:
    """Weights without any symmetry: no norm of ones, no bias of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def run(module: Any, inputs: tuple[Any, ...], seed: int = 2) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs, and gradients of all inputs and parameters of a random projection of the outputs."""
    inputs = tuple(_leaf(value) for value in inputs)
    torch.manual_seed(seed)
    outputs = list(tensors(module(*inputs)))
    leaves = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]
    leaves += [p for p in module.parameters() if p.requires_grad] if isinstance(module, nn.Module) else []
    # Not randn_like, which draws in the order of the memory: outputs may be equal and lie differently.
    total = sum(((out * torch.randn(out.shape)).sum() for out in outputs), torch.zeros(()))
    wanted = bool(leaves) and total.requires_grad
    gradients = torch.autograd.grad(total, leaves, allow_unused=True) if wanted else ()
    return outputs, list(gradients)


def assert_equal_runs(legacy: Any, migrated: Any, inputs: tuple[Any, ...]) -> None:
    """Outputs and all gradients agree; where the formula gives NaN, so does the new one."""
    one, other = run(legacy, inputs), run(migrated, inputs)
    assert len(one[0]) == len(other[0])
    for expected, found in zip(one[0], other[0], strict=True):
        assert_close(expected, found)
    if any(bool(out.isnan().any()) for out in one[0]):
        return
    for expected, found in zip(one[1], other[1], strict=True):
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert_close(expected, found)


def assert_close(expected: Tensor, found: Tensor) -> None:
    assert expected.shape == found.shape and expected.dtype == found.dtype
    scale = max(1.0, float(expected.detach().nan_to_num().abs().max()) if expected.numel() else 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def assert_exact(before: str, after: str, name: str, arguments: Any, inputs: tuple[Any, ...]) -> None:
    """The whole comparison of one probe, in eval mode and, where no dropout is active, in training mode."""
    legacy, migrated = Pair(before, after).build(name, arguments)
    if not isinstance(legacy, nn.Module):
        assert_equal_runs(legacy, migrated, inputs)
        return
    assert_same_start(legacy, migrated)
    randomise(legacy)
    migrated.load_state_dict(legacy.state_dict(), strict=True)
    for module in (legacy, migrated):
        module.eval()
    assert_equal_runs(deepcopy(legacy), deepcopy(migrated), inputs)
    if drops(legacy.train(), inputs):
        assert drops(migrated.train(), inputs), "dropout got lost"
    else:
        assert not drops(migrated.train(), inputs), "dropout where there was none"
        assert_equal_runs(legacy, migrated, inputs)


def drops(module: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether two runs in training mode differ."""
    one, other = (run(deepcopy(module), inputs, seed)[0] for seed in (3, 4))
    return any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True))


def tensors(value: Any) -> Iterator[Tensor]:
    """All floating-point tensors of a nested result, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from tensors(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.clone().requires_grad_() if value.is_floating_point() else value.clone()
