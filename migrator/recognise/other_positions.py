"""Positions of a kind that neither rotary positions nor ALiBi can take the place of, with what would help."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod import Place, Refusal
from migrator.recognise.anatomy import Obstacle
from migrator.recognise.apart import apart
from migrator.recognise.consumers import PositionGroup
from migrator.recognise.counted import counted_positions
from migrator.recognise.grids import grids
from migrator.recognise.index import FileIndex
from migrator.recognise.relative import relatives
from migrator.recognise.timesteps import timesteps

REFUSALS = {
    "two-dimensional": "the positions are those of a grid, with rows and columns",
    "relative": "the attention has learned relative positions already",
    "timestep": "the sinusoid is that of a value, and not of a place in a sequence",
    "padded": "the places are counted over a mask, or handed in by the caller",
}
_REMEDIES = {
    "two-dimensional": "keep them, or rotate one half of each head by the row and the other one by the column",
    "relative": "keep it, or take that term out by hand: two kinds of relative positions would add up",
    "timestep": "nothing has to be done for it; say so by `# migrate: keep({codemod})` on the class",
    "padded": "number tokens by `torch.arange` of their length, pad at the end, and hide the padding from attention",
}


def other_positions(index: FileIndex) -> list[Obstacle]:
    """All such positions of the file, in order of the source."""
    if "other positions" not in index.memo:
        found = [*grids(index), *relatives(index), *timesteps(index), *counted_positions(index)]
        found += apart(index, [one.flow for one in found if one.code == "two-dimensional"])
        index.memo["other positions"] = sorted(found, key=lambda one: one.flow.definition.line(one.node))
    result: list[Obstacle] = index.memo["other positions"]
    return result


def relative_in(index: FileIndex, group: PositionGroup) -> tuple[str, str, str] | None:
    """Why a group of positions stays: one of its attentions has relative positions already."""
    for one in other_positions(index):
        if one.code == "relative" and one.flow.owner is not None and one.flow.owner.name in group.attentions:
            return one.code, f"in {one.flow.owner.name} {one.seen}", _REMEDIES[one.code]
    return None


def refused(index: FileIndex, codemod: str) -> Iterator[Refusal]:
    """A refusal for each of them."""
    for one in other_positions(index):
        owner = one.flow.owner
        place = Place.of(owner.name if owner else one.flow.function.name, one.node, one.flow.definition)
        yield Refusal(place, one.code, one.seen, one.remedy or _REMEDIES[one.code].replace("{codemod}", codemod))
