"""How far two runs are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from migrator.prove.ledger import Tally
from migrator.prove.remote import Ran

Renaming = Callable[[str], str]


@dataclass(frozen=True)
class Scale:
    """What differences are relative to: the largest entry of a tensor, but no less than `floor` times that of all.

    Gradients that are zero by mathematics are noise in practice; the floor keeps noise from being compared with noise.
    """

    limit: float
    floor: float


def compare(
    tally: Tally,
    before: Ran,
    after: Ran,
    scale: Scale,
    where: str,
    renamed: Renaming | None = None,
    exact: Callable[[], Ran | None] = lambda: None,
) -> None:
    """Compare outputs, then gradients.

    `renamed` gives the new name of an old parameter. `exact` gives the results of the code before in higher precision;
    it is asked for where the limit alone would fail, to see how much of the difference that code's own rounding is.
    """
    problem = form_problem(before, after)
    if problem is not None:
        tally.fail(f"{problem} ({where})")
        return
    largest = max((_largest(tensor) for tensor in before.outputs), default=0.0)
    for number, (old, new) in enumerate(zip(before.outputs, after.outputs, strict=True)):
        name = "the output" if len(before.outputs) == 1 else f"output {number}"
        figure, floor, true = relative(old, new, scale.floor * largest), scale.floor * largest, None
        if figure > scale.limit and (reference := exact()) is not None:
            true = reference.outputs[number]
        tally.measured(figure, f"{name} ({where})", 0.0 if true is None else relative(true, old, floor))
    if tally.failure is None:
        compare_gradients(tally, before, after, scale, where, renamed or (lambda name: name), exact)


def compare_gradients(
    tally: Tally,
    before: Ran,
    after: Ran,
    scale: Scale,
    where: str,
    renamed: Renaming,
    exact: Callable[[], Ran | None] = lambda: None,
) -> None:
    """Each gradient that the old code gives; of tensors of another size, the part that both have."""
    largest = max((_largest(grad) for grad in before.grads.values() if grad is not None), default=0.0)
    for name, old in before.grads.items():
        new_name = renamed(name)
        if new_name not in after.grads:
            if old is not None and _largest(old) > 0:
                tally.fail(f"the parameter {name}, which had a gradient, is gone ({where})")
            continue
        new = after.grads[new_name]
        if (old is None) != (new is None):
            has, had = ("no", "a") if new is None else ("a", "no")
            if _largest(old if new is None else new) > 0:
                tally.fail(f"{new_name} has {has} gradient, and had {had} one ({where})")
            continue
        if old is not None and new is not None and _tells(old):
            overlap = _overlap(old, new)
            figure = relative(old[overlap], new[overlap], scale.floor * largest)
            reference = exact() if figure > scale.limit else None
            true = reference.grads.get(name) if reference is not None else None
            own = 0.0 if true is None else relative(true[overlap], old[overlap], scale.floor * largest)
            tally.measured(figure, f"the gradient of {new_name} ({where})", own)


def _tells(grad: Tensor) -> bool:
    """Whether a gradient has a finite number: it has none where a row without a visible key has made the sum NaN."""
    return not grad.numel() or bool(grad.isfinite().any())


def form_problem(before: Ran, after: Ran) -> str | None:
    """What is wrong with the form of the result: its type, shapes or dtypes."""
    if before.form != after.form:
        return f"it returns {spelled(after.form)} instead of {spelled(before.form)}"
    if len(before.outputs) != len(after.outputs):
        return f"it returns {len(after.outputs)} tensors instead of {len(before.outputs)}"
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if old.shape != new.shape:
            return f"its output has shape {tuple(new.shape)} instead of {tuple(old.shape)}"
        if old.dtype != new.dtype:
            return f"its output has dtype {new.dtype} instead of {old.dtype}"
    return None


def spelled(form: object) -> str:
    """The type of a result in words."""
    if isinstance(form, str) and form in ("tensor", "float"):
        return f"a {form}"
    if isinstance(form, dict):
        for key in ("type", "distribution", "dataclass", "object"):
            if key in form:
                return f"a {form[key]}"
    return f"{type(form).__name__} {str(form)[:60]}"


def relative(old: Tensor, new: Tensor, floor: float = 0.0) -> float:
    """max |old - new| / max |old|; the same infinities and NaNs count as equal, and a lone one as infinitely far."""
    if old.shape != new.shape:
        return float("inf")
    if not old.numel():
        return 0.0
    if not (old.is_floating_point() or old.is_complex()):
        return 0.0 if torch.equal(old, new) else float("inf")
    a, b = _wide(old), _wide(new)
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    odd_a, odd_b = a[~finite], b[~finite]
    if not torch.equal(odd_a.isnan(), odd_b.isnan()) or not torch.equal(odd_a[~odd_a.isnan()], odd_b[~odd_b.isnan()]):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    difference = (a[finite] - b[finite]).abs().max().item()
    return 0.0 if difference == 0 else difference / max(a[finite].abs().max().item(), floor, 1e-300)


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return torch.view_as_real(tensor).double()
    return tensor.double()


def _largest(tensor: Tensor | None) -> float:
    if tensor is None or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0.0
    value = _wide(tensor).abs().nan_to_num(0.0, 0.0, 0.0).max().item()
    return float(value)


def _overlap(old: Tensor, new: Tensor) -> tuple[slice, ...]:
    if old.ndim != new.ndim:
        return ()
    return tuple(slice(0, min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
