"""How classes are built and called is found out without help, in the styles that real files are written in."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.codemod import Claim, Promise
from migrator.prove import Prover, Verification
from migrator.prove.guesses import guesses
from migrator.prove.probe import roots_of
from migrator.recognise.index import FileIndex
from migrator.rewrite.plan import Plan, Stage
from tests.prove.texts import LEGACY

HEAD = """\
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

"""

ATTENTION = """
class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x, mask=None):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores.masked_fill(mask == 0, float("-inf"))
        HERE
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1)
"""


def prove(prover: Prover, text: str, symbol: str, path: Path = Path("model_file.py"), wrong: str = "") -> Verification:
    """The proof of a change that changes nothing at HERE, or, with `wrong`, something."""
    before, after = (HEAD + text.replace("HERE", code) for code in ("pass", wrong or "_ = None"))
    stage = Stage(("attention",), Promise.EXACT, before, after, (Claim((symbol,), (symbol,)),))
    return prover.prove(Plan(path, before, after, (stage,)), timeout=60)


STYLES = {
    "names of parameters": (ATTENTION, "Attention"),
    "configuration class": (
        """
@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_head: int = 12
    n_embd: int = 768


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.register_buffer("bias", torch.tril(torch.ones(config.block_size, config.block_size)))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = (y.view(b, t, self.n_head, -1).transpose(1, 2) for y in self.c_attn(x).split(c, dim=2))
        att = (q @ k.transpose(-2, -1)).masked_fill(self.bias[:t, :t] == 0, float("-inf")).softmax(-1)
        HERE
        return (att @ v).transpose(1, 2).reshape(b, t, c)


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.attn = Attention(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, idx, targets=None):
        assert idx.size(1) <= self.config.block_size
        logits = self.head(self.attn(self.wte(idx)))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
""",
        "Attention",
    ),
    "modules as arguments, masks, two inputs": (
        ATTENTION
        + """

class Layer(nn.Module):
    def __init__(self, size, attention, feed):
        super().__init__()
        self.attention, self.feed, self.norm = attention, feed, nn.LayerNorm(size)

    def forward(self, x, mask):
        return self.norm(x + self.feed(self.attention(x, mask)))


class Translator(nn.Module):
    def __init__(self, layer, vocab_src, vocab_tgt, size):
        super().__init__()
        self.layer = layer
        self.src, self.tgt = nn.Embedding(vocab_src, size), nn.Embedding(vocab_tgt, size)

    def forward(self, src, tgt, src_mask, tgt_mask):
        return self.layer(self.src(src), src_mask).mean(1, keepdim=True) + self.layer(self.tgt(tgt), tgt_mask)


def make_model(vocab, size=64, heads=4):
    attention = Attention(size, heads)
    layer = Layer(size, attention, nn.Linear(size, size))
    return Translator(layer, vocab, vocab, size)


if __name__ == "__main__":
    vocab = 11
    make_model(vocab)
""",
        "Attention",
    ),
    "its own probe()": (
        ATTENTION.replace("super().__init__()", "super().__init__()\n        assert (dim, heads) == (6, 3)")
        + """

def probe():
    return {"Attention": ((6,), {"heads": 3})}
""",
        "Attention",
    ),
    "a free function": (
        """
def attend(q, k, v, mask=None):
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(mask, -1e9)
    HERE
    return scores.softmax(-1) @ v
""",
        "attend",
    ),
    "parts of a configuration": (
        ATTENTION.replace("def __init__(self, dim, heads)", "def __init__(self, config)").replace(
            "super().__init__()",
            "super().__init__()\n        dim, heads = config.hidden_size, config.encoder['num_heads']\n        self.rope_base = 2 * config.rope.base",
        ),
        "Attention",
    ),
    "a kind of model, or its sizes": (
        ATTENTION.replace("def __init__(self, dim, heads)", "def __init__(self, config)").replace(
            "super().__init__()",
            "super().__init__()\n        assert (config.model_type is None) != (config.n_head is None)\n"
            "        dim, heads = config.n_embd, config.n_head",
        ),
        "Attention",
    ),
    "groups of keys, tables of angles and a dtype": (
        """
