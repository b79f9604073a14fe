"""A block's ReLU or GELU feed-forward becomes SwiGLU of the same width, which can start where the old weights are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.codemod import AnyEdit, Claim, Codemod, Finding, Phase, Promise, Refusal, Site, SwiGLUPart
from migrator.recognise.gate_edits import gated
from migrator.recognise.gating import REFUSALS, Gateless, gateless, has_bias
from migrator.recognise.index import FileIndex

# The sharpness k of a start, and by how much a hidden unit is then off at most, rounded up.
# With gate = k z and up = 1/k, a hidden unit is silu(k z) / k = z sigmoid(k z) in the place of relu(z) or gelu(z).
# |relu(z) - z sigmoid(k z)| = |z| sigmoid(-k |z|) has its maximum W(1/e) / k = 0.27847 / k at k |z| = 1 + W(1/e), with
# Lambert's W; the larger k, the slower the gate learns, and a power of two keeps k * weight exact in every dtype.
# For GELU, Hendrycks and Gimpel's k is off most at |z| = 2.270, and by tanh at |z| = 2.289.
_STARTS = {"ReLU": (8.0, 0.0349), "GELU": (1.702, 0.0204), "tanh GELU": (1.702, 0.0207)}


class SwiGLUWarm(Codemod):
    """down(relu(up(x))) -> down(silu(gate(x)) * up(x)), hidden width as before, with a start near the old function."""

    phase = Phase.ARCHITECTURE
    promise = Promise.WARM
    rationale = "A gated feed-forward of the old width can take over the old weights and goes on training from there."
    reference = "Shazeer 2020, GLU Variants, arXiv 2002.05202; Hendrycks and Gimpel 2016, GELUs, arXiv 1606.08415"
    formula = "relu(z) = lim k->inf z sigmoid(k z): gate = k W_1, up = 1/k; |error| <= 0.2785/k per unit"
    after = ("pre_norm",)
    choice = ("feed_forward", "warm")
    refusals = {**REFUSALS, "no-bias": "the new product needs a bias, and the module that holds it would have none"}

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for seen in gateless(index):
            yield _finding(index, seen) if isinstance(seen, Gateless) else seen

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        yield from site.part


def _finding(index: FileIndex, place: Gateless) -> Finding:
    found = place.found
    if found.kind == "sequential" and not has_bias(place.first):
        seen = "its products have no bias, and `SwiGLU` gives all three of its own one or none"
        remedy = "give both products a bias (zeros change nothing), or use --feed-forward neutral"
        return Refusal(place.place, "no-bias", seen, remedy)
    if any(index.resolve(made.func) != "torch.nn.Linear" for made in (place.first, place.last)):
        seen = f"no start is known for products that are a {ast.unparse(place.first.func)}"
        return Refusal(place.place, "not-plain", seen, "use --feed-forward neutral")
    if place.activation_name not in _STARTS:
        seen = f"no start is known for an activation that is {place.activation_name}"
        return Refusal(place.place, "not-plain", seen, "use --feed-forward neutral")
    made = gated(index, place, narrow=False)
    sharpness, bound = _STARTS[place.activation_name]
    part = SwiGLUPart(found.home, made.gate, made.up, made.down, place.activation_name, sharpness, bound)
    inside = found.definitions if found.halves is not None else ()
    off = place.switched_off()
    claim = Claim(found.definitions, (found.home,), off=off, parts=(part,), renamed=made.renamed, inside=inside)
    return Site(place.place, _message(index, place, bound), claim, made.edits)


def _message(index: FileIndex, place: Gateless, bound: float) -> str:
    """What happens, with true parameter counts where the file itself says the widths."""
    text = f"{place.activation_name} feed-forward -> SwiGLU of the same width"
    widths = place.widths(index)
    if widths is not None:
        (embed, hidden), (first, last) = widths, place.biases
        before = 2 * embed * hidden + first * hidden + last * embed
        text += f", {before:,} -> {before + (embed + 1) * hidden:,} parameters"
    return f"{text}; old weights start it within {bound} per hidden unit"
