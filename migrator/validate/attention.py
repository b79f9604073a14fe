"""Attention: where each head looks, and whether positions reach it at all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from migrator.prove.remote import Run
from migrator.validate.result import SIDES, Attention, Head, Sensitivity, SideName, Verdict
from migrator.validate.subject import Budget, CannotMeasure, Subject

_BATCH, _LENGTH = 2, 64
_MOST = 24  # attentions that are looked at
_PICTURE = 48  # rows and columns of a heatmap
_NOWHERE, _SOMEWHERE = 1e-5, 1e-4  # distances from uniform that rounding makes, and that it does not make


def measure(subject: Subject, budget: Budget) -> Attention:
    """The weights of every attention of one call, at initial values."""
    length = max((n for n in subject.lengths if n <= _LENGTH), default=subject.lengths[0])
    run = subject.run(_BATCH, length)
    seen: dict[SideName, list[Tensor]] = {}
    for side in SIDES:
        budget.tick(side)
        seen[side] = _weights(subject, side, run)
        if not seen[side]:
            raise CannotMeasure(f"no attention of the {side} model was seen: neither a fused call nor a softmax")
    heads = tuple(head for side in SIDES for head in _heads(side, seen[side]))
    positions = tuple(_sensitivity(subject, side, run) for side in SIDES)
    unlike = len(seen["legacy"]) != len(seen["migrated"])
    note = f"{len(seen['legacy'])} attentions ran in the legacy model, {len(seen['migrated'])} in the migrated one"
    return Attention(length, heads, positions, tuple(_verdicts(heads, positions)), note if unlike else "")


def _weights(subject: Subject, side: SideName, run: Run) -> list[Tensor]:
    """Each as `(batch, heads, queries, keys)`; what folds heads into the batch has one head."""
    found = subject.ask(side, "attention_weights", run, most=_MOST).get()[1]
    return [one if one.ndim == 4 else one.reshape(-1, 1, *one.shape[-2:]) for one in found if one.ndim >= 3]


def _heads(side: SideName, layers: list[Tensor]) -> Iterator[Head]:
    for layer, weights in enumerate(layers):
        for head in range(weights.size(1)):
            yield _head(side, layer, head, weights[:, head].double())


def _head(side: SideName, layer: int, head: int, weights: Tensor) -> Head:
    """Of `(batch, queries, keys)`."""
    queries, keys = weights.shape[-2:]
    visible = (weights > 0).sum(-1).clamp(min=1)
    several = visible > 1
    entropy = -torch.special.xlogy(weights, weights).sum(-1)
    shares = entropy[several] / visible[several].double().log()
    # With fewer queries than keys, the last ones belong together.
    apart = (torch.arange(queries).unsqueeze(1) + (keys - queries) - torch.arange(keys)).abs()
    return Head(
        side, layer, head, entropy=float(shares.mean()) if shares.numel() else 0.0,
        distance=float((weights * apart).sum(-1).mean()), sink=float(weights[..., 0].mean()),
        weights=_picture(weights[0]),
    )  # fmt: skip


def _picture(weights: Tensor) -> tuple[tuple[float, ...], ...]:
    """Means over patches, at most `_PICTURE` in each direction; a row sums to one key's share times their number."""
    size = min(weights.size(0), _PICTURE), min(weights.size(1), _PICTURE)
    small = functional.adaptive_avg_pool2d(weights[None].float(), size)[0]
    return tuple(tuple(round(value, 4) for value in row) for row in small.tolist())


def _sensitivity(subject: Subject, side: SideName, run: Run) -> Sensitivity:
    """The mean distance of attention from uniform over what it sees, where all tokens are the same one."""
    same = run.with_tensors([_constant(tensor) for tensor in run.tensors])
    distances = []
    for weights in _weights(subject, side, same):
        visible = weights > 0
        uniform = visible.double() / visible.sum(-1, keepdim=True).clamp(min=1)
        distances.append(float((weights.double() - uniform).abs().sum(-1).mean()) / 2)
    return Sensitivity(side, sum(distances) / max(len(distances), 1))


def _constant(tensor: Tensor) -> Tensor:
    """The same at each position: the second axis of a batch of sequences."""
    plain = tensor.dtype != torch.bool and tensor.ndim >= 2 and tensor.size(1) > 1
    return tensor[:, :1].expand_as(tensor).clone() if plain else tensor


def _verdicts(heads: tuple[Head, ...], positions: tuple[Sensitivity, ...]) -> Iterator[Verdict]:
    before, after = (one.spread for one in positions)
    figures = f"{after:.1e} from uniform where all tokens are the same, {before:.1e} before"
    if before > _SOMEWHERE and after < _NOWHERE:
        yield Verdict("worse", f"no position reaches attention any more: {figures}")
    elif before < _NOWHERE and after > _SOMEWHERE:
        yield Verdict("better", f"positions reach attention now: {figures}")
    else:
        yield Verdict("same", f"positions reach attention as before: {figures}")
    for name, words in (("entropy", "entropy {1:.2f} of the largest, {0:.2f} before"),
                        ("distance", "distance {1:.1f} tokens, {0:.1f} before"),
                        ("sink", "share of the first token {1:.2f}, {0:.2f} before")):  # fmt: skip
        old, new = (_mean([getattr(head, name) for head in heads if head.side == side]) for side in SIDES)
        yield Verdict("note", f"at initial values, mean over heads: {words.format(old, new)}")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