class Attention(nn.Module):
    def __init__(self, d_in, num_heads, num_kv_groups, dtype):
        super().__init__()
        assert num_heads % num_kv_groups == 0
        self.heads, self.groups, self.head_dim, self.dtype = num_heads, num_kv_groups, d_in // num_heads, dtype
        self.q = nn.Linear(d_in, d_in, dtype=dtype)
        self.k = nn.Linear(d_in, num_kv_groups * self.head_dim, dtype=dtype)
        self.v = nn.Linear(d_in, num_kv_groups * self.head_dim, dtype=dtype)

    def forward(self, x, mask, cos, sin):
        b, t, c = x.shape

        def split(y, heads):
            y = y.view(b, t, heads, -1).transpose(1, 2)
            return y.repeat_interleave(self.heads // heads, dim=1).to(self.dtype)

        q, k, v = split(self.q(x), self.heads), split(self.k(x), self.groups), split(self.v(x), self.groups)
        q, k = (y * cos + torch.roll(y, self.head_dim // 2, -1) * sin for y in (q, k))
        scores = (q @ k.transpose(2, 3)).masked_fill(mask, -torch.inf)
        HERE
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c)
""",
        "Attention",
    ),
    "three inputs of one width, and a mask of keys": (
        """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_heads, self.width, self.output_weights = config.n_heads, config.dim, config.output_weights
        self.q_lin, self.k_lin = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.v_lin = nn.Linear(config.dim, config.dim)

    def forward(self, query, key, value, mask):
        b, t, c = query.size()
        assert mask.dim() == 2

        def split(x):
            return x.view(b, -1, self.n_heads, c // self.n_heads).transpose(1, 2)

        scores = split(self.q_lin(query)) @ split(self.k_lin(key)).transpose(2, 3)
        HERE
        scores = scores.masked_fill((mask == 0).view(b, 1, 1, -1), float("-inf"))
        w = scores.softmax(-1)
        mixed = (w @ split(self.v_lin(value))).transpose(1, 2).reshape(b, t, -1)
        return (mixed, w) if self.output_weights else (mixed,)
""",
        "Attention",
    ),
    "a named tuple and a dictionary given back": (
        """
class Out(NamedTuple):
    y: torch.Tensor
    extra: dict


class Attention(nn.Module):
    def __init__(self, d_model=32):
        super().__init__()
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, query, key, value):
        w = (self.proj(query) @ key.transpose(1, 2)).softmax(-1)
        HERE
        return Out(w @ value, {"weights": w, "sizes": [w.size(-1)]})
""",
        "Attention",
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_class_is_built_and_called_without_help(prover: Prover, style: str) -> None:
    text, symbol = STYLES[style]
    verification = prove(prover, text, symbol)
    assert verification.status == "proved", verification.notes
    assert any(note.startswith("probes for 1 of 1 classes") for note in verification.notes)


@pytest.mark.parametrize("style", STYLES)
def test_and_called_in_a_way_that_tells(prover: Prover, style: str) -> None:
    text, symbol = STYLES[style]
    scores = next(name for name in ("scores", "att ", "w ") if f"{name.strip()} =" in text)
    assert prove(prover, text, symbol, wrong=f"{scores} = {scores} * 1.01").status == "failed"


def test_an_optional_mask_is_given(prover: Prover) -> None:
    text = ATTENTION.replace("        HERE\n", "").replace("mask == 0", "HERE")
    before, after = (HEAD + text.replace("HERE", code) for code in ("mask == 0", "mask != 0"))
    stage = Stage(("attention",), Promise.EXACT, before, after, (Claim(("Attention",), ("Attention",)),))
    verification = prover.prove(Plan(Path("model_file.py"), before, after, (stage,)), timeout=60)
    assert verification.status == "failed"


def test_head_counts_and_switches_are_varied(prover: Prover) -> None:
    text = ATTENTION.replace("def __init__(self, dim, heads)", "def __init__(self, dim, heads, sharp=False)").replace(
        "self.heads = heads", "self.heads, self.sharp = heads, sharp"
    )
    for wrong in ("scores = scores * (2 if self.sharp else 1)", "scores = scores * (1 if self.heads in (2, 4) else 2)"):
        assert prove(prover, text, "Attention", wrong=wrong).status == "failed", wrong


def test_what_cannot_be_built_is_not_proved_and_named(prover: Prover) -> None:
    text = ATTENTION.replace("super().__init__()", "super().__init__()\n        self.table = open(dim).read()")
    verification = prove(prover, text, "Attention")
    assert verification.status == "not verified"
    assert verification.notes[0].startswith("Attention: probe could not be checked")


def test_modules_beside_the_file_can_be_imported(prover: Prover, tmp_path: Path) -> None:
    (tmp_path / "sizes_beside.py").write_text("DIM = 24\n")
    text = "from sizes_beside import DIM\n" + ATTENTION.replace("dim, heads)", "dim=DIM, heads=2)")
    assert prove(prover, text, "Attention", tmp_path / "model.py").status == "proved"


def test_relative_imports_work_in_a_package(prover: Prover, tmp_path: Path) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("DIM = 24\n")
    text = "from .sizes import DIM\n" + ATTENTION.replace("dim, heads)", "dim=DIM, heads=2)")
    assert prove(prover, text, "Attention", package / "model.py").status == "proved"


def test_roots_are_the_outermost_models() -> None:
    index = FileIndex(LEGACY)
    assert roots_of(index, ["Attention"]) == ["Model"]
    assert roots_of(index, ["Predictor", "Encoder"]) == ["Model"]
    assert roots_of(index, []) == []


def test_sizes_of_a_call_site_are_made_small_and_kept_apart() -> None:
    text = "class Net:\n    pass\n\n\ndef main(depth=3):\n    dim = 512\n    heads = 8\n    return Net(dim, 4 * dim, vocab=50000, d=1024, depth=depth)\n"
    found = [guess.build for guess in guesses(FileIndex(text), "Net")]
    assert found[0]["setup"] == ["dim = 16", "depth = 3"]
    assert found[0]["call"] == "Net(dim, 4 * dim, vocab=48, d=32, depth=depth)"
    assert {
        "cls": "Net",
        "setup": ["dim = 512", "depth = 3"],
        "call": "Net(dim, 4 * dim, vocab=50000, d=1024, depth=depth)",
    } in found
