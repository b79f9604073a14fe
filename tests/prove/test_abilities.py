"""Negative controls of phase 3: every way in which a cache, a sampling loop or checkpointing goes wrong is rejected."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from migrator.prove import Prover, Verification
from migrator.rewrite.plan import Stage
from tests.prove import cached
from tests.prove.test_mutants import Mutant, mutant
from tests.prove.texts import changed, one_stage

PATH = Path("small_model.py")
_GET_LOGITS = "Decoder.get_logits"
_SAMPLE = "sample"
_STEP = "decoder.get_logits(zs[:, : t + 1], tokens_{0}[:, : t + 1], past_kv=past_kv)\n"
_ROLLED = "        tokens_in = tokens.roll(1, dims=1)\n        tokens_in[:, 0] = 3\n"
_LOOP = """\
        past_kv = KVCache(max_len=seq_len)
        for t in range(seq_len):
            logits = decoder.get_logits(zs[:, : t + 1], tokens_{0}[:, : t + 1], past_kv=past_kv)
            probs = torch.softmax(logits[:, -1], dim=-1)
"""
_SHARED, _RANDOM = _LOOP.format("shared"), _LOOP.format("random")
_LAYER = "past_kv=past_kv and past_kv[i]"
_ATTEND = "attention(q, k, v, causal=self.causal, dropout_p=self.dropout if self.training else 0.0, past_kv=past_kv)"
_CROPPED = "                logits, _ = self(idx[:, -self.block_size :])\n"
_NEW_CACHE = "        past_kv = KVCache(max_len=self.block_size)\n"

MUTANTS = [
    # the bundled file
    mutant("start token on each step", "bundled", "DiscreteObservation.get_logits", "cached decoding",
           (cached.MAKE + cached.CUT, cached.MAKE + cached.CUT + '        tokens_in[:, 0] = char2idx["_"]\n')),
    mutant("offset off by one", "bundled", "DiscreteObservation.get_logits", "cached decoding",
           ("self.rotary(q, k, past_kv=past_kv)", "self.rotary(q, k, offset=past_kv.length + 1 if past_kv and past_kv.length else 0)")),
    mutant("not reset between the loops", "bundled", "sample_sequences_ode", "generation",
           (cached.CACHED_LOOP.format("random"),
            cached.CACHED_LOOP.format("random").replace("        past_kv = KVCache(max_len=seq_len)\n", ""))),
    # decoding: latents and tokens
    mutant("start token on each step", "latent", _GET_LOGITS, "cached decoding",
           (cached.MAKE + cached.CUT, cached.MAKE + cached.CUT + '        tokens_in[:, 0] = 3\n')),
    mutant("z not sliced", "latent", _GET_LOGITS, "cached decoding",
           ("z, tokens_in = z[:, past_kv.length :], tokens_in[:, past_kv.length :]", "tokens_in = tokens_in[:, past_kv.length :]")),
    mutant("tokens sliced before the roll", "latent", _GET_LOGITS, "cached decoding",
           (_ROLLED + cached.MAKE + cached.CUT, cached.MAKE + cached.CUT.replace("tokens_in", "tokens") + _ROLLED)),
    mutant("slice one too early", "latent", _GET_LOGITS, "cached decoding",
           ("z[:, past_kv.length :], tokens_in[:, past_kv.length :]",
            "z[:, max(past_kv.length - 1, 0) :], tokens_in[:, max(past_kv.length - 1, 0) :]")),
    mutant("keys cached before they are rotated", "latent", _GET_LOGITS, "cached decoding",
           ("q, k = self.rotary(q, k, past_kv=past_kv)\n",
            "if past_kv is not None:\n            k, v = past_kv.append(k, v)\n        q, k = self.rotary(q, k)\n"),
           ("else 0.0, past_kv=past_kv)", "else 0.0)")),
    mutant("offset forgotten", "latent", _GET_LOGITS, "cached decoding",
           ("self.rotary(q, k, past_kv=past_kv)", "self.rotary(q, k)")),
    mutant("offset off by one", "latent", _GET_LOGITS, "cached decoding",
           ("self.rotary(q, k, past_kv=past_kv)", "self.rotary(q, k, offset=past_kv.length + 1 if past_kv and past_kv.length else 0)")),
    mutant("all logits are computed", "latent", _GET_LOGITS, "cached work",
           (cached.CUT, ""), ("past_kv=past_kv and past_kv[0])", "past_kv=None)"),
           ("logits = self.proj_out(h)\n",
            "logits = self.proj_out(h)\n        if past_kv is not None:\n"
            "            logits = logits[:, past_kv.length :]\n            past_kv[0].length = tokens.size(1)\n")),
    mutant("a Tensor became a tuple", "latent", "Decoder", "parity float64",
           ("return (logits, past_kv) if use_cache else logits", "return logits, past_kv")),
    mutant("the cache is not returned", "latent", _GET_LOGITS, "cached decoding",
           ("return (logits, past_kv) if use_cache else logits", "return logits")),
    # decoding: the others
    mutant("positions off by one", "gpt", "GPT.forward", "cached decoding",
           ("start = 0 if past_kv is None else past_kv.length\n",
            "start = 0 if past_kv is None else past_kv.length\n        T = T - (start > 0)\n"),
           ("self.wte(idx[:, start:]) + self.wpe(torch.arange(start, T", "self.wte(idx[:, start:]) + self.wpe(torch.arange(start - (start > 0), T")),
    mutant("mask upper-left aligned", "gpt", "GPT.forward", "cached decoding",
           (_ATTEND, "F.scaled_dot_product_attention(q, *(past_kv.append(k, v) if past_kv else (k, v)), "
                     "dropout_p=self.dropout if self.training else 0.0, is_causal=self.causal and q.size(2) > 1)")),
    mutant("the cache of layer 0 for all", "gpt", "GPT.forward", "cached decoding", (_LAYER, "past_kv=past_kv and past_kv[0]")),
    mutant("the last layer without a cache", "rotary", "GPT.forward", "cached decoding",
           (_LAYER, "past_kv=past_kv[i] if past_kv and i < 2 else None")),
    mutant("no rotation of the cached", "rotary", "GPT.forward", "cached decoding",
           ("self.rotary(q, k, past_kv=past_kv)", "self.rotary(q, k) if past_kv is None else (q, k)")),
    # sampling
    mutant("not reset between the loops", "latent", _SAMPLE, "generation",
           (_RANDOM,
            _RANDOM.replace("        past_kv = KVCache(max_len=seq_len)\n", ""))),
    mutant("not reset, and larger", "latent", _SAMPLE, "generation",
           (_RANDOM,
            _RANDOM.replace("        past_kv = KVCache(max_len=seq_len)\n", "")),
           (_SHARED, _SHARED.replace("max_len=seq_len", ""))),
    mutant("a placeholder is read", "latent", _SAMPLE, "generation",
           (_STEP.format("shared"), "decoder.get_logits(zs[:, : t + 2], tokens_shared[:, : t + 2], past_kv=past_kv)\n")),
    mutant("a wrong row is read", "latent", _SAMPLE, "generation",
           (_STEP.format("shared"), "decoder.get_logits(zs[:, : t + 1], tokens_shared[:, : t + 1])\n"),
           (_SHARED.splitlines()[-1],
            "            probs = torch.softmax(logits[:, max(t - 1, 0)], dim=-1)")),
    mutant("a random draw less", "latent", _SAMPLE, "generation",
           ("        for t in range(seq_len):\n            logits = decoder.get_logits(zs[:, : t + 1], tokens_random",
            "        for t in range(seq_len - 1):\n            logits = decoder.get_logits(zs[:, : t + 1], tokens_random")),
    mutant("a random draw more", "latent", _SAMPLE, "generation",
           ("    return tokens_shared, tokens_random\n", "    torch.rand(())\n    return tokens_shared, tokens_random\n")),
    mutant("one of two loops recomputes", "latent", _SAMPLE, "generation work",
           (_STEP.format("random"), "decoder.get_logits(zs[:, : t + 1], tokens_random[:, : t + 1])\n")),
    mutant("the crop is not recomputed", "gpt", "GPT.generate", "generation",
           (_CROPPED, "                logits, _ = self(idx[:, -self.block_size :], past_kv=past_kv)\n")),
    mutant("no crop at all", "rotary", "GPT.generate", "generation",
           ("if idx.size(1) <= self.block_size:", "if True:"), ("        assert T <= self.block_size, T\n", ""),
           (_NEW_CACHE, "        past_kv = KVCache()\n")),
    mutant("the crop is one too short", "gpt", "GPT.generate", "generation",
           (_CROPPED, "                logits, _ = self(idx[:, -self.block_size + 1 :])\n")),
    mutant("another temperature", "gpt", "GPT.generate", "generation", ("logits[:, -1, :] / temperature", "logits[:, -1, :]")),
    mutant("top-k lost", "gpt", "GPT.generate", "generation", ("if top_k is not None:", "if top_k is not None and idx.size(1) > 99:")),
    mutant("always greedy", "gpt", "GPT.generate", "generation", ("if do_sample:", "if do_sample and idx.size(1) > 99:")),
    mutant("it leaves train mode", "gpt", "GPT.generate", "generation", (_NEW_CACHE, _NEW_CACHE + "        self.eval()\n")),
    # checkpointing
    mutant("re-entrant, without random numbers", "gpt", "GPT", "checkpointing",
           ("x = self.checkpointed(block, x, past_kv=past_kv and past_kv[i])",
            "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=True, preserve_rng_state=False) if self.gradient_checkpointing "
            "and past_kv is None else block(x, past_kv=past_kv and past_kv[i])")),
    mutant("without random numbers", "gpt", "GPT", "checkpointing",
           ("x = self.checkpointed(block, x, past_kv=past_kv and past_kv[i])",
            "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if self.gradient_checkpointing "
            "and self.training and torch.is_grad_enabled() and past_kv is None else block(x, past_kv=past_kv and past_kv[i])")),
    mutant("on in eval", "gpt", "GPT", "checkpointing",
           ("x = self.checkpointed(block, x, past_kv=past_kv and past_kv[i])",
            "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False) if self.gradient_checkpointing and past_kv is None "
            "else block(x, past_kv=past_kv and past_kv[i])")),
    mutant("a block is left out", "gpt", "GPT", "checkpointing",
           ("x = self.checkpointed(block, x, past_kv=past_kv and past_kv[i])",
            "x = (self.checkpointed if i else lambda block, x, past_kv: block(x, past_kv=past_kv))(block, x, past_kv=past_kv and past_kv[i])")),
    mutant("on without being switched on", "gpt", "GPT", "checkpointing",
           ("class GPT(GradientCheckpointing, nn.Module):\n", "class GPT(GradientCheckpointing, nn.Module):\n    gradient_checkpointing = True\n")),
    mutant("no switch at the root", "bundled", "PosteriorEncoder", "checkpointing",
           ("class DeterministicLatentODE(GradientCheckpointing, nn.Module):", "class DeterministicLatentODE(nn.Module):")),
    # interfaces
    mutant("a parameter that is not claimed", "gpt", "GPT", "scope", ("past_kv: KVCache | None = None, use_cache", "past_kv: KVCache | None = None, other=None, use_cache")),
    mutant("a parameter in front", "gpt", "GPT", "scope",
           ("idx, targets=None, past_kv: KVCache | None = None,", "idx, past_kv: KVCache | None = None, targets=None,")),
    mutant("another return type", "bundled", "DiscreteObservation", "scope",
           (") -> Tensor | tuple[Tensor, KVCache]:", ") -> tuple[Tensor, KVCache]:")),
    mutant("a base that is not claimed", "bundled", "Predictor", "scope", ("class Predictor(nn.Module):", "class Predictor(GradientCheckpointing, nn.Module):")),
    mutant("a default changed", "gpt", "GPT", "scope", ("temperature=1.0, do_sample=False", "temperature=1.0, do_sample=True")),
]  # fmt: skip


@cache
def stage(name: str) -> Stage:
    return cached.STAGES[name]()


def proved(prover: Prover, name: str, *replacements: tuple[str, str]) -> Verification:
    return prover.prove(one_stage(stage(name), PATH, changed(stage(name).after, *replacements)), timeout=100)


@pytest.mark.parametrize("name", list(cached.STAGES))
def test_the_right_text_is_proved(prover: Prover, name: str) -> None:
    verification = proved(prover, name)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]


@pytest.mark.parametrize("wrong", MUTANTS, ids=lambda mutant: f"{mutant.stage}: {mutant.name}")
def test_every_mutant_is_rejected_by_its_check(prover: Prover, wrong: Mutant) -> None:
    verification = proved(prover, wrong.stage, *wrong.replacements)
    assert verification.status == "failed", verification.notes
    failed = [(check.symbol, check.name) for check in verification.checks if not check.passed]
    assert failed[0] == (wrong.symbol, wrong.check), [check for check in verification.checks if not check.passed]


def test_a_cache_after_changes_of_the_architecture_is_proved(prover: Prover) -> None:
    verification = prover.prove(cached.whole(PATH), timeout=100)
    assert verification.status == "proved", [check for check in verification.checks if not check.passed]
    last = {check.name for check in verification.checks if check.stage == "kv_cache"}
    assert {"strict load", "parity float64", "parity float32", "training", "cached decoding", "cached work"} <= last


def test_a_wrong_exact_stage_after_changes_of_the_architecture_is_rejected(prover: Prover) -> None:
    wrong = changed(cached.DEEP_CACHED, ("causal=self.causal", "causal=False"))
    failed = [check for check in prover.prove(cached.whole(PATH, wrong), timeout=100).checks if not check.passed]
    assert (failed[0].stage, failed[0].symbol, failed[0].name) == ("kv_cache", "Decoder", "parity float64")


def test_a_cache_for_a_bidirectional_stack_is_rejected(prover: Prover) -> None:
    both = ("Block(n_embd, n_head, dropout)", "Block(n_embd, n_head, dropout, causal=False)")
    gpt = stage("gpt")
    bidirectional = replace(gpt, before=changed(gpt.before, both), after=changed(gpt.after, both))
    verification = prover.prove(one_stage(bidirectional, PATH), timeout=100)
    failed = [check for check in verification.checks if not check.passed]
    assert (failed[0].symbol, failed[0].name) == ("GPT.forward", "cached decoding"), failed
