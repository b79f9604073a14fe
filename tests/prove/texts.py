"""A small legacy file in the shape of the target, and its rewrites, written by hand, with what they claim."""

from __future__ import annotations

from pathlib import Path

from migrator.codemod import Claim, DepthInitPart, NormPart, Part, Promise, RotaryPart, Swap, SwiGLUPart
from migrator.rewrite.plan import Plan, Stage

LEGACY = """\
import math

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F

chars = ["_"] + [chr(c) for c in range(ord("A"), ord("J"))]  # «ünïcode» before the code
vocab_size = len(chars)


class Decoder(nn.Module):
    def __init__(self, vocab_size: int, width: int, nb_heads: int = 2):
        super().__init__()
        self.vocab_size = vocab_size
        self.token_emb = nn.Embedding(vocab_size, width)
        self.latent_proj = nn.Linear(width, width)
        self.pos_enc = Positions(len_max=1e4)
        self.block = Block(dim_model=width, dim_hidden=width, nb_heads=nb_heads, causal=True, dropout=0.0)
        self.proj_out = nn.Linear(width, vocab_size)

    def get_logits(self, z: Tensor, tokens: Tensor) -> Tensor:
        tokens_in = tokens.roll(1, dims=1)
        tokens_in[:, 0] = 0
        h = self.latent_proj(z) + self.token_emb(tokens_in)
        h = self.pos_enc(h)
        h = self.block(h)
        return self.proj_out(h)

    def forward(self, z: Tensor, tokens: Tensor) -> D.Distribution:
        return D.Categorical(logits=self.get_logits(z, tokens).reshape(-1, self.vocab_size))


class Encoder(nn.Module):
    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, width)
        self.pos_enc = Positions(len_max=1e4)
        nb_heads = 2
        self.trunk = nn.Sequential(
            *[
                Block(dim_model=width, dim_hidden=width, nb_heads=nb_heads, causal=False, dropout=0.0)
                for _ in range(2)
            ]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        x = self.pos_enc(x)
        x = self.trunk(x)
        return x


class Positions(nn.Module):
    def __init__(self, len_max: float):
        super().__init__()
        self.len_max = len_max

    def forward(self, x: Tensor) -> Tensor:
        u = torch.arange(x.size(1), device=x.device)[:, None]
        j = torch.arange(x.size(2), device=x.device)[None, :]
        k = j % 2
        t = u / (self.len_max ** ((j - k) / x.size(2))) + math.pi / 2 * k
        return x + torch.sin(t)


class Attention(nn.Module):
    def __init__(self, dim_in, dim_qk, dim_v, nb_heads=1, causal=False, dropout=0.0):
        super().__init__()

        def randw(*d):
            return nn.Parameter(torch.randn(*d) / math.sqrt(d[-1]))

        self.causal = causal
        self.dropout = dropout
        self.w_q = randw(nb_heads, dim_qk, dim_in)
        self.w_k = randw(nb_heads, dim_qk, dim_in)
        self.w_v = randw(nb_heads, dim_v, dim_in)
        self.w_o = randw(dim_v * nb_heads, dim_in)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("ntc,hdc->nhtd", x, self.w_q)
        k = torch.einsum("ntc,hdc->nhtd", x, self.w_k)
        v = torch.einsum("ntc,hdc->nhtd", x, self.w_v)
        a = torch.einsum("nhtd,nhsd->nhts", q, k) / math.sqrt(self.w_q.size(1))
        if self.causal:
            t = torch.arange(x.size(1), device=x.device)
            hidden = t[None, None, :, None] < t[None, None, None, :]
            a = a.masked_fill(hidden, float("-inf"))
        a = a.softmax(dim=3)
        a = F.dropout(a, self.dropout, self.training)
        y = torch.einsum("nhts,nhsd->nthd", a, v).flatten(2)
        y = y @ self.w_o
        return y


class Block(nn.Module):
    def __init__(self, dim_model, dim_hidden, nb_heads, causal, dropout):
        super().__init__()
        self.att_ln = nn.LayerNorm((dim_model,))
        self.att_mh = Attention(
            dim_in=dim_model,
            dim_qk=dim_model // nb_heads,
            dim_v=dim_model // nb_heads,
            nb_heads=nb_heads,
            causal=causal,
            dropout=dropout,
        )
        self.ffn_ln = nn.LayerNorm((dim_model,))
        self.ffn_fc1 = nn.Linear(dim_model, dim_hidden)
        self.ffn_fc2 = nn.Linear(dim_hidden, dim_model)

    def forward(self, x: Tensor) -> Tensor:
        r = x
        x = self.att_ln(r)
        x = self.att_mh(x)
        r = r + x
        x = self.ffn_ln(r)
        x = self.ffn_fc1(x)
        x = F.relu(x)
        x = self.ffn_fc2(x)
        r = r + x
        return r


class Predictor(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.pos_enc = Positions(len_max=1e4)
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, z: Tensor) -> Tensor:
        z = self.pos_enc(z)
        return self.net(z)


class Model(nn.Module):
    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.encoder = Encoder(vocab_size, width)
        self.decoder = Decoder(vocab_size, width)
        self.predictor = Predictor(width)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, tokens: Tensor):
        self.step.add_(1)  # so that two calls differ
        z = self.encoder(tokens)
        p = self.decoder(self.predictor(z), tokens)
        loss = -p.log_prob(tokens.reshape(-1)).mean() * self.step
        return loss, {"latent": z.square().mean().detach()}


if __name__ == "__main__":
    width = 64
    model = Model(vocab_size=vocab_size, width=width)
    print(model(torch.zeros(2, 8, dtype=torch.long)))
    raise SystemExit(1)
"""

