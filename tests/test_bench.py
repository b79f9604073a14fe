"""The benchmark against other libraries, in tiny, on the runtime alone: nothing timed is asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import alike, peers
from bench.libraries import MAKERS, Peer, Size, ours

TINY = Size(vocabulary=11, depth=2, width=16, heads=2, hidden=24, longest=16)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def absent(size: Size) -> Peer:
    raise ImportError("no such library")


def seeing(size: Size) -> Peer:
    """A model whose positions see later ones."""
    own = ours(size)
    for block in own.module.stack.blocks:
        block.causal = False
    return Peer("seeing", own.module, own.forward)


def test_the_table_of_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*MAKERS][1:]:
        monkeypatch.setitem(MAKERS, name, absent)
    monkeypatch.setitem(MAKERS, "litgpt", lambda size: Peer("litgpt", (own := ours(size)).module, own.forward))
    monkeypatch.setitem(alike.NAMES, "litgpt", _own_names())
    monkeypatch.setitem(MAKERS, "torchtune", seeing)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peers.START}\nold\n{peers.END}\nafter\n", encoding="utf-8")
    threads = torch.get_num_threads()
    try:
        peers.main(["--rounds", "2", "--new", "4", "--markdown", str(page)], TINY)
    finally:
        torch.set_num_threads(threads)
    out, text = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert "Left out: transformers: not installed (no such library)." in out
    assert "Left out: torchtune: positions see later ones." in out
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    for words in ("forward, 4 tokens", "forward, 16 tokens", "training step, 4 tokens"):
        assert _cells(text, words)[2].count("x (") == 1, words
    for words in ("4 greedy tokens, batch 1", "4 greedy tokens, batch 8"):
        assert _cells(text, words)[2] == "-", words
    assert _cells(text, "peak memory, training step, 4 tokens")[2] == "1.00x"


def _cells(text: str, words: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {words} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def _own_names() -> alike.Names:
    inside = tuple(f"stack.blocks.{{}}.{name}" for name in alike._INSIDE)
    return alike.Names(alike._OUTSIDE, ("stack.blocks.{}.qkv.weight",), inside, halves=False)


def test_ratios_are_of_times_of_one_round() -> None:
    seconds = {"runtime": [1.0, 2.0, 4.0], "other": [2.0, 2.0, 12.0]}
    models = [Peer(name, torch.nn.Identity(), torch.nn.Identity()) for name in ("runtime", "other", "cacheless")]
    assert peers.cells(seconds, models) == ["2.000 (1.000 to 4.000) s", "2.00x (1.00 to 3.00)", "-"]


def test_turns_rotate() -> None:
    order: list[str] = []

    def peer(name: str) -> Peer:
        return Peer(name, torch.nn.Identity(), lambda tokens: order.append(name) or tokens)

    peers.timed(peers.Row("forward", 1, 3), [peer("a"), peer("b")], TINY, rounds=2)
    assert "".join(order) == "ab" + "ab" + "ba"


def with_(forward: Callable[[Peer, Tensor], Tensor] | None = None, generate: object = None) -> Peer:
    own = ours(TINY)
    changed = own.forward if forward is None else lambda tokens: forward(own, tokens)
    return Peer("mutant", own.module, changed, own.generate if generate is None else generate)


def wider() -> Peer:
    return ours(Size(vocabulary=11, depth=2, width=16, heads=2, hidden=32, longest=16))


MUTANTS = {
    "parameters, the runtime": wider,
    "logits of the shape": lambda: with_(lambda own, tokens: own.forward(tokens)[:, :-1]),
    "positions see later ones": lambda: with_(lambda own, tokens: own.forward(tokens.flip(1)).flip(1)),
    "does not see the first one": lambda: with_(
        lambda own, tokens: torch.cat([own.forward(tokens[:, :1]), own.forward(tokens[:, 1:])], 1)
    ),
    "are not the likeliest": lambda: with_(generate=lambda tokens, n: torch.cat([tokens, tokens[:, :n]], 1)),
}


@pytest.mark.parametrize("reason", MUTANTS)
def test_another_decoder_is_not_compared(reason: str) -> None:
    assert any(reason in found for found in alike.differences(MUTANTS[reason](), TINY))


def test_the_same_decoder_is_compared() -> None:
    assert list(alike.differences(ours(TINY), TINY)) == []


def test_weights_in_another_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ours(TINY)
    monkeypatch.setitem(alike.NAMES, own.name, alike.Names(**{**vars(_own_names()), "halves": True}))
    assert list(alike.differences(own, TINY)) == ["its weights give other logits in the runtime"]


def test_greedy_tokens_are_those_of_the_whole_prefix() -> None:
    model = ours(TINY).module.eval()
    tokens = torch.randint(11, (3, 4))
    found = model.generate(tokens, 6)
    for _ in range(6):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, tokens)


@pytest.mark.parametrize("name", [*MAKERS][1:])
def test_libraries_are_the_same_decoder(name: str) -> None:
    try:
        peer = MAKERS[name](Size(vocabulary=37, depth=2, width=64, heads=2, hidden=96, longest=64))
    except ImportError as error:
        pytest.skip(str(error))
    peer.module.eval()
    assert list(alike.differences(peer, Size(vocabulary=37, depth=2, width=64, heads=2, hidden=96, longest=64))) == []
