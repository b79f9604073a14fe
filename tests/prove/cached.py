"""Texts before and after phase 3, written by hand: the bundled file, and a GPT with learned or with rotary positions."""

from __future__ import annotations

from pathlib import Path

from migrator.codemod import CachedDecoding, CachedGeneration, Checkpointing, Claim, Phase, Promise
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Plan, Stage
from tests.prove import texts
from tests.prove.texts import changed

BUNDLED = Path(__file__).parents[2] / "fixtures" / "latent_drift_trajectory.py"
_CACHE = ("past_kv", "use_cache")
MAKE = "        if use_cache and past_kv is None:\n            past_kv = KVCache()\n"

# --- the bundled file ----------------------------------------------------------------------------------------------

_LOOP = """\
        tokens_{0} = torch.full((n_samples, seq_len), char2idx["?"], dtype=torch.long, device=device)
        for t in range(seq_len):
            logits = p_observe.get_logits(zs, tokens_{0})
            probs = torch.softmax(logits[:, t, :], dim=-1)
"""
CACHED_LOOP = """\
        tokens_{0} = torch.full((n_samples, seq_len), char2idx["?"], dtype=torch.long, device=device)
        past_kv = KVCache(max_len=seq_len)
        for t in range(seq_len):
            logits = p_observe.get_logits(zs[:, : t + 1], tokens_{0}[:, : t + 1], past_kv=past_kv)
            probs = torch.softmax(logits[:, -1], dim=-1)
"""
_TRUNK = "        x = self.trunk(x)\n        x = self.final_norm(x)\n        return x\n"
CUT = """\
        if past_kv is not None:  # what is cached is not computed again
            z, tokens_in = z[:, past_kv.length :], tokens_in[:, past_kv.length :]
"""


def bundled() -> Stage:
    """The bundled file after phase 2, and what phase 3 makes of it."""
    before = plan(BUNDLED, BUNDLED.read_text(encoding="utf-8"), phase=Phase.ARCHITECTURE).text
    after = changed(
        before,
        ("    DepthScaledInit,\n", "    DepthScaledInit,\n    GradientCheckpointing,\n    KVCache,\n    LayerCache,\n"),
        ("    def get_logits(self, z: Tensor, tokens: Tensor) -> Tensor:\n",
         "    def get_logits(\n        self, z: Tensor, tokens: Tensor, past_kv: KVCache | None = None, use_cache: bool = False\n"
         "    ) -> Tensor | tuple[Tensor, KVCache]:\n"),
        ('        tokens_in[:, 0] = char2idx["_"]\n', '        tokens_in[:, 0] = char2idx["_"]\n' + MAKE + CUT),
        ("        h = self.block(h)  # (B, L, hidden)\n", "        h = self.block(h, past_kv=past_kv and past_kv[0])  # (B, L, hidden)\n"),
        ("        h = self.final_norm(h)\n        return self.proj_out(h)\n",
         "        h = self.final_norm(h)\n        logits = self.proj_out(h)\n        return (logits, past_kv) if use_cache else logits\n"),
        ("    def forward(self, x: Tensor) -> Tensor:\n        # x: (B, T, C)\n",
         "    def forward(self, x: Tensor, past_kv: LayerCache | None = None) -> Tensor:\n        # x: (B, T, C)\n"),
        ("        q, k = self.rotary(q, k)\n", "        q, k = self.rotary(q, k, past_kv=past_kv)\n"),
        ("dropout_p=self.dropout if self.training else 0.0)\n        y = y.trans",
         "dropout_p=self.dropout if self.training else 0.0, past_kv=past_kv)\n        y = y.trans"),
        ("    def forward(self, x: Tensor) -> Tensor:\n        r = x  #",
         "    def forward(self, x: Tensor, past_kv: LayerCache | None = None) -> Tensor:\n        r = x  #"),
        ("        x = self.att_mh(x)\n", "        x = self.att_mh(x, past_kv=past_kv)\n"),
        (_LOOP.format("shared"), CACHED_LOOP.format("shared")),
        (_LOOP.format("random"), CACHED_LOOP.format("random")),
        ("class PosteriorEncoder(nn.Module):", "class PosteriorEncoder(GradientCheckpointing, nn.Module):"),
        ("class DeterministicLatentODE(nn.Module):", "class DeterministicLatentODE(GradientCheckpointing, nn.Module):"),
        (_TRUNK, _TRUNK.replace("x = self.trunk(x)", "for block in self.trunk:\n            x = self.checkpointed(block, x)")),
    )  # fmt: skip
    layers = ("QKVAttention", "TransformerBlock")
    cache = Claim(
        ("DiscreteObservation", *layers), ("DiscreteObservation", *layers),
        abilities=(CachedDecoding("DiscreteObservation", "get_logits", (("z", 1), ("tokens", 1))),),
        parameters=(("DiscreteObservation.get_logits", _CACHE), *((f"{name}.forward", ("past_kv",)) for name in layers)),
    )  # fmt: skip
    loop = Claim(("sample_sequences_ode",), (), abilities=(CachedGeneration("sample_sequences_ode"),))
    owners = ("PosteriorEncoder", "DeterministicLatentODE")
    checkpointing = Claim(
        owners, owners, abilities=(Checkpointing("PosteriorEncoder", "trunk"),),
        bases=tuple((name, "GradientCheckpointing") for name in owners),
    )  # fmt: skip
    return Stage(
        ("kv_cache", "generation_loop", "gradient_checkpointing"),
        Promise.EXACT,
        before,
        after,
        (cache, loop, checkpointing),
    )