_IMPORT = "from torch.nn import functional as F\n"


def changed(text: str, *replacements: tuple[str, str]) -> str:
    """`text` with each first string replaced by its second; every one of them has to occur."""
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text


_EAGER = LEGACY[LEGACY.index('        a = torch.einsum("nhtd,nhsd') : LEGACY.index("        y = y @ self.w_o\n")]
_SINUSOID = LEGACY[LEGACY.index("        u = torch.arange") : LEGACY.index("class Attention")]
_CALL = "attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)"

EXACT = changed(
    LEGACY,
    (_IMPORT, _IMPORT + "from runtime import SinusoidalPositionalEncoding, attention\n"),
    (_EAGER, f"        y = {_CALL}\n        y = y.transpose(1, 2).flatten(2)\n"),
    (_SINUSOID, "        return self.encoding(x)\n\n\n"),
    (
        "        self.len_max = len_max\n",
        "        self.len_max = len_max\n        self.encoding = SinusoidalPositionalEncoding(base=len_max)\n",
    ),
)

ROTARY = changed(
    EXACT,
    ("import SinusoidalPositionalEncoding,", "import RotaryEmbedding, SinusoidalPositionalEncoding,"),
    ("        self.pos_enc = Positions(len_max=1e4)\n        self.block", "        self.block"),
    ("        self.pos_enc = Positions(len_max=1e4)\n        nb_heads", "        nb_heads"),
    ("        h = self.pos_enc(h)\n", ""),
    ("        x = self.pos_enc(x)\n", ""),
    (
        "        self.w_o = randw(dim_v * nb_heads, dim_in)\n",
        "        self.w_o = randw(dim_v * nb_heads, dim_in)\n        self.rotary = RotaryEmbedding(dim_qk, base=1e4)\n",
    ),
    ("        y = attention(", "        q, k = self.rotary(q, k)\n        y = attention("),
)

NORMED = changed(
    ROTARY,
    ("        self.proj_out =", "        self.final_norm = nn.LayerNorm(width)\n        self.proj_out ="),
    ("        h = self.block(h)\n", "        h = self.block(h)\n        h = self.final_norm(h)\n"),
    ("for _ in range(2)\n            ]\n        )\n",
     "for _ in range(2)\n            ]\n        )\n        self.final_norm = nn.LayerNorm(width)\n"),
    ("        x = self.trunk(x)\n", "        x = self.trunk(x)\n        x = self.final_norm(x)\n"),
)  # fmt: skip

GATED = changed(
    NORMED,
    (", attention\n", ", attention, swiglu, swiglu_width\n"),
    (
        "        self.ffn_fc1 = nn.Linear(dim_model, dim_hidden)\n        self.ffn_fc2 = nn.Linear(dim_hidden, dim_model)\n",
        "        dim_swiglu = swiglu_width(dim_hidden)\n        self.ffn_fc1 = nn.Linear(dim_model, dim_swiglu)\n"
        "        self.ffn_up = nn.Linear(dim_model, dim_swiglu)\n        self.ffn_fc2 = nn.Linear(dim_swiglu, dim_model)\n",
    ),
    (
        "        x = self.ffn_fc1(x)\n        x = F.relu(x)\n",
        "        x = swiglu(self.ffn_fc1(x), self.ffn_up(x))\n",
    ),
)

