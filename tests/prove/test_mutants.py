"""Negative controls: every way in which a rewrite can go wrong is rejected, by the check that is there for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from migrator.prove import Prover
from tests.prove.texts import STAGES, changed, one_stage, whole

PATH = Path("small_model.py")


@dataclass(frozen=True)
class Mutant:
    """A wrong result of a stage, and the class and check that have to reject it."""

    name: str
    stage: str
    symbol: str
    check: str
    replacements: tuple[tuple[str, str], ...]


def mutant(name: str, stage: str, symbol: str, check: str, *replacements: tuple[str, str]) -> Mutant:
    return Mutant(name, stage, symbol, check, replacements)


_ATTEND = "attention(q, k, v, causal=self.causal"
_DROPOUT = "dropout_p=self.dropout if self.training else 0.0"
_PROJECT = "        y = y @ self.w_o\n"
_ROTATE = "        q, k = self.rotary(q, k)\n"
_FINAL = "        x = self.final_norm(x)\n"
_GATED = "swiglu(self.ffn_fc1(x), self.ffn_up(x))"
_SCALED = "        self.depth_init = DepthScaledInit(self.trunk, "
_SUM = "        r = r + x\n        x = self.ffn_ln(r)\n"

MUTANTS = [
    # the same function?
    mutant("scale lost", "exact", "Attention", "parity float64", (_ATTEND, f"{_ATTEND}, scale=1.0")),
    mutant("scale off by 0.1 %", "exact", "Attention", "parity float64",
           (_ATTEND, f"{_ATTEND}, scale=1.001 / math.sqrt(q.size(-1))")),
    mutant("scale of the wrong width", "exact", "Attention", "parity float64",
           (_ATTEND, f"{_ATTEND}, scale=1 / math.sqrt(v.size(-1))")),
    mutant("q and k swapped", "exact", "Attention", "parity float64", ("attention(q, k, v", "attention(k, q, v")),
    mutant("k and v swapped", "exact", "Attention", "parity float64", ("attention(q, k, v", "attention(q, v, k")),
    mutant("mask lost", "exact", "Attention", "parity float64", ("causal=self.causal", "causal=False")),
    mutant("mask where there was none", "exact", "Attention", "parity float64", ("causal=self.causal", "causal=True")),
    mutant("mask inverted", "exact", "Attention", "parity float64",
           ("causal=self.causal", "mask=torch.ones(x.size(1), x.size(1)).triu().bool() if self.causal else None")),
    mutant("mask off by one", "exact", "Attention", "parity float64",
           ("causal=self.causal", "mask=torch.ones(x.size(1), x.size(1)).tril(1).bool() if self.causal else None")),
    mutant("softmax over queries", "exact", "Attention", "parity float64",
           (f"attention(q, k, v, causal=self.causal, {_DROPOUT})",
            "(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(dim=2) @ v")),
    mutant("w_o transposed", "exact", "Attention", "parity float64", ("y @ self.w_o", "y @ self.w_o.T")),
    mutant("heads and width mixed", "exact", "Attention", "parity float64",
           ("y.transpose(1, 2).flatten(2)", "y.transpose(1, 2).transpose(2, 3).flatten(2)")),
    mutant("dropout in eval", "exact", "Attention", "dropout", (_DROPOUT, "dropout_p=self.dropout")),
    mutant("dropout lost", "exact", "Attention", "dropout", (f", {_DROPOUT}", "")),
    mutant("dropout of another rate", "exact", "Attention", "dropout", (_DROPOUT, "dropout_p=0.6 if self.training else 0.0")),
    mutant("noise in eval", "exact", "Attention", "parity float64",
           (_PROJECT, "        y = y @ self.w_o + 1e-3 * torch.rand(())\n")),
    mutant("gradient cut", "exact", "Attention", "parity float64", ("attention(q, k, v", "attention(q, k.detach(), v")),
    mutant("dtype fixed", "exact", "Attention", "parity float64", (_PROJECT, "        y = (y @ self.w_o).float()\n")),
    mutant("rounded inside", "exact", "Attention", "parity float64", (_PROJECT, "        y = y.float().to(x.dtype) @ self.w_o\n")),
    mutant("other base", "exact", "Positions", "parity float64", ("Encoding(base=len_max)", "Encoding(base=len_max * 10)")),
    mutant("positions not added", "exact", "Positions", "parity float64",
           ("return self.encoding(x)", "return self.encoding(x) - x")),
    mutant("another type returned", "exact", "Attention", "parity float64", ("        return y\n", "        return y, None\n")),
    # the same weights?
    mutant("order of the initial values", "exact", "Attention", "initial values",
           ("        self.w_q = randw(nb_heads, dim_qk, dim_in)\n        self.w_k = randw(nb_heads, dim_qk, dim_in)\n",
            "        self.w_k = randw(nb_heads, dim_qk, dim_in)\n        self.w_q = randw(nb_heads, dim_qk, dim_in)\n")),
    mutant("other initial values", "exact", "Attention", "initial values", ("/ math.sqrt(d[-1])", "/ math.sqrt(d[-2])")),
    mutant("one random number more", "exact", "Attention", "initial values",
           ("        self.causal = causal\n", "        self.causal = causal\n        torch.rand(())\n")),
    mutant("dead parameter", "exact", "Attention", "initial values",
           ("        self.causal = causal\n", "        self.causal = causal\n        self.dummy = nn.Parameter(torch.zeros(1))\n")),
    mutant("persistent table", "exact", "Positions", "initial values",
           ("        self.len_max = len_max\n", "        self.len_max = len_max\n        self.register_buffer('t', torch.zeros(3))\n")),
    mutant("attribute gone", "exact", "Positions", "initial values", ("        self.len_max = len_max\n", "")),
    mutant("attribute became a module", "exact", "Attention", "initial values",
           ("        self.dropout = dropout\n", "        self.dropout = nn.Dropout(dropout)\n"),
           (_DROPOUT, "dropout_p=self.dropout.p if self.training else 0.0")),
    # the same text elsewhere?
    mutant("another definition changed", "exact", "Predictor", "scope", ("        return self.net(z)", "        return self.net(z) * 1")),
    mutant("positions dropped from Predictor", "rotary", "Predictor", "scope", ("        z = self.pos_enc(z)\n", "")),
    mutant("constructor renamed", "exact", "Attention", "scope", ("nb_heads=1, causal=False", "num_heads=1, causal=False"),
           ("randw(nb_heads, dim_qk, dim_in)", "randw(num_heads, dim_qk, dim_in)"),
           ("randw(nb_heads, dim_v, dim_in)", "randw(num_heads, dim_v, dim_in)"), ("dim_v * nb_heads", "dim_v * num_heads")),
    mutant("constant changed", "exact", "module level", "scope", ('ord("J")', 'ord("K")')),
    mutant("statement added", "exact", "module level", "scope", ("vocab_size = len(chars)\n", "vocab_size = len(chars)\nprint(1)\n")),
    # rotary
    mutant("rotary on v", "rotary", "Attention", "rotary reference", (_ROTATE, _ROTATE + "        v, _ = self.rotary(v, v)\n")),
    mutant("rotary missing on k", "rotary", "Attention", "rotary reference", (_ROTATE, "        q, _ = self.rotary(q, k)\n")),
    mutant("rotary twice", "rotary", "Attention", "rotary reference", (_ROTATE, _ROTATE + _ROTATE)),
    mutant("wrong base", "rotary", "Attention", "rotary reference", ("dim_qk, base=1e4", "dim_qk, base=1e5")),
    mutant("wrong layout", "rotary", "Attention", "rotary reference", ("dim_qk, base=1e4", "dim_qk, base=1e4, layout='half'")),
    mutant("offset forgotten on k", "rotary", "Attention", "rotary reference",
           (_ROTATE, "        q, k = self.rotary(q, k, offset=3)[0], self.rotary(q, k)[1]\n")),
    mutant("rotary never called", "rotary", "Attention", "rotary reference", (_ROTATE, "")),
    mutant("rotary dropped with the residual", "rotary", "Attention", "isolation", (_PROJECT, "        y = x + y @ self.w_o\n")),
    mutant("encoder lost its trunk", "rotary", "Encoder", "isolation", ("        x = self.trunk(x)\n", "")),
    mutant("encoder got causal", "rotary", "Encoder", "isolation", ("causal=False, dropout=0.0)\n                for", "causal=True, dropout=0.0)\n                for")),
    mutant("attribute gone", "rotary", "Attention", "isolation",
           ("        self.dropout = dropout\n", "        self.rate = dropout\n"), ("dropout_p=self.dropout", "dropout_p=self.rate")),
    # final norm
    mutant("final norm unused", "final_norm", "Encoder", "norm reference", (_FINAL, "")),
    mutant("final norm without its result", "final_norm", "Encoder", "norm reference", (_FINAL, "        self.final_norm(x)\n")),
    mutant("final norm before the trunk", "final_norm", "Encoder", "norm reference",
           ("        x = self.trunk(x)\n" + _FINAL, _FINAL + "        x = self.trunk(x)\n")),
    mutant("norm twice", "final_norm", "Encoder", "norm reference", (_FINAL, _FINAL + _FINAL)),
    mutant("norm of the mean over the batch", "final_norm", "Encoder", "isolation",
           (_FINAL, "        x = self.final_norm(x.mean(0, keepdim=True).expand_as(x))\n")),
    mutant("batch norm", "final_norm", "Encoder", "norm reference",
           ("        self.final_norm = nn.LayerNorm(width)\n\n", "        self.final_norm = nn.BatchNorm1d(13)\n\n")),
    mutant("norm with a residual", "final_norm", "Encoder", "isolation", (_FINAL, "        x = x + self.final_norm(x)\n")),
    mutant("norm with another start", "final_norm", "Encoder", "norm reference",
           ("        self.final_norm = nn.LayerNorm(width)\n\n", "        self.final_norm = nn.LayerNorm(width)\n        nn.init.constant_(self.final_norm.weight, 0.5)\n\n")),
    mutant("a second new parameter", "final_norm", "Encoder", "isolation",
           ("        self.final_norm = nn.LayerNorm(width)\n\n", "        self.final_norm = nn.LayerNorm(width)\n        self.gain = nn.Parameter(torch.ones(1))\n\n")),
    # swiglu
    mutant("gate and up swapped", "swiglu", "Block", "isolation", (_GATED, "swiglu(self.ffn_up(x), self.ffn_fc1(x))")),
    mutant("up is the gate", "swiglu", "Block", "SwiGLU reference", (_GATED, "swiglu(self.ffn_fc1(x), self.ffn_fc1(x))")),
    mutant("another activation", "swiglu", "Block", "isolation", (_GATED, "F.gelu(self.ffn_fc1(x)) * self.ffn_up(x)")),
    mutant("residual dropped", "swiglu", "Block", "isolation", (_SUM, "        r = x\n        x = self.ffn_ln(r)\n")),
    mutant("up sees the raw residual", "swiglu", "Block", "SwiGLU reference",
           (_GATED, "swiglu(self.ffn_fc1(x), self.ffn_up(r))")),
    mutant("output scaled", "swiglu", "Block", "isolation", ("        x = self.ffn_fc2(x)\n", "        x = 2 * self.ffn_fc2(x)\n")),
    mutant("down without bias", "swiglu", "Block", "isolation",
           ("self.ffn_fc2 = nn.Linear(dim_swiglu, dim_model)", "self.ffn_fc2 = nn.Linear(dim_swiglu, dim_model, bias=False)")),
    # depth
    mutant("scaled as one block", "depth_init", "Encoder", "initial scale", (_SCALED, "        self.depth_init = DepthScaledInit(self.trunk[0], ")),
    mutant("scaled twice", "depth_init", "Encoder", "initial scale",
           (_SCALED, "        self.other = DepthScaledInit(self.trunk, outputs=('att_mh.w_o',))\n" + _SCALED)),
    mutant("only one of the outputs", "depth_init", "Encoder", "initial scale",
           (_SCALED + 'outputs=("att_mh.w_o", "ffn_fc2.weight")', _SCALED + 'outputs=("att_mh.w_o",)')),
    mutant("another weight scaled", "depth_init", "Encoder", "other initial values",
           (_SCALED + 'outputs=("att_mh.w_o", ', _SCALED + 'outputs=("att_mh.w_o", "att_mh.w_v", ')),
    mutant("embedding of another std", "depth_init", "Encoder", "other initial values", ("self.emb.weight, std=0.02", "self.emb.weight, std=0.1")),
    mutant("embedding left as it was", "depth_init", "Encoder", "other initial values",
           ("        nn.init.normal_(self.emb.weight, std=0.02)\n", "")),
    mutant("lost in apply()", "depth_init", "Encoder", "scale after apply()",
           (_SCALED, "        once = type('Once', (DepthScaledInit,), {'apply': nn.Module.apply})\n        self.depth_init = once(self.trunk, ")),
]  # fmt: skip


@pytest.mark.parametrize("wrong", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_rejected_by_its_check(prover: Prover, wrong: Mutant) -> None:
    stage = STAGES[wrong.stage]
    verification = prover.prove(one_stage(stage, PATH, changed(stage.after, *wrong.replacements)), timeout=60)
    assert verification.status == "failed", verification.notes
    failed = [(check.symbol, check.name) for check in verification.checks if not check.passed]
    assert failed[0] == (wrong.symbol, wrong.check), [check for check in verification.checks if not check.passed]


@pytest.mark.parametrize("number", range(2))
def test_the_correct_file_passes_every_time(prover: Prover, number: int) -> None:
    verification = prover.prove(whole(PATH), timeout=100)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]
