"""Softmax attention on torch's fused kernels, with the edge cases of the formula spelt out by hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import LayerCache


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    fill: float = -math.inf,
    past_kv: LayerCache | None = None,
) -> Tensor:
    """Weighted mean of the values, `dropout(softmax(scale * q k^T + bias)) v`, hidden keys left out.

    Runs on `scaled_dot_product_attention` in the form that lets its memory-saving kernels run. Nothing of the size
    `(query_len, key_len)` is stored, forward or backward, for causal and bidirectional self-attention, for any number
    of queries that see all keys, and with a mask of keys alone, `(..., 1, key_len)`, such as padding. It is stored
    where the mask or bias has that size; for causal queries that are fewer than the keys (a prompt that is fed to a
    cache in chunks); and with dropout on the CPU, where the kernel knows none.

    Args:
        q, k, v: queries, keys and values.
        mask: boolean, True where a query may attend; None for everywhere.
        bias: floating point, added to the scaled scores; `-inf` hides a key.
        causal: hide keys that come after the query. With `query_len != key_len` the last query stands at the last
            key (lower-right aligned), as in decoding with a cache.
        scale: factor on `q k^T`; None for `1 / sqrt(head_dim)`.
        dropout_p: probability of dropping a weight, applied as it is given: pass 0.0 in evaluation.
        fill: the score that a key hidden by `mask` or `causal` has in the formula this call stands for. It matters
            only in rows where all keys are hidden: `-inf` makes them NaN, as softmax does, and a finite fill such as
            `-1e9` makes them the mean of all values. With a cache, these are the values so far.
        past_kv: keys and values of the positions before these. `k` and `v` are added to it, and the queries attend to
            all that it then holds: `key_len` below is `past_kv.length` after the call.

    Shape:
        - q: `(..., num_heads, query_len, head_dim)`
        - k: `(..., num_heads, key_len, head_dim)`
        - v: `(..., num_heads, key_len, value_dim)`; `value_dim` may differ from `head_dim`
        - mask, bias: broadcastable to `(..., num_heads, query_len, key_len)`
        - output: `(..., num_heads, query_len, value_dim)`

    Parity: equal to `attention_weights(q, k, ...) @ v` up to rounding, gradients included. A row of NaN may
    send NaN into the gradients of all keys of its head, as into those of its values; the formula spares the keys.

    Raises:
        ValueError: if the shapes of `q`, `k` and `v` do not fit, `mask` is not boolean, `bias` is not floating point,
            or `fill` is above -1e3 (such keys would not be hidden); or as `LayerCache` does.

    Reference: Vaswani et al. 2017, arXiv 1706.03762; Dao et al. 2022, "FlashAttention", arXiv 2205.14135.
    """
    _check(q, k, mask, bias, fill)
    value_dim, scale = v.size(-1), q.size(-1) ** -0.5 if scale is None else scale
    q, k, v = _of_one_width(q, k, v)
    if past_kv is not None:  # all that can be refused has been
        k, v = past_kv.append(k, v)
    if q.size(-2) <= 1:  # the one last query sees every key
        causal = False
    y = _attend(q, k, v, mask, bias, causal, scale, dropout_p, fill)
    return y[..., :value_dim] if y.size(-1) != value_dim else y


def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    fill: float = -math.inf,
) -> Tensor:
    """The weights `softmax(scale * q k^T + bias)` themselves, for inspection; it stores all of them.

    Args:
        q, k, mask, bias, causal, scale, fill: as in `attention`.

    Shape:
        - q: `(..., num_heads, query_len, head_dim)`
        - k: `(..., num_heads, key_len, head_dim)`
        - output: `(..., num_heads, query_len, key_len)`; rows sum to 1, or are NaN where softmax has nothing to see

    Raises:
        ValueError: as `attention` does.

    Reference: Vaswani et al. 2017, section 3.2.1, arXiv 1706.03762.
    """
    _check(q, k, mask, bias, fill)
    scores = q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask, _representable(fill, scores.dtype))
    if causal:
        scores = scores.masked_fill(~_causal_mask(q, k), _representable(fill, scores.dtype))
    return scores.softmax(-1)


def _check(q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None, fill: float) -> None:
    if q.size(-1) != k.size(-1):
        raise ValueError(f"queries and keys need one width, got q {tuple(q.shape)} and k {tuple(k.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where a query may attend; got {mask.dtype}. Add floats as `bias`")
    if bias is not None and not bias.is_floating_point():
        raise ValueError(f"bias must be floating point, it is added to the scores; got {bias.dtype}")
    if not fill <= -1e3:
        raise ValueError(f"fill must be -1e3 or less to hide a key, got {fill}")


def _of_one_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernels want one width. Columns of zeros change no score, and their part of the output is cut off."""
    if k.size(-2) != v.size(-2):
        raise ValueError(f"one value per key is needed, got k {tuple(k.shape)} and v {tuple(v.shape)}")
    head_dim, value_dim = q.size(-1), v.size(-1)
    if head_dim < value_dim:
        return F.pad(q, (0, value_dim - head_dim)), F.pad(k, (0, value_dim - head_dim)), v
    return q, k, F.pad(v, (0, head_dim - value_dim)) if value_dim < head_dim else v


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    scale: float,
    dropout_p: float,
    fill: float,
) -> Tensor:
    """The kernels' way to say it. They know no mask beside `is_causal`, which is upper-left aligned."""
    query_len, key_len = q.size(-2), k.size(-2)
    if mask is None and bias is None:
        if not causal or query_len == key_len:
            return _fused(q, k, v, None, causal, scale, dropout_p)
        if query_len < key_len:  # no row is empty
            return _fused(q, k, v, _causal_mask(q, k), False, scale, dropout_p)
    if causal and mask is not None and bias is None and not dropout_p and q.shape == k.shape and _of_keys(mask):
        return _causal_without(~mask, q, k, v, scale, fill)
    if causal:
        mask = _causal_mask(q, k) if mask is None else mask & _causal_mask(q, k)
    q, added = _mask_to_bias(q, mask, fill) if bias is None and mask is not None else _merge(q, mask, bias, fill)
    return _fused(q, k, v, added, False, scale, dropout_p)