_OUTPUTS = 'outputs=("att_mh.w_o", "ffn_fc2.weight")'
DEEP = changed(
    GATED,
    ("import RotaryEmbedding,", "import DepthScaledInit, RotaryEmbedding,"),
    (
        "        self.token_emb = nn.Embedding(vocab_size, width)\n",
        "        self.token_emb = nn.Embedding(vocab_size, width)\n        nn.init.normal_(self.token_emb.weight, std=0.02)\n",
    ),
    (
        "        self.emb = nn.Embedding(vocab_size, width)\n",
        "        self.emb = nn.Embedding(vocab_size, width)\n        nn.init.normal_(self.emb.weight, std=0.02)\n",
    ),
    (
        "        self.proj_out = nn.Linear(width, vocab_size)\n",
        "        self.proj_out = nn.Linear(width, vocab_size)\n"
        f"        self.depth_init = DepthScaledInit(self.block, {_OUTPUTS})\n",
    ),
    (
        "        self.final_norm = nn.LayerNorm(width)\n\n",
        "        self.final_norm = nn.LayerNorm(width)\n"
        f"        self.depth_init = DepthScaledInit(self.trunk, {_OUTPUTS})\n\n",
    ),
)


def swap(text: str, expression: str, off: str) -> Swap:
    """The swap of the only place in `text` where `expression` stands."""
    before, _, rest = text.partition(expression)
    assert expression not in rest, expression
    line = before.count("\n") + 1
    column = len(before.rpartition("\n")[2].encode())
    return Swap(line, column, line, column + len(expression.encode()), off)


_CHANGES = (("absolute position", "rotary attention sees distances alone"),)
_DEPTH = ("att_mh.w_o", "ffn_fc2.weight")


def _claims(name: str, *parts: Part) -> Claim:
    return Claim((name,), (name,), parts=parts)


STAGES = {
    "exact": Stage(
        ("positional_encoding", "attention"), Promise.EXACT, LEGACY, EXACT, (_claims("Positions"), _claims("Attention"))
    ),
    "rotary": Stage(
        ("rotary",), Promise.NEW, EXACT, ROTARY,
        (Claim(
            ("Encoder", "Decoder", "Attention"), ("Attention", "Encoder", "Decoder"),
            off=(swap(EXACT, "self.pos_enc(h)", "h"), swap(EXACT, "self.pos_enc(x)", "x")),
            parts=(RotaryPart("Attention", "rotary", 1e4, "interleaved"),), changes=_CHANGES,
        ),),
    ),
    "final_norm": Stage(
        ("final_norm",), Promise.NEW, ROTARY, NORMED,
        (_claims("Encoder", NormPart("Encoder", "final_norm", "trunk")),
         _claims("Decoder", NormPart("Decoder", "final_norm", "block"))),
    ),
    "swiglu": Stage(
        ("swiglu",), Promise.NEW, NORMED, GATED,
        (Claim(
            ("Block",), ("Block",), off=(swap(NORMED, "F.relu(x)", "(x)"),),
            parts=(SwiGLUPart("Block", "ffn_fc1", "ffn_up", "ffn_fc2"),),
        ),),
    ),
    "depth_init": Stage(
        ("depth_init",), Promise.NEW, GATED, DEEP,
        (_claims("Encoder", DepthInitPart("Encoder", "depth_init", "trunk", _DEPTH, ("emb",))),
         _claims("Decoder", DepthInitPart("Decoder", "depth_init", "block", _DEPTH, ("token_emb",)))),
    ),
}  # fmt: skip


def one_stage(stage: Stage, path: Path, after: str | None = None) -> Plan:
    """A plan of this stage alone, perhaps with another result."""
    text = stage.after if after is None else after
    return Plan(path, stage.before, text, (Stage(stage.codemods, stage.promise, stage.before, text, stage.claims),))


def whole(path: Path) -> Plan:
    return Plan(path, LEGACY, DEEP, tuple(STAGES.values()))
