"""A small legacy GPT as a file, and what becomes of it, loaded as modules."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import ModuleType

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.registry import all_codemods, name_of

GPT = """import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.register_buffer("mask", torch.tril(torch.ones(64, 64)))

    def forward(self, x):
        B, T, C = x.shape
        q = self.query(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        k = self.key(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        v = self.value(x).view(B, T, self.heads, C // self.heads).transpose(1, 2)
        a = q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)
        a = a.masked_fill(self.mask[:T, :T] == 0, float("-inf"))
        a = F.softmax(a, dim=-1)
        y = (a @ v).transpose(1, 2).contiguous().view(B, T, C)
        return self.out(y)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Linear(4 * dim, dim),
        )

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, vocab, dim, heads, depth):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.wpe = nn.Embedding(64, dim)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, idx):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    model = GPT(vocab=29, dim=24, heads=4, depth=3)
"""
RELU = GPT.replace("nn.GELU()", "nn.ReLU()")
SIZES = (29, 24, 4, 3)


def migrated(text: str, phases: set[int], feed_forward: str = "neutral", without: str = "") -> str:
    """The text after the codemods of these phases alone, but for one."""
    skip = frozenset(name_of(codemod) for codemod in all_codemods() if codemod.phase not in phases) | {without} - {""}
    choices = {"feed_forward": feed_forward}
    return plan(Path("gpt.py"), text, phase=Phase(max(phases)), skip=skip, choices=choices).text


def load(text: str, name: str) -> ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
    return module
