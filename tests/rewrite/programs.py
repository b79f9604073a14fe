"""Programs for the fuzzer: attention, feed-forwards, blocks and a model, each put together from spellings at random."""

from __future__ import annotations

from hypothesis import strategies as st

HEAD = """import math

import torch
import torch.nn.functional as F
from torch import nn
"""

_PROJECTIONS = [
    """q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)""",
    """q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))""",
    """q, k, v = self.qkv(x).chunk(3, dim=-1)
q = q.view(b, t, self.heads, self.head_dim).transpose(1, 2)
k = k.view(b, t, self.heads, self.head_dim).transpose(1, 2)
v = v.view(b, t, self.heads, self.head_dim).transpose(1, 2)""",
]
_SCORES = [
    "scores = q @ k.transpose(-2, -1)",
    "scores = torch.matmul(q, k.transpose(2, 3))",
    'scores = torch.einsum("bhid,bhjd->bhij", q, k)',
    'scores = torch.einsum("...id, ...jd -> ...ij", [q, k])',
    "k = k.transpose(-2, -1)\nscores = torch.matmul(q, k)",
]
_SCALES = [
    "",
    "scores = scores * self.scale",
    "scores = scores / math.sqrt(q.size(-1))",
    "scores /= k.shape[-1] ** 0.5",
    "scores.mul_(0.3)",
]
_MASKS = [
    "",
    "if mask is not None:\n    scores = scores.masked_fill(mask == 0, -1e9)",
    "if mask is not None:\n    mask = mask.unsqueeze(0)\n    scores = scores.masked_fill(~mask, float('-inf'))",
    "if mask is not None:\n    scores.masked_fill_(~mask[None], -1e9)",
    "scores = scores.masked_fill(torch.triu(torch.ones(t, t), diagonal=1).bool(), float('-inf'))",
    "if self.causal:\n    late = torch.ones(t, t).triu(1).bool()\n    scores = scores.masked_fill(late, -1e9)",
    "i, j = scores.shape[-2:]\nscores = scores.masked_fill(torch.ones(i, j).triu_(j - i + 1).bool(), float('-inf'))",
    "seen = self.tril[:t, :t]\nscores = scores * seen - 1e9 * (1 - seen)",
    "scores = torch.where(self.tril[:t, :t] == 1, scores, float('-inf'))",
    "scores = scores + self.tril[:t, :t]",
]
_SOFTMAXES = [
    "weights = torch.softmax(scores, dim=-1)",
    "weights = scores.softmax(-1)",
    "weights = F.softmax(scores, dim=3)",
    "weights = nn.Softmax(dim=-1)(scores)",
    "weights = self.attend(scores)",
]
_DROPOUTS = [
    "",
    "weights = self.dropout(weights)",
    "weights = F.dropout(weights, 0.0, self.training)",
    "if self.training:\n    weights = F.dropout(weights, self.dropout.p)",
]
_SUMS = ["y = weights @ v", "y = torch.matmul(weights, v)", 'y = torch.einsum("bhij,bhjd->bhid", weights, v)']
_MODERN = "y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)"
_RETURNS = [
    "return self.out(y.transpose(1, 2).reshape(b, t, -1))",
    "y = y.transpose(1, 2).contiguous().view(b, t, -1)\nreturn self.out(y)",
]
# What keeps an attention from being rewritten, by the place where it stands.
_SPOILERS = {
    "scale": ["scores = scores / self.temperature"],
    "mask": ["scores = scores.clamp(-3, 3)", "scores = scores + 0.1 * scores.mean(-1, keepdim=True)"],
    "softmax": ["weights = F.softmax(scores, dim=-2)"],
    "dropout": ["weights = weights * 0.5"],
    "return": ["self.seen = weights\nreturn self.out(y.transpose(1, 2).reshape(b, t, -1))"],
}
_BEHIND = ["", "# the rest", "size = scores.size(-1)\nassert size == t", "del scores"]


def _body(*parts: str) -> str:
    lines = ["b, t, _ = x.shape", *(line for part in parts if part for line in part.split("\n"))]
    return "".join(f"        {line}\n" for line in lines)


