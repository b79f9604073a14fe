"""Says how each transformer block places its norms. Changes nothing: moving a norm is never exact."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod import Codemod, Finding, Modern, Phase, Place, Promise
from migrator.recognise.blocks import blocks, flagged
from migrator.recognise.index import FileIndex
from migrator.recognise.layers import Layer, layers, own_norm
from migrator.recognise.stacks import norm_of_their_own

_SEEN = {
    "pre": "already pre-norm: each sublayer sees norm(x), the residual stays raw",
    "post": "post-norm: the sum is normalised; exact phases keep it, phase 2 moves the norms",
    "residual": "norm-on-residual: the residual itself is normalised; kept as it is",
    "sandwich": "sandwich norms around the sublayers; kept as they are",
    "none": "no norms around the sublayers; kept as it is",
    "mixed": "norms placed differently in its sublayers; kept as they are",
}


class BlockReport(Codemod):
    """Reports pre-norm, post-norm, norm-on-residual or sandwich for every block."""

    phase = Phase.DROP_IN
    promise = Promise.EXACT
    rationale = "Where the norms sit decides how deep a stack trains; it has to be known before anything is moved."
    reference = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv 2002.04745"
    formula = "pre-norm: x + f(norm(x))      post-norm: norm(x + f(x))"

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for block in blocks(index).values():
            place = Place.of(block.info.name, block.info.node, block.info.definition)
            own = norm_of_their_own(block)
            seen = f"normalises by {own}, which is not torch's; kept as it is" if own else _SEEN[block.placement]
            yield Modern(place, seen)
        for layer in layers(index):
            node = layer.pairs.statement if layer.pairs is not None else layer.info.node
            yield Modern(Place.of(layer.name, node, layer.info.definition), _of_layer(layer))
        for info in flagged(index):
            place = Place.of(info.name, info.node, info.definition)
            yield Modern(place, "a flag decides where the norms sit; kept as it is")


def _of_layer(layer: Layer) -> str:
    """What is seen, and in which other classes."""
    own = own_norm(layer)
    where = f" (in {' and '.join(layer.homes)})" if layer.homes else ""
    placed, _, more = _SEEN[layer.placement].replace(", phase 2 moves the norms", "").partition(":")
    if own and more:
        return f"{placed}{where}, but normalises by {own}, which is not torch's; kept as it is"
    return f"{placed}{where}:{more}" if more else f"{placed}{where}"
