"""The runtime beside other libraries: the same decoder, the same inputs, in turn in one run.

Eight layers of width 512, eight heads, a vocabulary of 4096, float32, one thread. In each round every library has its
turn, and the turns rotate; a ratio is the median over the rounds of the times of one round. `make bench-peers` puts
the libraries into an environment of their own; what is not installed, or is another decoder, is said and left out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from bench.alike import differences
from bench.libraries import MAKERS, Peer, Size

PROMPT = 16
START, END = "<!-- peers -->", "<!-- end of peers -->"
Seconds = dict[str, list[float]]


# --- what is measured ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One activity, at a batch size and a length."""

    name: str
    batch: int
    length: int

    def act(self, peer: Peer, size: Size) -> Callable[[], object] | None:
        """What a library has to do; None if it cannot."""
        shape = (self.batch, PROMPT if self.name == "greedy tokens" else self.length)
        tokens = torch.randint(size.vocabulary, shape, generator=torch.Generator().manual_seed(0))
        if self.name == "training step":
            return lambda: _train(peer, tokens)
        if self.name == "greedy tokens":
            generate = peer.generate
            return None if generate is None else lambda: _quiet(lambda: generate(tokens, self.length))
        return lambda: _quiet(lambda: peer.forward(tokens))

    @property
    def words(self) -> str:
        if self.name == "greedy tokens":
            return f"{self.length} greedy tokens, batch {self.batch}"
        return f"{self.name}, {self.length} tokens"


def _quiet(act: Callable[[], object]) -> None:
    with torch.no_grad():
        act()


def _train(peer: Peer, tokens: Tensor) -> None:
    """Forward and backward: what an optimizer does is the same for all."""
    peer.module.zero_grad()
    logits = peer.forward(tokens)
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()


def rows(size: Size, new: int) -> list[Row]:
    short = size.longest // 4
    return [
        Row("forward", 1, short), Row("forward", 1, size.longest), Row("training step", 1, short),
        Row("greedy tokens", 1, new), Row("greedy tokens", 8, new),
    ]  # fmt: skip


def timed(row: Row, peers: list[Peer], size: Size, rounds: int) -> Seconds:
    acts = {peer.name: act for peer in peers if (act := row.act(peer, size)) is not None}
    for act in acts.values():
        act()  # warms up
    names = list(acts)
    seconds: Seconds = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(_seconds(acts[name]))
    return seconds


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def peak(act: Callable[[], object]) -> float:
    """MiB that torch's allocator hands out at the most during a call."""
    act()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        act()
    held = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest / 2**20


# --- the limit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What this machine can do on one thread: bytes read in a second, and float32 operations of a matmul."""

    bandwidth: float
    rate: float

    @classmethod
    def measured(cls, weights: int) -> Limits:
        """With as many bytes as the weights have, since some of them may stay in a cache from token to token."""
        left, right = torch.randn(2, weights // 2)
        copied, read = (_least(act, 20) for act in (lambda: right.copy_(left), lambda: torch.dot(left, right)))
        a, b = torch.randn(2048, 1024), torch.randn(1024, 2048)
        return cls(4 * weights / min(copied, read), 2 * 2048 * 1024 * 2048 / _least(lambda: a @ b, 10))

    def of(self, row: Row, size: Size, weights: int) -> float:
        """Seconds that a row cannot go below: weights read once for each token, or its multiplications."""
        pair = 4 * size.width * size.depth  # operations of a query and a key: a score and a sum
        if row.name == "greedy tokens":
            pairs = sum(range(PROMPT, PROMPT + row.length)) * row.batch
            products = (2 * weights * row.batch * row.length + pair * pairs) / self.rate
            return max(4 * weights * row.length / self.bandwidth, products)
        operations = 2 * weights * row.length + pair * row.length**2 / 2
        return operations * (3 if row.name == "training step" else 1) / self.rate


def _least(act: Callable[[], object], times: int) -> float:
    return min(_seconds(act) for _ in range(times))


# --- the table ----------------------------------------------------------------------------------------------------


def installed(names: list[str], size: Size) -> tuple[list[Peer], list[str]]:
    """The models that can be compared with the runtime's, the first one; and why the others cannot."""
    found, left_out = [], []
    for name in names:
        torch.manual_seed(0)
        try:
            peer = MAKERS[name](size)
            peer.module.eval()
            reasons = list(differences(peer, size))
        except ImportError as error:
            reasons = [f"not installed ({' '.join(str(error).split())[:100]})"]
        if reasons:
            left_out.append(f"{name}: {'; '.join(reasons)}")
        else:
            found.append(peer)
    return found, left_out


def cells(seconds: Seconds, peers: list[Peer]) -> list[str]:
    """The seconds of the first library, and how many times as long each other one takes; with the least and most."""
    own, *others = (seconds.get(peer.name) for peer in peers)
    assert own is not None
    return [f"{_spread(own, 3)} s", *("-" if times is None else _ratio(times, own) for times in others)]


def _spread(values: list[float], digits: int, unit: str = "") -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f}{unit} ({low} to {high})"


def _ratio(times: list[float], own: list[float]) -> str:
    return _spread([a / b for a, b in zip(times, own, strict=True)], 2, "x")


def table(peers: list[Peer], timings: dict[Row, Seconds], size: Size, limits: Limits, weights: int) -> str:
    names, count = [peer.name for peer in peers], [f"{peer.parameters:,}" for peer in peers]
    lines = [("", *names, "limit"), ("---",) * (len(names) + 2), ("parameters", *count, "")]
    for row, seconds in timings.items():
        limit = limits.of(row, size, weights)
        distance = statistics.median(seconds[names[0]]) / limit
        lines.append((row.words, *cells(seconds, peers), f"{distance:.2f}x of {limit:.3f} s"))
    training = next((row for row in timings if row.name == "training step"), None)
    if training is not None:
        own, *others = (peak(act) for peer in peers if (act := training.act(peer, size)) is not None)
        lines.append((f"peak memory, {training.words}", f"{own:.0f} MiB", *(f"{x / own:.2f}x" for x in others), ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def environment(rounds: int, limits: Limits) -> str:
    return (
        f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread, float32, medians of {rounds} "
        f"rounds (least to most). Reads {limits.bandwidth / 1e9:.1f} GB/s, multiplies {limits.rate / 1e9:.0f} GFLOP/s."
    )


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def write(path: Path, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    before, after = page.index(START) + len(START), page.index(END)
    path.write_text(f"{page[:before]}\n\n{text}\n\n{page[after:]}", encoding="utf-8")


def main(arguments: list[str] | None = None, size: Size = Size()) -> None:  # noqa: B008
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--new", type=int, default=128, help="tokens to generate")
    parser.add_argument("--only", nargs="*", choices=[*MAKERS][1:], default=[*MAKERS][1:], help="beside the runtime")
    parser.add_argument("--rows", default="", help="only those that have this in their name, such as 'greedy'")
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    peers, left_out = installed(["runtime", *options.only], size)
    weights = peers[0].parameters - size.vocabulary * size.width  # of the embedding, one row is read
    limits, timings = Limits.measured(weights), {}
    for row in rows(size, options.new):
        if options.rows in row.words:
            print(f"{row.words} ...", flush=True)
            timings[row] = timed(row, peers, size, options.rounds)
    text = f"{environment(options.rounds, limits)}\n\n{table(peers, timings, size, limits, weights)}"
    text += "".join(f"\n\nLeft out: {reason}." for reason in left_out)
    print(text)
    if options.markdown is not None:
        write(options.markdown, text)


if __name__ == "__main__":
    main()
