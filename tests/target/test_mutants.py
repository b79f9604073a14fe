"""Mutants of the rewritten bundled file: each is rejected, with a message that names the class and the check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from migrator import prove
from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Plan

from .conftest import FIXTURE

# Stage, what is wrong, the class and check that find it, what stands in the rewritten text, what the mutant has there.
MUTANTS = [
    (
        "attention",
        "wrong scale",
        "QKVAttention: parity float64",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0, scale=0.2)",
    ),
    (
        "attention",
        "q/k swapped",
        "QKVAttention: parity float64",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(k, q, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
    ),
    (
        "attention",
        "mask lost",
        "QKVAttention: parity float64",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(q, k, v, causal=False, dropout_p=self.dropout if self.training else 0.0)",
    ),
    (
        "attention",
        "mask inverted",
        "QKVAttention: parity float64",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(q, k, v, mask=torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu() if self.causal else None, dropout_p=self.dropout if self.training else 0.0)",
    ),
    ("attention", "w_o transposed", "QKVAttention: parity float64", "y = y @ self.w_o ", "y = y @ self.w_o.T "),
    (
        "attention",
        "dropout in eval",
        "QKVAttention: dropout",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(q, k, v, causal=self.causal, dropout_p=0.1)",
    ),
    ("attention", "residual dropped", "TransformerBlock: scope", "        return r + x\n", "        return x\n"),
    (
        "attention",
        "dead parameter",
        "QKVAttention: initial values",
        "self.w_o = randw(dim_v * nb_heads, dim_in)\n",
        "self.w_o = randw(dim_v * nb_heads, dim_in)\n        self.dummy = nn.Parameter(torch.zeros(1))\n",
    ),
    (
        "attention",
        "wrong sinusoid base",
        "AddPositionalEncoding: parity float64",
        "SinusoidalPositionalEncoding(base=len_max)",
        "SinusoidalPositionalEncoding(base=1e4)",
    ),
    ("attention", "positions dropped from Predictor", "Predictor: scope", "z = self.pos_enc(z)", "z = z"),
    (
        "attention",
        "init order changed",
        "QKVAttention: initial values",
        "        self.w_q = randw(nb_heads, dim_qk, dim_in)\n        self.w_k = randw(nb_heads, dim_qk, dim_in)\n",
        "        self.w_k = randw(nb_heads, dim_qk, dim_in)\n        self.w_q = randw(nb_heads, dim_qk, dim_in)\n",
    ),
    (
        "rotary",
        "rotary on v",
        "QKVAttention: rotary reference",
        "q, k = self.rotary(q, k)\n",
        "q, k = self.rotary(q, k)\n        v, _ = self.rotary(v, v)\n",
    ),
    (
        "rotary",
        "rotary missing on k",
        "QKVAttention: rotary reference",
        "q, k = self.rotary(q, k)\n",
        "q, _ = self.rotary(q, k)\n",
    ),
    (
        "rotary",
        "wrong base",
        "QKVAttention: rotary reference",
        "RotaryEmbedding(dim_qk, base=1e5)",
        "RotaryEmbedding(dim_qk, base=1e4)",
    ),
    (
        "rotary",
        "wrong layout",
        "QKVAttention: rotary reference",
        "RotaryEmbedding(dim_qk, base=1e5)",
        'RotaryEmbedding(dim_qk, base=1e5, layout="half")',
    ),
    (
        "rotary",
        "rotary twice",
        "QKVAttention: rotary reference",
        "q, k = self.rotary(q, k)\n",
        "q, k = self.rotary(*self.rotary(q, k))\n",
    ),
    ("rotary", "positions dropped from Predictor", "Predictor: scope", "z = self.pos_enc(z)", "z = z"),
    (
        "rotary",
        "causality lost",
        "QKVAttention: isolation",
        "y = attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0)",
        "y = attention(q, k, v, causal=False, dropout_p=self.dropout if self.training else 0.0)",
    ),
    (
        "final_norm",
        "norm unused",
        "DiscreteObservation: norm reference",
        "h = self.final_norm(h)\n",
        "self.final_norm(h)\n",
    ),
    (
        "final_norm",
        "norm before the trunk",
        "DiscreteObservation: norm reference",
        "        x = self.trunk(x)\n        x = self.final_norm(x)\n",
        "        x = self.final_norm(x)\n        x = self.trunk(x)\n",
    ),
    (
        "swiglu",
        "gate and up swapped",
        "TransformerBlock: isolation",
        "swiglu(self.ffn_fc1(x), self.ffn_up(x))",
        "swiglu(self.ffn_up(x), self.ffn_fc1(x))",
    ),
    (
        "swiglu",
        "activation lost",
        "TransformerBlock: isolation",
        "swiglu(self.ffn_fc1(x), self.ffn_up(x))",
        "self.ffn_fc1(x) * self.ffn_up(x)",
    ),
    (
        "swiglu",
        "up ignored",
        "TransformerBlock: isolation",
        "swiglu(self.ffn_fc1(x), self.ffn_up(x))",
        "F.silu(self.ffn_fc1(x))",
    ),
    ("swiglu", "residual dropped", "TransformerBlock: isolation", "        return r + x\n", "        return x\n"),
    (
        "depth_init",
        "scale of the wrong weight",
        "DiscreteObservation: initial scale",
        'outputs=("att_mh.w_o", "ffn_fc2.weight")',
        'outputs=("att_mh.w_v", "ffn_fc2.weight")',
    ),
    (
        "depth_init",
        "embedding std",
        "PosteriorEncoder: other initial values",
        "nn.init.normal_(self.emb.weight, std=0.02)",
        "nn.init.normal_(self.emb.weight, std=0.2)",
    ),
    (
        "depth_init",
        "other definition changed",
        "TimeAwareTransform: scope",
        "class TimeAwareTransform(nn.Module):\n",
        "class TimeAwareTransform(nn.Module):\n    extra = 1\n",
    ),
]


@pytest.fixture(scope="module")
def prover() -> Iterator[prove.Prover]:
    with prove.start() as prover:
        yield prover


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(FIXTURE, FIXTURE.read_text(encoding="utf-8"), phase=Phase.ARCHITECTURE)


@pytest.mark.parametrize(("stage", "name", "found_by", "old", "new"), MUTANTS, ids=[f"{m[0]}: {m[1]}" for m in MUTANTS])
def test_a_mutant_is_rejected(
    prover: prove.Prover, planned: Plan, stage: str, name: str, found_by: str, old: str, new: str
) -> None:
    right = next(one for one in planned.stages if stage in one.codemods)
    text = right.after.replace(old, new)
    assert text != right.after
    mutant = replace(planned, source=right.before, text=text, stages=(replace(right, after=text),))
    verification = prover.prove(mutant, timeout=100)
    assert verification.status == "failed"
    first = next(check for check in verification.checks if not check.passed)
    assert f"{first.symbol}: {first.name}" == found_by, first
