"""Rotary embedding: against complex rotation in float64, and the property it exists for."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from runtime import RotaryEmbedding

LAYOUTS = ["interleaved", "half"]


def rotated(x: Tensor, base: float, layout: str, offset: int = 0) -> Tensor:
    """Rotation of pairs as multiplication of complex numbers, in float64."""
    x, dim = x.double(), x.size(-1)
    first, second = (x[..., 0::2], x[..., 1::2]) if layout == "interleaved" else x.chunk(2, -1)
    frequency = torch.tensor([base ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
    position = torch.arange(offset, offset + x.size(-2), dtype=torch.float64)
    turned = torch.complex(first, second) * torch.exp(1j * torch.outer(position, frequency))
    parts = (turned.real, turned.imag)
    return torch.stack(parts, -1).flatten(-2) if layout == "interleaved" else torch.cat(parts, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "length", "dim"), [(1, 1, 2), (3, 13, 10), (2, 64, 32)])
@pytest.mark.parametrize("offset", [0, 5])
def test_against_complex_rotation(layout, batch: int, length: int, dim: int, offset: int) -> None:
    q, k = torch.randn(2, batch, 3, length, dim, dtype=torch.float64)
    for got, x in zip(RotaryEmbedding(dim, base=1e5, layout=layout)(q, k, offset=offset), (q, k), strict=True):
        torch.testing.assert_close(got, rotated(x, 1e5, layout, offset), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_low_precision_keeps_dtype_and_rounds_once(layout, dtype: torch.dtype, tolerance: float) -> None:
    q, k = torch.randn(2, 2, 3, 200, 8).to(dtype)
    for got, x in zip(RotaryEmbedding(8, layout=layout)(q, k), (q, k), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), rotated(x, 1e4, layout), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_depend_on_distance_alone(layout) -> None:
    rotary = RotaryEmbedding(16, layout=layout)
    q, k = (torch.randn(1, 16, dtype=torch.float64).expand(20, 16) for _ in range(2))
    turned_q, turned_k = rotary(q, k)
    products = turned_q @ turned_k.T
    for distance in range(-5, 6):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-12, atol=1e-12)
    assert products.diagonal(1)[0] != pytest.approx(products.diagonal(-1)[0].item(), abs=1e-3)
    shifted_q, shifted_k = rotary(q, k, offset=1000)
    torch.testing.assert_close(shifted_q @ shifted_k.T, products, rtol=1e-10, atol=1e-10)


def test_position_zero_is_left_alone_and_lengths_are_kept() -> None:
    q, k = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    turned_q, turned_k = RotaryEmbedding(6)(q, k)
    assert torch.equal(turned_q[:, 0], q[:, 0])
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1), rtol=1e-12, atol=0)
    assert not torch.allclose(turned_k[:, 1:], k[:, 1:])


def test_layouts_are_permutations_of_each_other() -> None:
    q, k = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    apart = torch.cat((torch.arange(0, 12, 2), torch.arange(1, 12, 2)))
    interleaved = RotaryEmbedding(12)(q, k)[0]
    half = RotaryEmbedding(12, layout="half")(q[..., apart], k[..., apart])[0]
    torch.testing.assert_close(half, interleaved[..., apart], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(RotaryEmbedding(12, layout="half")(q, k)[0], interleaved)


def test_token_by_token_equals_the_whole_sequence() -> None:
    rotary, (q, k) = RotaryEmbedding(8), torch.randn(2, 1, 2, 21, 8)
    steps = [rotary(q[..., i : i + 1, :], k[..., i : i + 1, :], offset=i) for i in range(21)]
    for got, whole in zip(zip(*steps, strict=True), RotaryEmbedding(8)(q, k), strict=True):
        # Not to the last bit: how a kernel rounds depends on how many rows it gets.
        torch.testing.assert_close(torch.cat(got, dim=-2), whole, rtol=0, atol=1e-6)


def test_queries_and_keys_of_different_lengths_start_at_the_offset() -> None:
    for query_len, key_len in ((4, 11), (11, 4)):
        q, k = torch.randn(2, query_len, 6).double(), torch.randn(2, key_len, 6).double()
        turned_q, turned_k = RotaryEmbedding(6)(q, k, offset=3)
        torch.testing.assert_close(turned_q, rotated(q, 1e4, "interleaved", 3), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(turned_k, rotated(k, 1e4, "interleaved", 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_casts_of_the_model_do_not_touch_the_phases(layout, cast) -> None:
    model, (q, k) = nn.Sequential(RotaryEmbedding(8, layout=layout)), torch.randn(2, 2, 500, 8)
    expected = model[0](q, k)
    for got, want in zip(cast(model)[0](q, k), expected, strict=True):
        assert torch.equal(got, want)
    q64 = q.double()
    torch.testing.assert_close(model[0](q64, q64)[0], rotated(q64, 1e4, layout), rtol=1e-10, atol=1e-10)


def test_nothing_in_the_state_and_copies_work() -> None:
    rotary, (q, k) = RotaryEmbedding(10, base=77.0, layout="half"), torch.randn(2, 1, 6, 10)
    expected = rotary(q, k)[1]
    assert not rotary.state_dict() and not list(rotary.parameters()) and not list(rotary.buffers())
    for twin in (copy.deepcopy(rotary), pickle.loads(pickle.dumps(rotary))):
        assert torch.equal(twin(q, k)[1], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout) -> None:
    q, k = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(RotaryEmbedding(4, layout=layout), (q, k, 2))


def test_table_made_in_inference_mode_serves_training() -> None:
    rotary, q = RotaryEmbedding(4), torch.randn(1, 3, 4, requires_grad=True)
    with torch.inference_mode():
        rotary(torch.zeros(1, 8, 4), torch.zeros(1, 8, 4))
    rotary(q, q.detach())[0].square().sum().backward()
    torch.testing.assert_close(q.grad, 2 * q.detach(), rtol=1e-5, atol=1e-5)  # a rotation keeps the norm


def test_tracing_with_fake_tensors_leaves_no_fake_table_behind() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    rotary, q = RotaryEmbedding(4), torch.randn(1, 3, 4)
    with FakeTensorMode() as mode:
        rotary(mode.from_tensor(q), mode.from_tensor(q))
    torch.testing.assert_close(rotary(q, q)[0].double(), rotated(q, 1e4, "interleaved"), rtol=1e-5, atol=1e-5)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="dim must be positive and even.* got 7"):
        RotaryEmbedding(7)
    with pytest.raises(ValueError, match="got 0"):
        RotaryEmbedding(0)
    with pytest.raises(ValueError, match="base must be positive, got -1"):
        RotaryEmbedding(8, base=-1)
    with pytest.raises(ValueError, match="got 'halves'"):
        RotaryEmbedding(8, layout="halves")
    with pytest.raises(ValueError, match=r"dim=8, got q \(3, 6\) and k \(3, 8\)"):
        RotaryEmbedding(8)(torch.zeros(3, 6), torch.zeros(3, 8))
    with pytest.raises(ValueError, match="offset must not be negative, got -2"):
        RotaryEmbedding(8)(torch.zeros(3, 8), torch.zeros(3, 8), offset=-2)