# --- a GPT ---------------------------------------------------------------------------------------------------------

GPT = """\
import torch
import torch.nn.functional as F
from torch import nn
from runtime import attention


class SelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, dropout, causal=True):
        super().__init__()
        self.n_head, self.dropout, self.causal = n_head, dropout, causal
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.qkv(x).split(C, dim=2))
        y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, dropout, causal=True):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = SelfAttention(n_embd, n_head, dropout, causal)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 2 * n_embd), nn.GELU(), nn.Linear(2 * n_embd, n_embd), nn.Dropout(dropout))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, vocab_size=31, n_embd=16, n_head=2, n_layer=3, block_size=24, dropout=0.1):
        super().__init__()
        self.block_size = block_size
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList([Block(n_embd, n_head, dropout) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, idx, targets=None):
        T = idx.size(1)
        assert T <= self.block_size, T
        x = self.wte(idx) + self.wpe(torch.arange(T, device=idx.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, do_sample=False, top_k=None):
        for _ in range(max_new_tokens):
            idx_cond = idx if idx.size(1) <= self.block_size else idx[:, -self.block_size :]
            logits, _ = self(idx_cond)
            logits = logits[:, -1, :] / temperature
            if top_k is not None:
                v, _ = torch.topk(logits, top_k)
                logits[logits < v[:, [-1]]] = -float("inf")
            probs = F.softmax(logits, dim=-1)
            if do_sample:
                idx_next = torch.multinomial(probs, num_samples=1)
            else:
                _, idx_next = torch.topk(probs, k=1, dim=-1)
            idx = torch.cat((idx, idx_next), dim=1)
        return idx
"""

_POSITIONS = (
    "        x = self.wte(idx) + self.wpe(torch.arange(T, device=idx.device))\n",
    MAKE
    + "        start = 0 if past_kv is None else past_kv.length\n"
    + "        x = self.wte(idx[:, start:]) + self.wpe(torch.arange(start, T, device=idx.device))\n",
)
_CALL = """\
            idx_cond = idx if idx.size(1) <= self.block_size else idx[:, -self.block_size :]
            logits, _ = self(idx_cond)
"""
_CACHED_CALL = """\
            if idx.size(1) <= self.block_size:
                logits, _ = self(idx, past_kv=past_kv)
            else:  # the window moves on, and with it all positions: nothing that is cached fits any more
                logits, _ = self(idx[:, -self.block_size :])
"""
_BLOCKS = "        for block in self.blocks:\n            x = block(x)\n"

GPT_CACHED = changed(
    GPT,
    ("import attention\n", "import GradientCheckpointing, KVCache, attention\n"),
    ("class GPT(nn.Module):", "class GPT(GradientCheckpointing, nn.Module):"),
    ("    def forward(self, x):\n        B, T", "    def forward(self, x, past_kv=None):\n        B, T"),
    ("if self.training else 0.0)", "if self.training else 0.0, past_kv=past_kv)"),
    ("    def forward(self, x):\n        x = x + self.attn(self.ln_1(x))",
     "    def forward(self, x, past_kv=None):\n        x = x + self.attn(self.ln_1(x), past_kv=past_kv)"),
    ("idx, targets=None):", "idx, targets=None, past_kv: KVCache | None = None, use_cache: bool = False):"),
    _POSITIONS,
    (_BLOCKS, "        for i, block in enumerate(self.blocks):\n"
              "            x = self.checkpointed(block, x, past_kv=past_kv and past_kv[i])\n"),
    ("        return logits, loss\n", "        return (logits, loss, past_kv) if use_cache else (logits, loss)\n"),
    ("        for _ in range(max_new_tokens):\n",
     "        past_kv = KVCache(max_len=self.block_size)\n        for _ in range(max_new_tokens):\n"),
    (_CALL, _CACHED_CALL),
)  # fmt: skip

