"""A block's ReLU or GELU feed-forward becomes SwiGLU at the same number of parameters."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod import AnyEdit, Claim, Codemod, Finding, Phase, Promise, Site, SwiGLUPart
from migrator.recognise.gate_edits import gated
from migrator.recognise.gating import REFUSALS, Gateless, gateless
from migrator.recognise.index import FileIndex


class SwiGLU(Codemod):
    """down(relu(up(x))) -> down(silu(gate(x)) * up(x)), hidden width times 2/3."""

    phase = Phase.ARCHITECTURE
    promise = Promise.NEW
    rationale = "A gated feed-forward learns more from the same number of parameters."
    reference = "Shazeer 2020, GLU Variants Improve Transformer, arXiv 2002.05202"
    formula = "down(silu(gate(x)) * up(x)); with 2/3 of the hidden width 3 C (2/3 F) = 2 C F parameters"
    after = ("pre_norm",)
    choice = ("feed_forward", "neutral")
    refusals = REFUSALS

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for seen in gateless(index):
            yield _site(index, seen) if isinstance(seen, Gateless) else seen

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        yield from site.part


def _site(index: FileIndex, place: Gateless) -> Site:
    found = place.found
    made = gated(index, place, narrow=True)
    part = SwiGLUPart(found.home, made.gate, made.up, made.down)
    # Either half alone has another width than before.
    inside = found.definitions if found.halves is not None else ()
    off = place.switched_off()
    claim = Claim(found.definitions, (found.home,), off=off, parts=(part,), renamed=made.renamed, inside=inside)
    return Site(place.place, _message(index, place), claim, made.edits)


def _message(index: FileIndex, place: Gateless) -> str:
    """What happens, with true parameter counts where the file itself says the widths."""
    text = f"{place.activation_name} feed-forward -> SwiGLU"
    if place.activation_name == "configured":
        text = "feed-forward with a configured activation -> SwiGLU, whatever the configuration says of it"
    widths = place.widths(index)
    if widths is None:
        return text
    before, after = _counts(*widths, *place.biases)
    return f"{text}, {before:,} -> {after:,} parameters"


def _counts(embed: int, hidden: int, first: bool, last: bool) -> tuple[int, int]:
    """Parameters before and after; `first` and `last` tell which product has a bias."""
    narrow = max(1, (4 * hidden + 24) // 48) * 8  # as runtime.swiglu_width
    return (
        2 * embed * hidden + first * hidden + last * embed,
        3 * embed * narrow + first * 2 * narrow + last * embed,
    )
