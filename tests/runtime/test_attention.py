"""Attention against the eager formula in float64: values, gradients, and the form the kernels get."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime import attention, attention_weights

INF = float("inf")


def formula(q, k, v, mask=None, bias=None, causal=False, scale=None, fill=-INF) -> tuple[Tensor, Tensor]:
    """Output and weights, the way that legacy files write it."""
    scores = torch.einsum("...td,...sd->...ts", q, k)
    scores = scores / math.sqrt(q.size(-1)) if scale is None else scores * scale
    if bias is not None:
        scores = scores + bias
    if causal:
        i, j = torch.arange(q.size(-2))[:, None], torch.arange(k.size(-2))
        scores = scores.masked_fill(j > i + k.size(-2) - q.size(-2), fill)
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), fill)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("...ts,...sd->...td", weights, v), weights


def inputs(batch=2, heads=3, query_len=5, key_len=5, dim=4, value_dim=4, dtype=torch.float64) -> list[Tensor]:
    shapes = [(query_len, dim), (key_len, dim), (key_len, value_dim)]
    return [torch.randn(batch, heads, *shape, dtype=dtype).requires_grad_() for shape in shapes]


def agree(q, k, v, bias=None, **options) -> None:
    """Output, weights, and the gradients of q, k, v and bias are those of the formula."""
    leaves = [x for x in (q, k, v, bias) if x is not None and x.requires_grad]
    expected, weights = formula(q, k, v, bias=bias, **options)
    got = attention(q, k, v, bias=bias, **options)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(attention_weights(q, k, bias=bias, **options), weights, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(expected)
    for mine, reference in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def ragged_mask(batch: int, query_len: int, key_len: int) -> Tensor:
    """Neither full nor triangular, different for each batch element; no row is empty."""
    mask = torch.rand(batch, 1, query_len, key_len) < 0.6
    return mask | F.one_hot(torch.randint(key_len, (batch, 1, query_len)), key_len).bool()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 7, 13])
@pytest.mark.parametrize(("dim", "value_dim"), [(4, 4), (7, 7), (3, 5), (8, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(batch: int, length: int, dim: int, value_dim: int, causal: bool) -> None:
    agree(*inputs(batch, 3, length, length, dim, value_dim), causal=causal)


@pytest.mark.parametrize(("query_len", "key_len"), [(1, 9), (3, 9), (8, 9), (2, 3)])
@pytest.mark.parametrize("value_dim", [4, 6])
@pytest.mark.parametrize("causal", [False, True])
def test_fewer_queries_than_keys_are_the_last_ones(query_len: int, key_len: int, value_dim: int, causal: bool) -> None:
    agree(*inputs(2, 2, query_len, key_len, 4, value_dim), causal=causal)


def test_causal_rows_equal_the_rows_of_the_whole_sequence() -> None:
    q, k, v = inputs(2, 3, 11, 11)
    whole = attention(q, k, v, causal=True)
    for first in (3, 7, 10):
        torch.testing.assert_close(attention(q[..., first:, :], k, v, causal=True), whole[..., first:, :])
    torch.testing.assert_close(attention(q[..., :4, :], k[..., :4, :], v[..., :4, :], causal=True), whole[..., :4, :])


def test_heads_need_not_divide_the_width() -> None:
    """As in the legacy class: 4 heads on 30 channels, queries 7 wide and values 5."""
    x, w_q, w_k = torch.randn(2, 6, 30), torch.randn(4, 7, 30), torch.randn(4, 7, 30)
    w_v = torch.randn(4, 5, 30)
    q, k, v = (torch.einsum("ntc,hdc->nhtd", x, w).double() for w in (w_q, w_k, w_v))
    expected = torch.stack([torch.softmax(q[:, h] @ k[:, h].mT / 7**0.5, -1) @ v[:, h] for h in range(4)], 1)
    torch.testing.assert_close(attention(q, k, v), expected, rtol=1e-10, atol=1e-12)
    assert attention(q, k, v).transpose(1, 2).flatten(2).shape == (2, 6, 20)


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-3])
@pytest.mark.parametrize("value_dim", [4, 6])
def test_scale(scale: float, value_dim: int) -> None:
    agree(*inputs(value_dim=value_dim), scale=scale)
    agree(*inputs(value_dim=value_dim), scale=scale, causal=True)


MASK_SHAPES = [(3, 1, 5, 7), (3, 1, 1, 7), (1, 1, 5, 7), (5, 7), (1, 7), (3, 2, 5, 7), (2, 5, 7), (7,)]


@pytest.mark.parametrize("shape", MASK_SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fill", [-INF, -1e9])
def test_boolean_mask(shape: tuple[int, ...], causal: bool, fill: float) -> None:
    mask = torch.rand(shape) < 0.5
    mask[..., 0] = True
    agree(*inputs(3, 2, 5, 7), mask=mask, causal=causal, fill=fill)


@pytest.mark.parametrize("shape", MASK_SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_bias_with_gradient(shape: tuple[int, ...], causal: bool, masked: bool) -> None:
    bias = torch.randn(shape, dtype=torch.float64).requires_grad_()
    mask = ragged_mask(3, 5, 7) if masked else None
    if mask is not None:
        mask[..., 0] = True  # visible to each query under the causal mask too
    agree(*inputs(3, 2, 5, 7), bias=bias, mask=mask, causal=causal)


def test_bias_of_minus_infinity_hides() -> None:
    mask = ragged_mask(2, 5, 5)
    q, k, v = inputs()
    bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -INF)
    torch.testing.assert_close(attention(q, k, v, bias=bias), attention(q, k, v, mask=mask))


def test_mask_true_means_visible() -> None:
    q, k, v = inputs(1, 1, 2, 3)
    only_last = torch.tensor([False, False, True])
    torch.testing.assert_close(attention(q, k, v, mask=only_last), v[..., 2:, :].expand(1, 1, 2, 4))


# --- rows without a visible key -------------------------------------------------------------------------------------


def mask_with_empty_rows(batch: int = 2, length: int = 5) -> Tensor:
    mask = ragged_mask(batch, length, length)
    mask[0, :, 1] = False
    mask[-1, :, 3:] = False
    return mask


@pytest.mark.parametrize("fill", [-1e9, -1e4, -1e30, torch.finfo(torch.float64).min])
@pytest.mark.parametrize("value_dim", [4, 6])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_finite_fill_gives_the_mean_and_its_gradients(fill, value_dim: int, with_bias: bool, causal: bool) -> None:
    q, k, v = inputs(value_dim=value_dim)
    mask, bias = mask_with_empty_rows(), None
    if with_bias:
        bias = torch.randn(3, 5, 5, dtype=torch.float64).requires_grad_()
    agree(q, k, v, mask=mask, bias=bias, fill=fill, causal=causal)
    row = attention(q, k, v, mask=mask, bias=bias, fill=fill, causal=causal)[0, :, 1]
    torch.testing.assert_close(row, v[0].mean(-2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_fill_in_low_precision(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype=dtype)
    y = attention(q, k, v, mask=mask_with_empty_rows(), fill=-1e9)
    torch.testing.assert_close(y[0, :, 1].double(), v[0].double().mean(-2), rtol=1e-2, atol=1e-2)
    assert y.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value_dim", [4, 6])
@pytest.mark.parametrize("form", ["mask", "bias", "both"])
def test_infinite_fill_gives_nan_in_the_rows_where_softmax_does(dtype, value_dim: int, form: str) -> None:
    q, k, v = inputs(value_dim=value_dim, dtype=dtype)
    mask, bias = mask_with_empty_rows(), None
    if form != "mask":
        bias = torch.randn(2, 1, 5, 5).to(dtype).masked_fill(~mask, -INF)
        mask = ragged_mask(2, 5, 5) | (bias == -INF) if form == "both" else None
    expected, _ = formula(q, k, v, mask=mask, bias=bias)
    assert expected.isnan().any() and not expected.isnan().all()
    got = attention(q, k, v, mask=mask, bias=bias)
    assert torch.equal(got.isnan(), expected.isnan())
    tolerance = 1e-10 if dtype == torch.float64 else 3e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_infinite_fill_sends_nan_into_the_gradient_of_the_values() -> None:
    grads = []
    for compute in (attention, lambda *args, **options: formula(*args, **options)[0]):
        torch.manual_seed(0)
        q, k, v = inputs()
        mask = torch.ones(5, 5, dtype=torch.bool)
        mask[4] = False
        compute(q, k, v, mask=mask).sum().backward()
        grads.append(v.grad)
    assert grads[0].isnan().all() and grads[1].isnan().all()


def test_more_queries_than_keys_leaves_the_first_rows_empty() -> None:
    q, k, v = inputs(2, 2, 5, 3)
    got = attention(q, k, v, causal=True)
    assert got[..., :2, :].isnan().all()
    torch.testing.assert_close(got[..., 2:, :], formula(q, k, v, causal=True)[0][..., 2:, :])
    agree(*inputs(2, 2, 5, 3), causal=True, fill=-1e9)


def test_bias_row_of_minus_infinity_is_nan_even_under_a_finite_fill() -> None:
    """No score of that row was replaced by `fill`, so softmax sees minus infinity alone."""
    q, k, v = inputs(1, 1, 3, 3)
    bias, mask = torch.zeros(3, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.bool)
    bias[1], mask[2, 0] = -INF, False
    expected, got = (
        formula(q, k, v, mask=mask, bias=bias, fill=-1e9)[0],
        attention(q, k, v, mask=mask, bias=bias, fill=-1e9),
    )
    assert got[..., 1, :].isnan().all()
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_hidden_keys_take_the_weight_that_bias_leaves() -> None:
    """In one row, some keys hidden by the mask and the rest by the bias: the finite fill wins."""
    q, k, v = inputs(1, 1, 2, 4)
    bias, mask = torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool)
    bias[0, :2], mask[0, 2:] = -INF, False
    agree(q, k, v, mask=mask, bias=bias, fill=-1e9)


@pytest.mark.parametrize("shape", [(3, 1, 1, 7), (3, 2, 1, 7), (1, 1, 1, 7), (2, 1, 7), (1, 7), (7,)])
@pytest.mark.parametrize(("dim", "value_dim"), [(4, 4), (4, 6), (6, 3)])
@pytest.mark.parametrize("fill", [-INF, -1e9])
@pytest.mark.parametrize("scale", [None, -0.3])
def test_causal_with_a_mask_of_keys(monkeypatch, shape, dim: int, value_dim: int, fill: float, scale) -> None:
    mask = torch.rand(shape) < 0.5
    mask[..., 0] = True
    calls = spy(monkeypatch)
    agree(*inputs(3, 2, 7, 7, dim, value_dim), mask=mask, causal=True, fill=fill, scale=scale)
    assert [(call["mask"], call["is_causal"]) for call in calls] == [(None, True)]


@pytest.mark.parametrize("value_dim", [4, 6])
@pytest.mark.parametrize("lead", [(2,), (3, 2), (5, 3, 2)])
def test_causal_with_hidden_first_keys_and_a_finite_fill(lead: tuple[int, ...], value_dim: int) -> None:
    """The first rows see nothing: they are the mean of all values, also of later ones, as `fill` everywhere gives."""
    shapes = [(*lead, 6, 4), (*lead, 6, 4), (*lead, 6, value_dim)]
    q, k, v = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    mask = torch.tensor([[False, False, True, True, False, True]])
    agree(q, k, v, mask=mask, causal=True, fill=-1e9)
    row = attention(q, k, v, mask=mask, causal=True, fill=-1e9)[..., 1, :]
    torch.testing.assert_close(row, v.mean(-2), rtol=1e-12, atol=1e-12)


def test_causal_with_hidden_first_keys_and_an_infinite_fill() -> None:
    grads, outputs = [], []
    for compute in (attention, lambda *args, **options: formula(*args, **options)[0]):
        torch.manual_seed(0)
        q, k, v = inputs(2, 3)
        mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
        mask[0, ..., 0] = False
        outputs.append(compute(q, k, v, mask=mask, causal=True))
        outputs[-1].sum().backward()
        grads.append(v.grad)
    assert outputs[1][0, :, 0].isnan().all() and outputs[1].isnan().sum() == 3 * 4
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12, equal_nan=True)  # NaN in the one batch element alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_causal_with_a_mask_of_keys_in_low_precision(dtype: torch.dtype) -> None:
    q, k, v = (x.detach() for x in inputs(2, 3, 17, 17, 8, 8, dtype))
    mask = torch.rand(2, 1, 1, 17) < 0.5
    mask[0, ..., :2], mask[1, ..., 0] = False, True
    expected = formula(q.double(), k.double(), v.double(), mask=mask, causal=True, fill=-1e9)[0]
    got = attention(q, k, v, mask=mask, causal=True, fill=-1e9)
    tolerance = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


# --- dtypes, layouts, dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("form", ["plain", "causal", "mask", "bias"])
def test_low_precision(dtype: torch.dtype, tolerance: float, form: str) -> None:
    q, k, v = (x.detach() for x in inputs(2, 3, 17, 17, 8, 8, dtype))
    options = {
        "plain": {},
        "causal": {"causal": True},
        "mask": {"mask": ragged_mask(2, 17, 17)},
        "bias": {"bias": torch.randn(3, 17, 17, dtype=torch.float32), "causal": True},
    }[form]
    expected, weights = formula(q.double(), k.double(), v.double(), **options)
    got, got_weights = attention(q, k, v, **options), attention_weights(q, k, **options)
    assert got.dtype == got_weights.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got_weights.double(), weights, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize(("causal", "value_dim"), list(itertools.product([False, True], [4, 5])))
def test_any_number_of_leading_axes(lead: tuple[int, ...], causal: bool, value_dim: int) -> None:
    shapes = [(*lead, 5, 4), (*lead, 5, 4), (*lead, 5, value_dim)]
    q, k, v = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    agree(q, k, v, causal=causal)
    agree(q, k, v, causal=causal, mask=torch.rand(*lead, 5, 5) < 2 / 3, fill=-1e9)


def test_strided_views_and_one_dimensional_batches_of_masks() -> None:
    x = torch.randn(2, 5, 3, 3, 4, dtype=torch.float64)
    q, k, v = (y.requires_grad_() for y in x.permute(2, 0, 3, 1, 4).unbind())
    agree(q, k, v, causal=True)


def test_dropout_is_applied_as_given_and_only_then() -> None:
    q, k, v = inputs(1, 2, 40, 40)
    assert torch.equal(attention(q, k, v, dropout_p=0.0), attention(q, k, v))
    ones = torch.ones_like(v)
    torch.testing.assert_close(attention(q, k, ones), ones)
    torch.manual_seed(0)
    draws = torch.stack([attention(q, k, ones, dropout_p=0.25)[..., 0] for _ in range(200)])
    assert draws.std(0).min() > 0.01
    assert draws.mean().item() == pytest.approx(1.0, abs=0.01)  # kept weights are scaled up
    assert attention(q, k, v, dropout_p=1.0, causal=True).count_nonzero() == 0


def test_dropout_reaches_the_kernel_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(1, 2, 5, 5)
    calls = spy(monkeypatch)
    for options in ({}, {"causal": True}, {"mask": torch.ones(5, 5).bool()}, {"bias": torch.zeros(5, 5)}):
        attention(q, k, v, dropout_p=0.125, **options)
    assert [call["dropout_p"] for call in calls] == [0.125] * 4


# --- the form that lets memory-saving kernels run -------------------------------------------------------------------


def spy(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    calls: list[dict] = []
    real = F.scaled_dot_product_attention

    def record(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        calls.append({"q": query, "mask": attn_mask, "is_causal": is_causal, "dropout_p": dropout_p, "v": value})
        return real(query, key, value, attn_mask, dropout_p, is_causal, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    return calls


@pytest.mark.parametrize(
    ("query_len", "key_len", "causal", "is_causal"),
    [(6, 6, True, True), (6, 6, False, False), (1, 6, True, False), (3, 6, False, False), (1, 1, True, False)],
)
def test_no_mask_is_stored_where_none_is_needed(monkeypatch, query_len, key_len, causal, is_causal) -> None:
    q, k, v = inputs(1, 2, query_len, key_len)
    calls = spy(monkeypatch)
    attention(q, k, v, causal=causal)
    assert [(call["mask"], call["is_causal"]) for call in calls] == [(None, is_causal)]


def test_mask_and_is_causal_are_never_given_together(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(1, 2, 3, 6)
    calls = spy(monkeypatch)
    for options in ({}, {"mask": torch.ones(3, 6).bool()}, {"bias": torch.zeros(3, 6)}):
        attention(q, k, v, causal=True, **options)
    assert all(call["mask"] is not None and not call["is_causal"] for call in calls) and len(calls) == 3


@pytest.mark.parametrize(("dim", "value_dim"), [(4, 4), (4, 6), (6, 4)])
def test_kernel_gets_one_width_and_four_axes(monkeypatch, dim: int, value_dim: int) -> None:
    q, k, v = inputs(2, 3, 5, 5, dim, value_dim)
    calls = spy(monkeypatch)
    attention(q[0], k[0], v[0], causal=True)
    attention(q, k, v, mask=torch.ones(3, 5, 5).bool())
    assert all(call["q"].size(-1) == call["v"].size(-1) == max(dim, value_dim) for call in calls)
    assert all(call["q"].ndim == 4 for call in calls) and calls[1]["mask"].ndim == 4


def largest_allocation(run: Callable[[], object]) -> int:
    """In bytes, as the allocator saw it: also what an operator gives back before it ends."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    return max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


