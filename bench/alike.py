"""Whether a library's model computes what ours does: looked at before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.libraries import Peer, Size, ours

CLOSE = 1e-4  # logits are of the order of 1


@dataclass(frozen=True)
class Names:
    """Where a library keeps the weights of our decoder; `{}` stands for the number of a layer."""

    outside: tuple[str, str, str]  # tokens, head, last norm
    qkv: tuple[str, ...]
    inside: tuple[str, ...]  # the others of a layer, in the order of `_INSIDE`
    halves: bool  # whether channels turn in pairs (i, i + D/2)


_OUTSIDE = ("tokens.weight", "head.weight", "stack.final_norm.weight")
_INSIDE = (
    "attention_norm.weight", "out.weight", "feed_forward_norm.weight", "feed_forward.gate.weight",
    "feed_forward.up.weight", "feed_forward.down.weight",
)  # fmt: skip
NAMES = {
    "transformers": Names(
        ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"),
        tuple(f"model.layers.{{}}.self_attn.{name}_proj.weight" for name in "qkv"),
        ("model.layers.{}.input_layernorm.weight", "model.layers.{}.self_attn.o_proj.weight",
         "model.layers.{}.post_attention_layernorm.weight", "model.layers.{}.mlp.gate_proj.weight",
         "model.layers.{}.mlp.up_proj.weight", "model.layers.{}.mlp.down_proj.weight"),
        halves=True,
    ),
    "litgpt": Names(
        ("transformer.wte.weight", "lm_head.weight", "transformer.ln_f.weight"),
        ("transformer.h.{}.attn.qkv.weight",),
        ("transformer.h.{}.norm_1.weight", "transformer.h.{}.attn.proj.weight", "transformer.h.{}.norm_2.weight",
         "transformer.h.{}.mlp.fc_1.weight", "transformer.h.{}.mlp.fc_2.weight", "transformer.h.{}.mlp.proj.weight"),
        halves=True,
    ),
    "torchtune": Names(
        ("tok_embeddings.weight", "output.weight", "norm.scale"),
        tuple(f"layers.{{}}.attn.{name}_proj.weight" for name in "qkv"),
        ("layers.{}.sa_norm.scale", "layers.{}.attn.output_proj.weight", "layers.{}.mlp_norm.scale",
         "layers.{}.mlp.w1.weight", "layers.{}.mlp.w3.weight", "layers.{}.mlp.w2.weight"),
        halves=False,
    ),
}  # fmt: skip


@torch.no_grad()
def differences(peer: Peer, size: Size) -> Iterator[str]:
    """What makes `peer` another decoder than ours; nothing, if it may be compared."""
    own = ours(size)
    if abs(peer.parameters / own.parameters - 1) > 0.01:
        yield f"it has {peer.parameters:,} parameters, the runtime {own.parameters:,}"
    tokens = torch.randint(size.vocabulary, (2, 12), generator=torch.Generator().manual_seed(1))
    logits = peer.forward(tokens)
    if logits.shape != (*tokens.shape, size.vocabulary):
        yield f"logits of the shape {tuple(logits.shape)}"
        return
    first, last = (peer.forward(_changed(tokens, at, size)) for at in (0, -1))
    if not _close(last[:, :-1], logits[:, :-1]):
        yield "positions see later ones"
    if _close(first[:, -1], logits[:, -1]):
        yield "the last position does not see the first one"
    if peer.generate is not None and not _greedy(peer, tokens):
        yield "generated tokens are not the likeliest ones"
    if peer.name in NAMES and not _close(_with_weights_of(peer, size, own).forward(tokens), logits):
        yield "its weights give other logits in the runtime"


def _changed(tokens: Tensor, at: int, size: Size) -> Tensor:
    tokens = tokens.clone()
    tokens[:, at] = (tokens[:, at] + 1) % size.vocabulary
    return tokens


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.0, atol=CLOSE)


def _greedy(peer: Peer, tokens: Tensor, count: int = 4) -> bool:
    """Whether each new token is the likeliest one behind the whole prefix, up to rounding."""
    assert peer.generate is not None
    found, length = peer.generate(tokens, count), tokens.size(1)
    if found.shape != (tokens.size(0), length + count) or not torch.equal(found[:, :length], tokens):
        return False
    logits = peer.forward(found[:, :-1])[:, length - 1 :]
    return _close(logits.gather(-1, found[:, length:, None])[..., 0], logits.amax(-1))


def _with_weights_of(peer: Peer, size: Size, own: Peer) -> Peer:
    """Our decoder with the weights of `peer`."""
    theirs, names = peer.module.state_dict(), NAMES[peer.name]
    state = {name: theirs[other] for name, other in zip(_OUTSIDE, names.outside, strict=True)}
    for i in range(size.depth):
        block = f"stack.blocks.{i}"
        state |= {f"{block}.{name}": theirs[at.format(i)] for name, at in zip(_INSIDE, names.inside, strict=True)}
        q, k, v = torch.cat([theirs[name.format(i)] for name in names.qkv]).chunk(3)
        state[f"{block}.qkv.weight"] = torch.cat([_paired(q, size), _paired(k, size), v] if names.halves else [q, k, v])
    own.module.load_state_dict(state)
    return own


def _paired(weight: Tensor, size: Size) -> Tensor:
    """The rows of each head, whose channels (i, i + D/2) turn together, in our order: the two beside each other."""
    return weight.view(size.heads, 2, -1, size.width).transpose(1, 2).reshape(-1, size.width)
