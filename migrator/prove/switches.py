"""What is switched in a box so that only one change is left to compare: dropout, and the new parts of a stage.

A part can be neutral (it does nothing) or a reference (the old text computes it, by a formula of our own). Neither ever
edits the text that is proved: the runtime is replaced before the text is executed, or an instance after it was built.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

Part = dict[str, Any]
_state: dict[str, Any] = {"dropout": True, "isolated_draws": False, "calls": 0, "inside": False}


# --- dropout ------------------------------------------------------------------------------------------------------


def install() -> None:
    """Put a switch before each function of torch that drops values or draws initial ones, before any user code runs."""
    names = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    for holder, name in [(torch, "dropout"), *((functional, name) for name in names)]:
        setattr(holder, name, _switched(getattr(holder, name), 1, "p"))
    attend = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _switched(attend, 4, "dropout_p")
    nn.init.normal_ = _fork_of(nn.init.normal_)


def _switched(function: Any, position: int, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _state["dropout"]:
            if len(args) > position:
                args = (*args[:position], 0.0, *args[position + 1 :])
            else:
                kwargs = {**kwargs, name: 0.0}
        return function(*args, **kwargs)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def _fork_of(normal_: Any) -> Any:
    """`nn.init.normal_` that can leave the random stream where it was, so that one more call disturbs nothing else."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not _state["isolated_draws"]:
            return normal_(*args, **kwargs)
        state = torch.get_rng_state()
        try:
            return normal_(*args, **kwargs)
        finally:
            torch.set_rng_state(state)

    call.__name__, call.__doc__ = normal_.__name__, normal_.__doc__
    return call


@contextmanager
def dropout_set(active: bool) -> Iterator[None]:
    _state["dropout"], before = active, _state["dropout"]
    try:
        yield
    finally:
        _state["dropout"] = before


def isolate_draws() -> None:
    _state["isolated_draws"] = True


# --- the runtime, replaced before the text is executed -------------------------------------------------------------


def replace_runtime(neutral: list[Part], reference: list[Part]) -> None:
    """Replace what the text will import from `runtime`, as far as the parts need it."""
    kinds = {part["kind"] for part in neutral}
    if "SwiGLUPart" in kinds:
        _replace("swiglu", lambda gate, up: gate)
    if any(part["kind"] in ("RotaryPart", "AlibiPart") for part in reference):
        import runtime

        _replace("attention", _with_reference_positions(runtime.attention, "bias", reference))
        fused = functional.scaled_dot_product_attention
        functional.scaled_dot_product_attention = _with_reference_positions(fused, "attn_mask", reference)


def reference_calls() -> int:
    """How often the reference positions were applied."""
    return int(_state["calls"])


def _replace(name: str, new: Any) -> None:
    import runtime

    old = getattr(runtime, name)
    for key, module in list(sys.modules.items()):
        if (key == "runtime" or key.startswith("runtime.")) and getattr(module, name, None) is old:
            setattr(module, name, new)


def _with_reference_positions(attention: Any, bias_name: str, parts: list[Part]) -> Callable[..., Tensor]:
    """An attention function that adds reference positions, unless another such function has called it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        part = None if _state["inside"] else next((part for part in parts if _called_by(part["owner"])), None)
        if part is not None:
            _state["calls"] += 1
        if part is not None and part["kind"] == "RotaryPart":
            q, k = (rotated(x, part["base"], part["layout"]) for x in (q, k))
        elif part is not None:
            bias = alibi_bias(q.shape[-3], q.shape[-2], k.shape[-2]).to(q.dtype)
            given = options.get(bias_name)
            options[bias_name] = bias if given is None else given + bias
        _state["inside"], before = True, _state["inside"]
        try:
            result: Tensor = attention(q, k, v, *args, **options)
        finally:
            _state["inside"] = before
        return result

    return attend


def _called_by(owner: str) -> bool:
    """Whether a method of the class `owner` is what called the function that called this."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        this = frame.f_locals.get("self")
        if isinstance(this, nn.Module) and any(cls.__name__ == owner for cls in type(this).__mro__):
            return True
        if isinstance(this, nn.Module) and frame.f_code.co_name == "forward":
            return False
        frame = frame.f_back
    return False


# --- references ---------------------------------------------------------------------------------------------------


def rotated(x: Tensor, base: float, layout: str) -> Tensor:
    """RoFormer, equation 34: each pair of coordinates turns by position * base**(-2 i / D)."""
    length, width = x.shape[-2], x.shape[-1]
    frequencies = torch.tensor([base ** (-2 * pair / width) for pair in range(width // 2)], dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64).outer(frequencies)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    half = layout == "half"
    first, second = (x[..., : width // 2], x[..., width // 2 :]) if half else (x[..., 0::2], x[..., 1::2])
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    return torch.cat(turned, -1) if half else torch.stack(turned, -1).flatten(-2)


def alibi_bias(num_heads: int, queries: int, keys: int) -> Tensor:
    """Press et al., section 3: head h adds -slope_h * distance, the last query standing at the last key."""
    rows = torch.arange(queries, dtype=torch.float64) + (keys - queries)
    distance = (rows[:, None] - torch.arange(keys, dtype=torch.float64)[None, :]).abs()
    slopes = torch.tensor(alibi_slopes(num_heads), dtype=torch.float64)
    return -slopes[:, None, None] * distance


def alibi_slopes(num_heads: int) -> list[float]:
    """A geometric sequence for powers of two; between them, every second slope of the next power fills up."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * power, 2)]
    return slopes + between[: num_heads - power]


def reference_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None, axes: int, centred: bool
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last `axes` axes; an RMS norm leaves out the mean."""
    over = tuple(range(-axes, 0))
    x = x - x.mean(over, keepdim=True) if centred else x
    result = x / torch.sqrt((x * x).mean(over, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


# --- instances, changed after they were built ----------------------------------------------------------------------


def neutralise(root: nn.Module, parts: list[Part]) -> int:
    """Make the new part of each instance of its owner do nothing; returns how many there were."""
    count = 0
    for part in parts:
        neutral = _NEUTRAL.get(part["kind"])
        if neutral is None:
            continue
        for module in owners(root, part["owner"]):
            module.get_submodule(part["attribute"]).forward = neutral
            count += 1
    return count


def owners(root: nn.Module, name: str) -> list[nn.Module]:
    return [module for module in root.modules() if any(cls.__name__ == name for cls in type(module).__mro__)]


def _identity(x: Tensor) -> Tensor:
    return x


def _no_rotation(q: Tensor, k: Tensor, offset: int = 0, past_kv: object = None) -> tuple[Tensor, Tensor]:
    return q, k


def _no_bias(q: Tensor, k: Tensor, offset: int = 0, past_kv: object = None) -> Tensor:
    return q.new_zeros(q.shape[-3], q.shape[-2], k.shape[-2])


_NEUTRAL: dict[str, Callable[..., Any]] = {
    "NormPart": _identity,
    "MovedNormPart": _identity,
    "RotaryPart": _no_rotation,
    "AlibiPart": _no_bias,
}


_ALLOCATING = frozenset({"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided"})


class MemorySet(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Memory that a constructor leaves as it found it, as `nn.Parameter(torch.empty(n))` does, is zero in every run."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.zero_() if func._schema.name in _ALLOCATING else made
