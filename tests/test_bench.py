"""The benchmark against other libraries, in tiny, on the runtime alone: nothing timed is asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bench import peers
from bench.reference import Decoder


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "VOCABULARY": 11,
        "DEPTH": 2,
        "WIDTH": 16,
        "HEADS": 2,
        "HIDDEN": 24,
        "LONGEST": 16,
        "PROMPT": 3,
    }.items():
        monkeypatch.setattr(peers, name, value)


def test_the_table_of_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PEERS", {"runtime": peers.ours, "another": peers.ours, "absent": lambda: 1 / 0})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peers.START}\nold\n{peers.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["peers", "--rounds", "1", "--new", "4", "--markdown", str(page)])
    threads = torch.get_num_threads()
    try:
        peers.main()
    finally:
        torch.set_num_threads(threads)
    out, text = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert "Not installed: absent: ZeroDivisionError" in out
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    for words in (
        "parameters",
        "forward, 16 tokens",
        "training step, 512 tokens",
        "4 greedy tokens, batch 8",
        "peak memory",
    ):
        assert f"| {words}" in text, words


def test_greedy_tokens_are_those_of_the_whole_prefix() -> None:
    torch.manual_seed(0)
    model = Decoder(11, 2, 16, 2, 24).eval()
    tokens = torch.randint(11, (3, 4))
    found = model.generate(tokens, 6)
    for _ in range(6):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, tokens)


def test_llama_gives_the_same_logits() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    peer = peers.llama()
    peer.module.eval()
    assert peers.llama_difference(peer) < 1e-4
