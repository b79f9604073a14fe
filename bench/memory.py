"""Peak memory of the bundled file's encoder, forward and training step: legacy, migrated, and with checkpointing.

What torch's CPU allocator hands out and takes back during one step is recorded by its profiler; the peak of the sum is
printed. Four blocks of width 128, four heads, batch 1.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from migrator.codemod import Phase
from migrator.rewrite.engine import plan

FIXTURE = Path(__file__).parents[1] / "fixtures" / "latent_drift_trajectory.py"
LENGTHS = (512, 2048)


def encoders() -> dict[str, nn.Module]:
    text = FIXTURE.read_text(encoding="utf-8")
    migrated = plan(FIXTURE, text, phase=Phase.ACCELERATION).text
    models = {}
    for name, source in {"legacy": text, "phase 3": migrated, "checkpointing": migrated}.items():
        module = types.ModuleType("bundled")
        sys.modules["bundled"] = module
        exec(compile(source, "bundled", "exec"), module.__dict__)
        models[name] = module.PosteriorEncoder(module.vocab_size, 128, 128)
    models["checkpointing"].gradient_checkpointing_enable()
    return models


def forward(model: nn.Module, tokens: Tensor) -> None:
    with torch.no_grad():
        model(tokens)


def training_step(model: nn.Module, tokens: Tensor) -> None:
    model(tokens).square().mean().backward()


def peak(step: types.FunctionType, model: nn.Module, length: int) -> float:
    """MiB that a step needs at its peak, beyond what was allocated before."""
    step(model, torch.randint(0, 20, (1, length)))  # tables and gradients are there from now on
    tokens = torch.randint(0, 20, (1, length))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step(model, tokens)
    held = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest / 2**20


def main() -> None:
    models = encoders()
    print("peak memory in MiB (torch's allocator), ratio to legacy")
    for step in (forward, training_step):
        for length in LENGTHS:
            peaks = {name: peak(step, model, length) for name, model in models.items()}
            figures = "   ".join(f"{name} {mib:7.1f} ({peaks['legacy'] / mib:5.1f} x)" for name, mib in peaks.items())
            print(f"  {step.__name__:<14} T {length:5d}   {figures}", flush=True)


if __name__ == "__main__":
    main()
