"""ALiBi: slopes of the paper, distances, alignment."""

import pytest
import torch

from runtime import Alibi, attention, attention_weights


def published_slopes(heads: int) -> list[float]:
    """The recursion that the authors published."""
    exponent = heads.bit_length() - 1
    if 2**exponent == heads:
        start = 2.0 ** (-(2.0 ** -(exponent - 3)))
        return [start * start**i for i in range(heads)]
    closest = 2**exponent
    return published_slopes(closest) + published_slopes(2 * closest)[0::2][: heads - closest]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 33])
def test_slopes(heads: int) -> None:
    expected = torch.tensor(published_slopes(heads), dtype=torch.float64)
    torch.testing.assert_close(Alibi(heads).slopes(dtype=torch.float64), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("heads", "query_len", "key_len"), [(4, 5, 5), (3, 1, 7), (6, 3, 11), (2, 1, 1), (2, 7, 4)])
def test_bias_against_plain_python(heads: int, query_len: int, key_len: int) -> None:
    q, k = torch.zeros(2, heads, query_len, 4, dtype=torch.float64), torch.zeros(2, heads, key_len, 4)
    bias = Alibi(heads)(q, k)
    assert bias.shape == (heads, query_len, key_len) and bias.dtype == torch.float64
    for h, slope in enumerate(published_slopes(heads)):
        for i in range(query_len):
            for j in range(key_len):
                distance = abs(i + key_len - query_len - j)
                assert bias[h, i, j].item() == pytest.approx(-slope * distance, rel=1e-14)


def test_decoding_rows_are_the_last_rows() -> None:
    x = torch.zeros(1, 4, 9, 4)
    assert torch.equal(Alibi(4)(x[:, :, -2:], x), Alibi(4)(x, x)[:, -2:])
    assert torch.equal(Alibi(4)(x, x, offset=5), Alibi(4)(x, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_that_of_the_queries_and_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 6, 300, 4, dtype=dtype)
    bias = Alibi(6)(x, x)
    assert bias.dtype == dtype
    assert torch.equal(bias, Alibi(6)(x.double(), x.double()).float().to(dtype))


@pytest.mark.parametrize("causal", [False, True])
def test_in_attention(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    bias = Alibi(4)(q, k)
    distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    scores = q @ k.mT / 8**0.5 - torch.tensor(published_slopes(4), dtype=torch.float64)[:, None, None] * distance
    if causal:
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    weights = scores.softmax(-1)
    torch.testing.assert_close(attention_weights(q, k, bias=bias, causal=causal), weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention(q, k, v, bias=bias, causal=causal), weights @ v, rtol=1e-12, atol=1e-12)


def test_state_and_bad_arguments() -> None:
    assert not Alibi(3).state_dict() and not list(Alibi(3).parameters()) and not list(Alibi(3).buffers())
    with pytest.raises(ValueError, match="num_heads must be positive, got 0"):
        Alibi(0)
