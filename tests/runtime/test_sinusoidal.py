"""The sinusoidal encoding is, bit for bit, the formula that legacy files spell out in their forward."""

import copy
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from runtime import SinusoidalPositionalEncoding


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def legacy_table(length: int, width: int, base: float, first: int = 0) -> Tensor:
    u = torch.arange(first, first + length)[:, None]
    j = torch.arange(width)[None, :]
    k = j % 2
    t = u / (base ** ((j - k) / width)) + math.pi / 2 * k
    return torch.sin(t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 2, 7, 64, 130])
@pytest.mark.parametrize("length", [1, 3, 67, 2048])
def test_bit_equal_to_the_legacy_formula(length: int, width: int, dtype: torch.dtype) -> None:
    with default_dtype(dtype):
        x = torch.randn(2, length, width)
        assert torch.equal(SinusoidalPositionalEncoding(base=1e5)(x), x + legacy_table(length, width, 1e5))


def test_table_against_plain_python() -> None:
    with default_dtype(torch.float64):
        table = SinusoidalPositionalEncoding(base=100.0)(torch.zeros(1, 5, 6))[0]
    for u in range(5):
        for j in range(6):
            angle = u / 100.0 ** (2 * (j // 2) / 6)
            assert table[u, j].item() == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-14)


def test_integer_base_rounds_as_the_legacy_formula_does() -> None:
    assert torch.equal(SinusoidalPositionalEncoding(10000)(torch.zeros(1, 50, 16))[0], legacy_table(50, 16, 10000))


def test_rows_do_not_depend_on_the_history_of_calls() -> None:
    encoding = SinusoidalPositionalEncoding(base=1e4)
    for length in (5, 3, 11, 12, 40, 1, 39):
        assert torch.equal(encoding(torch.zeros(1, length, 14))[0], legacy_table(length, 14, 1e4))


def test_offset_is_the_position_of_the_first_row() -> None:
    encoding, x = SinusoidalPositionalEncoding(), torch.zeros(3, 4, 10)
    for offset in (0, 1, 17, 300):
        assert torch.equal(encoding(x, offset=offset)[1], legacy_table(4, 10, 1e4, first=offset))


def test_token_by_token_equals_the_whole_sequence() -> None:
    encoding, x = SinusoidalPositionalEncoding(), torch.randn(2, 33, 6)
    steps = [encoding(x[:, i : i + 1], offset=i) for i in range(33)]
    assert torch.equal(torch.cat(steps, dim=1), SinusoidalPositionalEncoding()(x))


def test_table_is_computed_once_and_doubles_when_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, lengths = SinusoidalPositionalEncoding(), []
    compute = encoding.compute
    monkeypatch.setattr(encoding, "compute", lambda p, *rest: lengths.append(len(p)) or compute(p, *rest))
    for i in range(64):
        encoding(torch.zeros(1, 1, 8), offset=i)
    assert lengths == [1, 2, 4, 8, 16, 32, 64]


def test_default_dtype_and_width_may_change_between_calls() -> None:
    encoding = SinusoidalPositionalEncoding()
    assert encoding(torch.zeros(1, 4, 6)).dtype == torch.float32
    with default_dtype(torch.float64):
        y = encoding(torch.zeros(1, 4, 6))
        assert torch.equal(y[0], legacy_table(4, 6, 1e4))
    assert torch.equal(encoding(torch.zeros(1, 4, 8))[0], legacy_table(4, 8, 1e4))


def test_device_may_change_between_calls() -> None:
    encoding = SinusoidalPositionalEncoding()
    encoding(torch.zeros(1, 4, 6))
    assert encoding(torch.zeros(1, 4, 6, device="meta")).device.type == "meta"
    assert torch.equal(encoding(torch.zeros(1, 4, 6))[0], legacy_table(4, 6, 1e4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sum_promotes_as_ordinary_tensors_do(dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 12).to(dtype)
    y, expected = SinusoidalPositionalEncoding()(x), x + legacy_table(9, 12, 1e4)
    assert y.dtype == expected.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_casts_of_the_model_do_not_round_the_table(cast) -> None:
    model, x = nn.Sequential(SinusoidalPositionalEncoding()), torch.zeros(1, 100, 16)
    model(x)
    assert torch.equal(cast(model)(x)[0], legacy_table(100, 16, 1e4))


def test_nothing_in_the_state_and_copies_work() -> None:
    encoding, x = SinusoidalPositionalEncoding(base=50.0), torch.randn(1, 300, 20)
    expected = encoding(x)
    assert not encoding.state_dict() and not list(encoding.parameters()) and not list(encoding.buffers())
    assert torch.equal(copy.deepcopy(encoding)(x), expected)
    dumped = pickle.dumps(encoding)
    assert torch.equal(pickle.loads(dumped)(x), expected)
    assert len(dumped) < 2000  # the table of 24,000 bytes stays behind


def test_table_made_in_inference_mode_serves_training() -> None:
    encoding, x = SinusoidalPositionalEncoding(), torch.randn(1, 5, 6, requires_grad=True)
    with torch.inference_mode():
        encoding(torch.zeros(1, 8, 6))
    (encoding(x) * encoding(x)).sum().backward()
    torch.testing.assert_close(x.grad, 2 * (x + legacy_table(5, 6, 1e4)).detach(), rtol=0, atol=1e-6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="base must be positive, got 0"):
        SinusoidalPositionalEncoding(base=0)
    with pytest.raises(ValueError, match="offset must not be negative, got -1"):
        SinusoidalPositionalEncoding()(torch.zeros(1, 2, 4), offset=-1)
