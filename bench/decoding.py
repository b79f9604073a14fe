"""Time per decoded token along the sequence: only the attention over what is cached may grow.

A stack of runtime parts, eight layers of width 512 with rotary positions, batch 1. At each position the cache is filled
up to there, and single steps are timed in turn with the bare attention calls of one step (eight layers, the same
lengths) and with a step of the uncached stack over the whole prefix.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import runtime

POSITIONS = (64, 128, 256, 512, 1024, 2048)
DEPTH, WIDTH, HEADS = 8, 512, 8
STEPS, WHOLE_STEPS = 20, 2


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def filled(stack: runtime.Encoder, length: int) -> runtime.KVCache:
    past_kv = runtime.KVCache(max_len=length + 1)
    stack(torch.randn(1, length, WIDTH), past_kv=past_kv)
    return past_kv


def cached_step(stack: runtime.Encoder, past_kv: runtime.KVCache, token: Tensor, length: int) -> None:
    stack(token, past_kv=past_kv)
    past_kv.crop(length)


def attention_alone(q: Tensor, keys: Tensor, values: Tensor) -> None:
    for _ in range(DEPTH):
        runtime.attention(q, keys, values, causal=True)


def at(stack: runtime.Encoder, length: int) -> tuple[float, float, float]:
    """Medians of a cached step, of its attention alone, and of a step over the whole prefix; in milliseconds."""
    past_kv, token, whole = filled(stack, length), torch.randn(1, 1, WIDTH), torch.randn(1, length + 1, WIDTH)
    q, kv = torch.randn(1, HEADS, 1, WIDTH // HEADS), torch.randn(2, 1, HEADS, length + 1, WIDTH // HEADS)
    cached, attended, uncached = [], [], []
    for number in range(STEPS):
        cached.append(seconds(lambda: cached_step(stack, past_kv, token, length)))
        attended.append(seconds(lambda: attention_alone(q, kv[0], kv[1])))
        if number < WHOLE_STEPS:
            uncached.append(seconds(lambda: stack(whole)))
    medians = (1e3 * statistics.median(times) for times in (cached, attended, uncached))
    return next(medians), next(medians), next(medians)


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    hidden = runtime.swiglu_width(4 * WIDTH)
    stack = runtime.Encoder(DEPTH, WIDTH, HEADS, hidden, causal=True, rotary_base=10000.0).eval()
    print(f"one token, {DEPTH} layers of {WIDTH}, {torch.get_num_threads()} threads; medians of {STEPS} steps, ms")
    print("  position   cached step   of it attention   the rest   whole prefix   ratio")
    for length in POSITIONS:
        step, attention, whole = at(stack, length)
        print(
            f"  {length:8d}   {step:11.2f}   {attention:15.2f}   {step - attention:8.2f}   {whole:12.1f}"
            f"   {whole / step:5.1f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