@st.composite
def attention(draw: st.DrawFn, name: str) -> str:
    """A class `name(dim, heads)` whose forward takes `(x, mask)`."""
    masks = [("mask", _MASKS)] * draw(st.sampled_from([1, 1, 1, 2]))
    steps = [("", _PROJECTIONS), ("", _SCORES), ("scale", _SCALES), *masks, ("softmax", _SOFTMAXES)]
    steps += [("dropout", _DROPOUTS), ("", _SUMS), ("", _BEHIND), ("return", _RETURNS)]
    spoilt = draw(st.sampled_from([None, None, *_SPOILERS]))
    pick = [draw(st.sampled_from(_SPOILERS[place] if place == spoilt else choices)) for place, choices in steps]
    modern = draw(st.sampled_from([False] * 7 + [True]))
    body = _body(pick[0], _MODERN, _RETURNS[0]) if modern else _body(*pick)
    return f"""

class {name}(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.causal = {draw(st.booleans())}
        self.temperature = nn.Parameter(torch.ones(()))
        self.register_buffer("tril", torch.tril(torch.ones(16, 16)))
        self.attend = nn.Sequential(nn.Softmax(dim=-1), nn.Dropout(0.0))
        self.dropout = nn.Dropout(0.0)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, mask=None):
{body}"""


_FEED_FORWARDS = [
    "nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))",
    "nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.0), nn.Linear(4 * dim, dim), nn.Dropout(0.0))",
    "nn.Sequential(nn.Linear(dim, 2 * dim), nn.GLU())",
    "nn.Identity()",
]
_BLOCKS = [
    "x = x + self.attn(self.norm1(x), mask)\nreturn x + self.ff(self.norm2(x))",
    "x = self.norm1(x + self.attn(x, mask))\nreturn self.norm2(x + self.ff(x))",
    "h = self.norm1(x)\nx = x + self.attn(h)\nh = self.norm2(x)\nx = x + self.ff(h)\nreturn x",
    "x = x + self.norm1(self.attn(x, mask))\nreturn x + self.norm2(self.ff(x))",
    "x = self.attn(x, mask) + x\nx = self.norm1(x)\nx = self.ff(x) + x\nx = self.norm2(x)\nreturn x",
]
_STACKS = [
    "for block in self.blocks:\n    x = block(x, mask)",
    "for block in self.blocks:\n    x = block(x)\nx = self.norm(x)",
    "x = self.blocks[0](x, mask)\nx = self.blocks[1](x, mask)",
]
_SINUSOID = """

class Positions(nn.Module):
    def __init__(self, base=1e4):
        super().__init__()
        self.base = base

    def forward(self, x):
        u = torch.arange(x.size(1))[:, None]
        j = torch.arange(x.size(2))[None, :]
        k = j % 2
        return x + torch.sin(u / self.base ** ((j - k) / x.size(2)) + math.pi / 2 * k)
"""


@st.composite
def programs(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A file, and the names of its attention classes; it ends with a class `Model(dim, heads)` of blocks."""
    names = ["Attention", "Mixer", "Glance"][: draw(st.integers(1, 3))]
    text = HEAD + "".join(draw(attention(name)) for name in names)
    with_positions = draw(st.booleans())
    text += _SINUSOID if with_positions else ""
    block = "".join(f"        {line}\n" for line in draw(st.sampled_from(_BLOCKS)).split("\n"))
    stack = "".join(f"        {line}\n" for line in draw(st.sampled_from(_STACKS)).split("\n"))
    return (
        text
        + f"""

class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn = {draw(st.sampled_from(names))}(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = {draw(st.sampled_from(_FEED_FORWARDS))}

    def forward(self, x, mask=None):
{block}

class Model(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.embed = nn.Embedding(11, dim)
        self.positions = {"Positions()" if with_positions else "nn.Identity()"}
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 11)

    def forward(self, tokens, mask=None):
        x = self.positions(self.embed(tokens))
{stack}        return self.head(x)
""",
        names,
    )