PADDING = torch.arange(2048)[None] < torch.tensor([[2048], [1500]])


@pytest.mark.parametrize("value_dim", [8, 12])
@pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"mask": PADDING[:, None, None]}, {"mask": PADDING[:, None, None], "causal": True}],
    ids=["plain", "causal", "padding", "causal and padding"],
)
def test_nothing_of_the_size_of_the_scores_is_allocated(options: dict, value_dim: int) -> None:
    """Forward and backward of a long sequence stay below one boolean matrix of its scores in every allocation."""
    q, k, v = inputs(2, 1, 2048, 2048, 8, value_dim, torch.float32)
    assert 0 < largest_allocation(lambda: attention(q, k, v, fill=-1e9, **options).sum().backward()) < 2048 * 2048 / 2


def test_where_scores_are_stored_it_is_seen() -> None:
    q, k, v = inputs(2, 1, 512, 512, 8, 8, torch.float32)
    assert largest_allocation(lambda: attention_weights(q, k)) >= 2 * 512 * 512 * 4
    mask = torch.ones(512, 512, dtype=torch.bool)
    assert largest_allocation(lambda: attention(q, k, v, mask=mask)) >= 512 * 512 * 4


# --- callers' mistakes ----------------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    q, k, v = (x.detach() for x in inputs(1, 2, 3, 4))
    with pytest.raises(ValueError, match="mask must be boolean.*float32"):
        attention(q, k, v, mask=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="bias must be floating point.*torch.bool"):
        attention(q, k, v, bias=torch.ones(3, 4).bool())
    with pytest.raises(ValueError, match="fill must be -1e3 or less to hide a key, got 0"):
        attention(q, k, v, mask=torch.ones(3, 4).bool(), fill=0.0)
    with pytest.raises(ValueError, match="got nan"):
        attention_weights(q, k, fill=math.nan)
    with pytest.raises(ValueError, match=r"one width, got q \(1, 2, 3, 4\) and k \(1, 2, 4, 3\)"):
        attention(q, k[..., :3], v)
    with pytest.raises(ValueError, match=r"one value per key.*\(1, 2, 4, 4\) and v \(1, 2, 3, 4\)"):
        attention(q, k, v[..., :3, :])