def _of_keys(mask: Tensor) -> bool:
    """Whether `mask` hides the same keys from all queries, as a padding mask does."""
    return mask.ndim < 2 or mask.size(-2) == 1


def _causal_without(hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, fill: float) -> Tensor:
    """Causal self-attention in which nobody sees the `hidden` keys, `(..., 1, seq_len)`, in memory linear in seq_len.

    One more channel, 1 in the queries and a huge negative number in the hidden keys, does what a mask would do.
    """
    hidden = hidden.expand(1, -1) if hidden.ndim < 2 else hidden
    penalty = torch.zeros_like(hidden, dtype=k.dtype).masked_fill_(hidden, _representable(-1e30, k.dtype)).mT
    k = torch.cat((k, penalty.expand(*k.shape[:-1], 1)), -1)
    q = torch.cat((q * scale, q.new_ones(()).expand(*q.shape[:-1], 1)), -1)
    y = _fused(q, k, F.pad(v, (0, 1)), None, True, 1.0, 0.0)[..., :-1]
    empty = hidden.logical_not().cumsum(-1).eq(0).mT  # (..., T, 1)
    mean = v.mean(-2, keepdim=True)  # of equal scores: an empty row has nothing but `fill`
    if math.isinf(fill):
        mean = mean * torch.where(empty.any(-2, keepdim=True), math.nan, 1.0).to(v.dtype)
    return torch.where(empty, mean, y)


def _representable(fill: float, dtype: torch.dtype) -> float:
    return fill if math.isinf(fill) else max(fill, torch.finfo(dtype).min)


def _causal_mask(q: Tensor, k: Tensor) -> Tensor:
    query_len, key_len = q.size(-2), k.size(-2)
    visible = torch.ones(query_len, key_len, dtype=torch.bool, device=q.device)
    return visible.tril_(key_len - query_len)  # (T, S)


def _mask_to_bias(q: Tensor, mask: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """`mask` as something to add to the scores, and `q` such that rows without a visible key come out right."""
    empty = ~mask.any(-1, keepdim=True)  # (..., T, 1)
    hidden = torch.full_like(empty, -math.inf, dtype=q.dtype)
    if math.isinf(fill):
        return q, torch.where(mask, 0.0, hidden.masked_fill_(empty, math.nan))
    # All scores of such a row were `fill`: equal, and without gradient to q and k. A query of zeros gives just that.
    return q.masked_fill(empty, 0.0), torch.where(mask, 0.0, hidden.masked_fill_(empty, 0.0))


def _merge(q: Tensor, mask: Tensor | None, bias: Tensor | None, fill: float) -> tuple[Tensor, Tensor]:
    """The same for a bias, in which `-inf` hides keys too, and a mask if there is one."""
    assert bias is not None
    added = bias.to(q.dtype)
    if mask is not None:
        added = added.masked_fill(~mask, -math.inf)
    empty = added.detach().amax(-1, keepdim=True) == -math.inf
    if mask is not None and not math.isinf(fill):
        added = added.masked_fill(empty & ~mask, 0.0)
        q = q.masked_fill(empty, 0.0)
        empty = empty & mask.all(-1, keepdim=True)
    # The kernels give 0 where softmax gives NaN.
    return q, added + torch.zeros_like(empty, dtype=q.dtype).masked_fill_(empty, math.nan)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, is_causal: bool, scale: float, dropout_p: float
) -> Tensor:
    missing = max(0, 4 - q.ndim)
    if missing:  # the kernels take no fewer than four axes
        lead = (None,) * missing
        q, k, v = q[lead], k[lead], v[lead]
    if added is not None and added.ndim < 4:
        added = added[(None,) * (4 - added.ndim)]
    y = F.scaled_dot_product_attention(q, k, v, added, dropout_p, is_causal, scale=scale)
    return y[(0,) * missing] if missing else y
