"""Decoding with a cache against the whole sequence at once, and what happens when it is misused."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from runtime import Alibi, KVCache, LayerCache, RotaryEmbedding, SinusoidalPositionalEncoding, attention

F64 = torch.float64
WIDTH, HEADS = 12, 3


class Layer(nn.Module):
    """Causal attention, the way that rewritten files call it."""

    def __init__(self, positions: str, dim: int, value_dim: int) -> None:
        super().__init__()
        self.dims = (dim, dim, value_dim)
        self.qkv = nn.Linear(WIDTH, HEADS * sum(self.dims), dtype=F64)
        self.out = nn.Linear(HEADS * value_dim, WIDTH, dtype=F64)
        self.rotary = RotaryEmbedding(dim) if positions == "rotary" else None
        self.alibi = Alibi(HEADS) if positions == "alibi" else None

    def forward(self, x: Tensor, mask: Tensor | None = None, past_kv: LayerCache | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (HEADS, -1)).transpose(1, 2).split(self.dims, -1)
        bias = self.alibi(q, k, past_kv=past_kv) if self.alibi else None
        if self.rotary:
            q, k = self.rotary(q, k, past_kv=past_kv)
        y = attention(q, k, v, mask=mask, bias=bias, causal=True, fill=-1e9, past_kv=past_kv)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, positions: str = "rotary", dim: int = 4, value_dim: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.encoding = SinusoidalPositionalEncoding() if positions == "sinusoidal" else None
        self.layers = nn.ModuleList(Layer(positions, dim, value_dim) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None, past_kv: KVCache | None = None) -> Tensor:
        if past_kv is not None:
            x = x[:, past_kv.length :]
        if self.encoding:
            x = self.encoding(x, past_kv=past_kv)
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, past_kv and past_kv[i])
        return x


def sequence(batch: int = 2, length: int = 13) -> Tensor:
    return torch.randn(batch, length, WIDTH, dtype=F64)


def in_chunks(model: nn.Module, x: Tensor, ends: list[int], cache: KVCache, mask: Tensor | None = None) -> Tensor:
    """The outputs of all positions, each call with the prefix up to one of `ends`."""
    return torch.cat([model(x[:, :end], None if mask is None else mask[..., :end], cache) for end in ends], 1)


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def snapshot(cache: KVCache) -> list[tuple[int, Tensor, Tensor]]:
    return [(layer.length, layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


def unchanged(cache: KVCache, before: list[tuple[int, Tensor, Tensor]]) -> bool:
    return all(
        layer.length == length and torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
        for layer, (length, keys, values) in zip(cache.layers, before, strict=True)
    )


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


# --- the same as the whole sequence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ends", [list(range(1, 14)), [5, *range(6, 14)], [3, 10, 12, 13], [13]], ids=str)
@pytest.mark.parametrize("positions", ["none", "rotary", "alibi", "sinusoidal"])
@pytest.mark.parametrize(("dim", "value_dim"), [(4, 4), (4, 6), (6, 3)])
@pytest.mark.parametrize("padded", [False, True])
def test_every_position(no_grad, batch, ends, positions, dim, value_dim, padded) -> None:
    model, x, mask = Stack(positions, dim, value_dim), sequence(batch), None
    if padded:  # in front, where rows are left without any key, and in between
        mask = torch.rand(batch, 1, 1, 13) < 0.7
        mask[0, ..., :2] = False
    cache = KVCache(13)
    got = in_chunks(model, x, ends, cache, mask)
    expected = model(x, mask)
    if padded:  # the mean of an empty row is one of the keys that there are: those to come are not there yet
        seen = mask.cumsum(-1)[:, 0, 0] > 0
        got, expected = got[seen], expected[seen]
    same(got, expected)
    assert cache.length == 13


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_without_the_offset_the_comparison_fails(no_grad, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Stack(positions), sequence()
    module = RotaryEmbedding if positions == "rotary" else SinusoidalPositionalEncoding
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda self, *args, past_kv=None: forward(self, *args))
    assert not torch.allclose(in_chunks(model, x, [5, 6, 13], KVCache()), model(x), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(no_grad, dtype: torch.dtype) -> None:
    model, x = Stack().to(dtype), sequence().to(dtype)
    cache = KVCache()
    got = in_chunks(model, x, [4, 5, 13], cache)
    assert cache[0].keys.dtype == dtype
    torch.testing.assert_close(got, model(x), rtol=2e-2, atol=2e-2)


def test_after_reset_and_crop(no_grad) -> None:
    model, cache = Stack(), KVCache(13)
    in_chunks(model, sequence(), [5, 9], cache)
    cache.reset()
    assert cache.length == 0
    x = sequence()
    in_chunks(model, x, [4, 11], cache)
    cache.crop(6)  # of what was accepted, other tokens go on
    x[:, 6:] = sequence()[:, 6:]
    same(in_chunks(model, x, [8, 13], cache), model(x)[:, 6:])
    with pytest.raises(ValueError, match=r"\[0, 13\], got 14"):
        cache.crop(14)
    with pytest.raises(ValueError, match=r"\[0, 13\], got -1"):
        cache.crop(-1)


def test_after_reset_another_batch_and_dtype_may_come(no_grad) -> None:
    model, cache = Stack(), KVCache(13)
    model(sequence(3), None, cache)
    cache.reset()
    x = sequence(2)
    same(in_chunks(model, x, [3, 13], cache), model(x))
    cache.reset()
    assert model.float()(x.float(), None, cache).dtype == torch.float32


@pytest.mark.parametrize("rows", [[2, 0, 0], [1], [0, 0, 1, 1, 2]], ids=str)
def test_reorder(no_grad, rows: list[int]) -> None:
    model, x, cache = Stack(), sequence(3), KVCache()
    model(x[:, :8], None, cache)
    cache.reorder(torch.tensor(rows))
    x = torch.cat((x[rows, :8], sequence(len(rows), 5)), 1)
    same(in_chunks(model, x, [9, 13], cache), model(x)[:, 8:])


def test_beam_search(no_grad) -> None:
    """Three beams over ten steps, once with a cache and once recomputing each prefix."""
    model, vocab = Stack(), torch.randn(7, WIDTH, dtype=F64)

    def search(cache: KVCache | None) -> tuple[Tensor, Tensor]:
        tokens, scores = torch.tensor([[1], [2], [3]]), torch.zeros(3, dtype=F64)
        for _ in range(10):
            steps = (model(vocab[tokens], None, cache)[:, -1] @ vocab.T / 20).log_softmax(-1)
            scores, best = (scores[:, None] + steps).flatten().topk(3)
            rows = best // 7
            tokens = torch.cat((tokens[rows], best[:, None] % 7), 1)
            if cache is not None:
                orders.append(rows.tolist())
                cache.reorder(rows)
        return tokens, scores

    orders: list[list[int]] = []
    (tokens, scores), (expected, their_scores) = search(KVCache()), search(None)
    assert torch.equal(tokens, expected)
    same(scores, their_scores)
    assert any(order != [0, 1, 2] for order in orders[1:])  # beams did die


# --- memory ---------------------------------------------------------------------------------------------------------


def test_max_len_is_allocated_once(no_grad) -> None:
    model, x, cache = Stack(), sequence(), KVCache(13)
    model(x[:, :3], None, cache)
    buffer = cache[0].keys
    in_chunks(model, x, [4, 9, 13], cache)
    assert cache[0].keys is buffer and buffer.size(-2) == 13


def test_without_max_len_buffers_double(no_grad) -> None:
    layer, sizes = LayerCache(), []
    k = torch.randn(1, 300, 4)
    for t in range(300):
        keys, values = layer.append(k[:, t : t + 1], 2 * k[:, t : t + 1])
        sizes.append(layer.keys.size(-2))
    assert sorted(set(sizes)) == [64, 128, 256, 512]
    assert torch.equal(keys, k) and torch.equal(values, 2 * k)
    assert LayerCache().append(k, k)[0].shape == k.shape  # more than doubling gives


def test_no_step_copies_what_is_cached(no_grad) -> None:
    layer = LayerCache(4096)
    layer.append(torch.randn(1, 4000, 64), torch.randn(1, 4000, 64))
    new = torch.randn(1, 1, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        layer.append(new, new)
    assert max((event.self_cpu_memory_usage for event in profile.events()), default=0) < 4096


# --- autograd -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [list(range(1, 14)), [5, 8, 13]], ids=str)
@pytest.mark.parametrize("max_len", [None, 13])
def test_gradients_flow_through_the_cache(ends: list[int], max_len: int | None) -> None:
    model, x = Stack(value_dim=6), sequence().requires_grad_()
    leaves, upstream = [x, *model.parameters()], sequence()
    got = torch.autograd.grad(in_chunks(model, x, ends, KVCache(max_len)), leaves, upstream)
    for mine, expected in zip(got, torch.autograd.grad(model(x), leaves, upstream), strict=True):
        same(mine, expected)


def test_keys_that_are_frozen_are_not_written_over_either() -> None:
    """Only the queries have gradients, and the backward pass needs the keys of the earlier steps as they were."""
    q, k, v = (torch.randn(2, HEADS, 5, 4, dtype=F64) for _ in range(3))
    q.requires_grad_()
    whole = torch.autograd.grad(attention(q, k, v, causal=True).square().sum(), q)[0]
    cache = KVCache(max_len=5)
    rows = [tuple(x[:, :, i : i + 1] for x in (q, k, v)) for i in range(5)]
    steps = torch.cat([attention(*row, causal=True, past_kv=cache[0]) for row in rows], -2)
    same(torch.autograd.grad(steps.square().sum(), q)[0], whole)


def test_a_prompt_without_gradients_is_a_constant() -> None:
    layer = LayerCache()
    q, k, v = leaves = [torch.randn(2, 3, 9, 4, dtype=F64, requires_grad=True) for _ in range(3)]
    with torch.no_grad():
        layer.append(k[..., :6, :], v[..., :6, :])
    got = attention(q[..., 6:, :], k[..., 6:, :], v[..., 6:, :], causal=True, past_kv=layer)
    joined = (torch.cat((x[..., :6, :].detach(), x[..., 6:, :]), -2) for x in (k, v))
    expected = attention(q[..., 6:, :], *joined, causal=True)
    same(got, expected)
    gradients = [torch.autograd.grad(y.square().sum(), leaves) for y in (got, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        same(mine, theirs)


def test_steps_without_gradients_leave_an_earlier_graph_alone() -> None:
    model, x, cache = Stack(), sequence(), KVCache(13)
    y = model(x[:, :6], None, cache)
    with torch.no_grad():
        cache.crop(3)
        same(model(x, None, cache), model(x)[:, 3:])
    expected = torch.autograd.grad(model(x[:, :6]).sum(), list(model.parameters()))
    for mine, theirs in zip(torch.autograd.grad(y.sum(), list(model.parameters())), expected, strict=True):
        same(mine, theirs)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("then", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("max_len", [None, 13])
def test_prompt_and_steps_in_different_modes(first, then, max_len: int | None) -> None:
    model, x, cache = Stack(), sequence(), KVCache(max_len)
    expected = model(x).detach()
    with first():
        same(model(x[:, :6], None, cache).detach(), expected[:, :6])
        cache.reorder(torch.tensor([0, 1]))
    with then():
        for end in (7, 8, 13):
            got = model(x[:, :end], None, cache)
    same(got.detach().clone(), expected[:, 8:])


def test_own_keys_are_never_written_to() -> None:
    layer, k = LayerCache(), torch.randn(1, 3, 4)
    kept = k.clone()
    layer.append(k, k)
    layer.length = 1
    with torch.no_grad():
        layer.append(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    assert torch.equal(k, kept)


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_copies_go_on_by_themselves(no_grad, twin_of) -> None:
    model, x, cache = Stack(), sequence(), KVCache(13)
    model(x[:, :6], None, cache)
    twin = twin_of(cache)
    other = x.clone()
    other[:, 6:] = sequence()[:, 6:]
    same(model(other, None, twin), model(other)[:, 6:])
    same(model(x, None, cache), model(x)[:, 6:])
    assert twin[1].before is twin[0]


def test_an_empty_cache_is_true() -> None:
    assert KVCache() and KVCache().length == 0


# --- mistakes, and what they leave behind ---------------------------------------------------------------------------


def test_full(no_grad) -> None:
    model, x, cache = Stack(), sequence(), KVCache(8)
    model(x[:, :7], None, cache)
    before = snapshot(cache)
    with pytest.raises(ValueError, match="room for 8 positions, and 13 are needed"):
        model(x, None, cache)
    assert unchanged(cache, before)
    same(model(x[:, :8], None, cache), model(x[:, :8])[:, 7:])
    with pytest.raises(ValueError, match="room for 0 positions, and 1 are needed"):
        model(x[:, :1], None, KVCache(0))


@pytest.mark.parametrize("grad", [False, True])
def test_what_does_not_fit_is_not_stored(grad: bool) -> None:
    layer = LayerCache(8)
    k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 6)
    with torch.set_grad_enabled(grad):
        layer.append(k, v)
        before = (layer.length, layer.keys, layer.values, layer.keys.clone(), layer.values.clone())
        for bad_k, bad_v, message in (
            (k, v[..., :5], r"\(2, 3, \d, 6\) torch.float32 on cpu, to which \(2, 3, 4, 5\)"),  # the keys would fit
            (k[:1], v[:1], r"\(2, 3, \d, 5\) .* to which \(1, 3, 4, 5\)"),
            (k[:, :1], v[:, :1], r"to which \(2, 1, 4, 5\)"),
            (k.double(), v.double(), "torch.float32 on cpu, to which .* torch.float64"),
            (k.to("meta"), v.to("meta"), "on cpu, to which .* on meta"),
            (k, v[..., :3, :], r"one value per key is needed, got k \(2, 3, 4, 5\) and v \(2, 3, 3, 6\)"),
        ):
            with pytest.raises(ValueError, match=message):
                layer.append(bad_k, bad_v)
        assert layer.length == before[0] and layer.keys is before[1] and layer.values is before[2]
        assert torch.equal(layer.keys, before[3]) and torch.equal(layer.values, before[4])


def test_what_attention_refuses_is_not_stored(no_grad) -> None:
    layer, (q, k, v) = LayerCache(), torch.randn(3, 1, 2, 4, 6)
    attention(q, k, v, causal=True, past_kv=layer)
    for options in ({"mask": torch.zeros(4, 8)}, {"bias": torch.zeros(4, 8, dtype=torch.long)}, {"fill": 0.0}):
        with pytest.raises(ValueError):
            attention(q, k, v, past_kv=layer, **options)
    with pytest.raises(ValueError, match="one width"):
        attention(q[..., :3], k, v, past_kv=layer)
    assert layer.length == 4


@pytest.mark.parametrize("cached", [0, 6])
def test_a_step_that_broke_off_is_noticed(no_grad, cached: int) -> None:
    """The first layer has stored the new positions and the second one has not: going on would mix up positions."""
    model, x, cache = Stack(depth=3), sequence(), KVCache()
    if cached:
        model(x[:, :cached], None, cache)
    hook = model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x[:, :8], None, cache)
    hook.remove()
    for end in (9, 10):
        with pytest.raises(RuntimeError, match="the one before it holds .*broken off.*reset"):
            model(x[:, :end], None, cache)
    cache.reset()
    same(model(x, None, cache), model(x))


def test_after_a_broken_step_crop_mends_what_all_layers_hold(no_grad) -> None:
    model, x, cache = Stack(), sequence(), KVCache()
    model(x[:, :6], None, cache)
    hook = model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x[:, :8], None, cache)
    hook.remove()
    assert cache.length == 6
    cache.crop(cache.length)
    same(model(x, None, cache), model(x)[:, 6:])


def test_layers_come_in_order() -> None:
    cache = KVCache()
    with pytest.raises(IndexError, match="0 so far, layer 1 was asked"):
        cache[1]
    first = cache[0]
    assert cache[0] is first and cache[1].before is first
    with pytest.raises(IndexError, match="layer -1"):
        cache[-1]


@pytest.mark.parametrize("kind", [KVCache, LayerCache])
def test_bad_max_len(kind) -> None:
    with pytest.raises(ValueError, match="max_len must not be negative, got -3"):
        kind(-3)
