"""Positions that have no successor, in the spellings that need packages which the fixtures do without."""

from __future__ import annotations

import pytest

from migrator.recognise.index import FileIndex
from migrator.recognise.other_positions import other_positions

TEXT = """import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from runtime import attention
from torch import nn


class Mix(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return attention(q, k, v)


class Model(nn.Module):
    def __init__(self, dim, count):
        super().__init__()
        self.cut = {cut}
        self.embed = nn.Linear(dim, dim)
        self.rows = nn.Parameter({rows})
        self.mix = Mix(dim)

    def forward(self, x):
        x = {patches}
        return self.mix(x + self.rows)
"""


def codes(patches: str, cut: str = "nn.Identity()", rows: str = "torch.zeros(1, count, dim)") -> list[str]:
    return [one.code for one in other_positions(FileIndex(TEXT.format(patches=patches, cut=cut, rows=rows)))]


GRIDS = {
    "image": 'self.embed(rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4))',
    "video": 'rearrange(x, "b f c (h p) (w q) -> b (f h w) (p q c)", p=4, q=4)',
    "channels last": 'rearrange(x, "b h w c -> b (h w) c")',
}


@pytest.mark.parametrize("name", GRIDS)
def test_patches_in_the_words_of_einops(name: str) -> None:
    assert codes(GRIDS[name]) == ["two-dimensional"]


def test_patches_in_a_layer_of_einops() -> None:
    layer = 'nn.Sequential(Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4), nn.Linear(dim, dim))'
    assert codes("self.cut(x)", layer) == ["two-dimensional"]


SEQUENCES = {
    "frequencies become channels": 'rearrange(x, "b c t f -> b t (c f)")',
    "heads become channels": 'rearrange(x, "b h t d -> b t (h d)")',
    "nothing merges": 'rearrange(x, "b c t -> b t c")',
    "no patches": "self.embed(x)",
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_no_grid_is_not_mentioned(name: str) -> None:
    assert codes(SEQUENCES[name]) == []


def test_a_bias_of_the_channels_is_no_table() -> None:
    assert codes(GRIDS["image"], rows="torch.zeros(1, 1, dim)") == []


def test_without_attention_in_the_file_nothing_is_mentioned() -> None:
    text = TEXT.format(patches=GRIDS["image"], cut="nn.Identity()", rows="torch.zeros(1, count, dim)")
    assert not other_positions(FileIndex(text.replace("return attention(q, k, v)", "return q + k + v")))
