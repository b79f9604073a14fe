"""A small decoder in several texts: as it was, well migrated, and badly."""

from __future__ import annotations

from pathlib import Path

from migrator.codemod import Phase
from migrator.rewrite.engine import plan

PATH = Path("/nowhere/tiny.py")

LEGACY = """\
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        B, T, C = x.shape
        q = self.q(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        k = self.k(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        v = self.v(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)
        mask = torch.tril(torch.ones(T, T, device=x.device)).bool()
        weights = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C))


class Positions(nn.Module):
    def __init__(self, dim, max_len=4096):
        super().__init__()
        table = torch.zeros(max_len, dim)
        position = torch.arange(0, max_len).unsqueeze(1).float()
        rates = torch.exp(torch.arange(0, dim, 2).float() * -(math.log(10000.0) / dim))
        table[:, 0::2] = torch.sin(position * rates)
        table[:, 1::2] = torch.cos(position * rates)
        self.register_buffer("table", table.unsqueeze(0))

    def forward(self, x):
        return x + self.table[:, : x.size(1)]


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ff(self.ln2(x))


class Tiny(nn.Module):
    def __init__(self, vocab=17, dim=32, heads=4, layers=2, window=512):
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.positions = Positions(dim, window)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab)

    def forward(self, idx):
        x = self.positions(self.tok(idx))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            logits = self(idx)[:, -1]
            probs = F.softmax(logits, dim=-1)
            idx = torch.cat([idx, torch.multinomial(probs, 1)], dim=1)
        return idx
"""


def migrated(phase: int = 3) -> str:
    return plan(PATH, LEGACY, phase=Phase(phase)).text


def spoilt(text: str, old: str, new: str) -> str:
    """A text with one mistake in it; what it replaces has to be there."""
    assert old in text, old
    return text.replace(old, new)