ROTARY = changed(
    GPT,
    ("import attention\n", "import RotaryEmbedding, attention\n"),
    ("        self.proj = nn.Linear(n_embd, n_embd)\n",
     "        self.proj = nn.Linear(n_embd, n_embd)\n        self.rotary = RotaryEmbedding(n_embd // n_head)\n"),
    ("        y = attention(", "        q, k = self.rotary(q, k)\n        y = attention("),
    ("        self.wpe = nn.Embedding(block_size, n_embd)\n", ""),
    (" + self.wpe(torch.arange(T, device=idx.device))", ""),
)  # fmt: skip
ROTARY_CACHED = changed(
    GPT_CACHED,
    ("KVCache, attention\n", "KVCache, RotaryEmbedding, attention\n"),
    ("        self.proj = nn.Linear(n_embd, n_embd)\n",
     "        self.proj = nn.Linear(n_embd, n_embd)\n        self.rotary = RotaryEmbedding(n_embd // n_head)\n"),
    ("        y = attention(", "        q, k = self.rotary(q, k, past_kv=past_kv)\n        y = attention("),
    ("        self.wpe = nn.Embedding(block_size, n_embd)\n", ""),
    (" + self.wpe(torch.arange(start, T, device=idx.device))", ""),
)  # fmt: skip


# --- the bundled file in small -------------------------------------------------------------------------------------

_LAYERS = ROTARY[ROTARY.index("class SelfAttention") : ROTARY.index("class GPT")]
LATENT = f"""\
import torch
import torch.nn.functional as F
from torch import nn
from runtime import RotaryEmbedding, attention


{_LAYERS}class Decoder(nn.Module):
    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, width)
        self.block = Block(width, 2, 0.0)
        self.proj_out = nn.Linear(width, vocab_size)

    def get_logits(self, z, tokens):
        tokens_in = tokens.roll(1, dims=1)
        tokens_in[:, 0] = 3
        h = self.block(z + self.emb(tokens_in))
        return self.proj_out(h)


class Model(nn.Module):
    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.width = width
        self.enc = nn.Sequential(nn.Embedding(vocab_size, width), Block(width, 2, 0.0, causal=False))
        self.decoder = Decoder(vocab_size, width)

    def forward(self, tokens):
        return F.cross_entropy(self.decoder.get_logits(self.enc(tokens), tokens).flatten(0, 1), tokens.flatten())


def sample(model: Model, seq_len: int, n_samples: int, device: torch.device):
    decoder = model.decoder
    with torch.no_grad():
        zs = torch.randn(n_samples, 1, model.width, device=device).repeat(1, seq_len, 1).cumsum(1)
        tokens_shared = torch.zeros(n_samples, seq_len, dtype=torch.long, device=device)
        for t in range(seq_len):
            logits = decoder.get_logits(zs, tokens_shared)
            probs = torch.softmax(logits[:, t, :], dim=-1)
            tokens_shared[:, t] = torch.multinomial(probs, num_samples=1).squeeze(-1)

        zs = torch.randn(n_samples, seq_len, model.width, device=device)
        tokens_random = torch.zeros(n_samples, seq_len, dtype=torch.long, device=device)
        for t in range(seq_len):
            logits = decoder.get_logits(zs, tokens_random)
            probs = torch.softmax(logits[:, t, :], dim=-1)
            tokens_random[:, t] = torch.multinomial(probs, num_samples=1).squeeze(-1)
    return tokens_shared, tokens_random
"""

_LAYERS_CACHED = ROTARY_CACHED[ROTARY_CACHED.index("class SelfAttention") : ROTARY_CACHED.index("class GPT")]
LATENT_CACHED = changed(
    LATENT,
    ("import RotaryEmbedding,", "import KVCache, RotaryEmbedding,"),
    (_LAYERS, _LAYERS_CACHED),
    ("def get_logits(self, z, tokens):", "def get_logits(self, z, tokens, past_kv: KVCache | None = None, use_cache: bool = False):"),
    ("        tokens_in[:, 0] = 3\n", "        tokens_in[:, 0] = 3\n" + MAKE + CUT),
    ("        h = self.block(z + self.emb(tokens_in))\n        return self.proj_out(h)\n",
     "        h = self.block(z + self.emb(tokens_in), past_kv=past_kv and past_kv[0])\n        logits = self.proj_out(h)\n"
     "        return (logits, past_kv) if use_cache else logits\n"),
    *(
        (
            f"        for t in range(seq_len):\n            logits = decoder.get_logits(zs, tokens_{name})\n"
            "            probs = torch.softmax(logits[:, t, :], dim=-1)\n",
            "        past_kv = KVCache(max_len=seq_len)\n        for t in range(seq_len):\n"
            f"            logits = decoder.get_logits(zs[:, : t + 1], tokens_{name}[:, : t + 1], past_kv=past_kv)\n"
            "            probs = torch.softmax(logits[:, -1], dim=-1)\n",
        )
        for name in ("shared", "random")
    ),
)  # fmt: skip


def latent() -> Stage:
    layers = ("SelfAttention", "Block")
    cache = Claim(
        ("Decoder", *layers), ("Decoder", *layers),
        abilities=(CachedDecoding("Decoder", "get_logits", (("z", 1), ("tokens", 1))),),
        parameters=(("Decoder.get_logits", _CACHE), *((f"{name}.forward", ("past_kv",)) for name in layers)),
    )  # fmt: skip
    loop = Claim(("sample",), (), abilities=(CachedGeneration("sample"),))
    return Stage(("kv_cache", "generation_loop"), Promise.EXACT, LATENT, LATENT_CACHED, (cache, loop))


def _gpt_stage(before: str, after: str) -> Stage:
    layers = ("SelfAttention", "Block")
    cache = Claim(
        ("GPT", *layers), ("GPT", *layers), abilities=(CachedDecoding("GPT", "forward", (("idx", 1),)),),
        parameters=(("GPT.forward", _CACHE), *((f"{name}.forward", ("past_kv",)) for name in layers)),
    )  # fmt: skip
    loop = Claim(("GPT",), ("GPT",), abilities=(CachedGeneration("GPT.generate"),))
    checkpointing = Claim(
        ("GPT",), ("GPT",), abilities=(Checkpointing("GPT", "blocks"),), bases=(("GPT", "GradientCheckpointing"),)
    )
    return Stage(
        ("kv_cache", "generation_loop", "gradient_checkpointing"),
        Promise.EXACT,
        before,
        after,
        (cache, loop, checkpointing),
    )


def gpt() -> Stage:
    return _gpt_stage(GPT, GPT_CACHED)


def rotary_gpt() -> Stage:
    return _gpt_stage(ROTARY, ROTARY_CACHED)


STAGES = {"bundled": bundled, "latent": latent, "gpt": gpt, "rotary": rotary_gpt}


# --- after stages that promise `new` -------------------------------------------------------------------------------

DEEP_CACHED = changed(
    texts.DEEP,
    ("DepthScaledInit, RotaryEmbedding,", "DepthScaledInit, KVCache, RotaryEmbedding,"),
    ("    def get_logits(self, z: Tensor, tokens: Tensor) -> Tensor:\n",
     "    def get_logits(\n        self, z: Tensor, tokens: Tensor, past_kv: KVCache | None = None, use_cache: bool = False\n"
     "    ) -> Tensor | tuple[Tensor, KVCache]:\n"),
    ("        tokens_in[:, 0] = 0\n", "        tokens_in[:, 0] = 0\n" + MAKE + CUT),
    ("        h = self.block(h)\n", "        h = self.block(h, past_kv=past_kv and past_kv[0])\n"),
    ("        return self.proj_out(h)\n\n    def forward(self, z",
     "        logits = self.proj_out(h)\n        return (logits, past_kv) if use_cache else logits\n\n    def forward(self, z"),
    ("    def forward(self, x: Tensor) -> Tensor:\n        q = ", "    def forward(self, x: Tensor, past_kv=None) -> Tensor:\n        q = "),
    ("        q, k = self.rotary(q, k)\n", "        q, k = self.rotary(q, k, past_kv=past_kv)\n"),
    ("if self.training else 0.0)", "if self.training else 0.0, past_kv=past_kv)"),
    ("    def forward(self, x: Tensor) -> Tensor:\n        r = x", "    def forward(self, x: Tensor, past_kv=None) -> Tensor:\n        r = x"),
    ("        x = self.att_mh(x)\n", "        x = self.att_mh(x, past_kv=past_kv)\n"),
)  # fmt: skip


def whole(path: Path, after: str = DEEP_CACHED) -> Plan:
    """All stages of the small file in `texts`, and a cache at their end."""
    layers = ("Attention", "Block")
    claim = Claim(
        ("Decoder", *layers), ("Decoder", *layers),
        abilities=(CachedDecoding("Decoder", "get_logits", (("z", 1), ("tokens", 1))),),
        parameters=(("Decoder.get_logits", _CACHE), *((f"{name}.forward", ("past_kv",)) for name in layers)),
    )  # fmt: skip
    last = Stage(("kv_cache",), Promise.EXACT, texts.DEEP, after, (claim,))
    return Plan(path, texts.LEGACY, after, (*texts.STAGES.values(), last))
