"""The bundled file's whole sampling function, legacy against migrated, in one run.

Both models have the same weights and draw from the same seed; the tokens are compared before anything is timed. The
legacy function re-runs the whole prefix for each token. Phases 1 and 3 alone keep the legacy function (and so its
tokens); with phase 2 in between the model is another one, of about the same size.
"""

from __future__ import annotations

import statistics
import sys
import time
import types
from pathlib import Path
from types import ModuleType

import torch

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.registry import all_codemods, name_of

FIXTURE = Path(__file__).parents[1] / "fixtures" / "latent_drift_trajectory.py"
SIZES = {"latent_size": 64, "hidden_size": 128, "embed_size": 64}
CASES = [(67, 1), (67, 8), (256, 1), (256, 8), (1024, 1)]
LONG = [*CASES, (1024, 8)]  # the legacy loop alone takes minutes
ROUNDS = {67: 5, 256: 3, 1024: 1}


def load(text: str, name: str) -> ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def versions() -> dict[str, ModuleType]:
    text = FIXTURE.read_text(encoding="utf-8")
    new = frozenset(name_of(codemod) for codemod in all_codemods() if codemod.phase is Phase.ARCHITECTURE)
    return {
        "legacy": load(text, "legacy_file"),
        "phases 1, 3": load(plan(FIXTURE, text, phase=Phase.ACCELERATION, skip=new).text, "exact_file"),
        "phases 1, 2, 3": load(plan(FIXTURE, text, phase=Phase.ACCELERATION).text, "modern_file"),
    }


def sampled(module: ModuleType, model: torch.nn.Module, length: int, batch: int) -> tuple[float, torch.Tensor]:
    torch.manual_seed(1)
    start = time.perf_counter()
    tokens = torch.cat(module.sample_sequences_ode(model, length, batch, torch.device("cpu")))
    return time.perf_counter() - start, tokens


def main() -> None:
    modules = versions()
    models = {}
    for name, module in modules.items():
        torch.manual_seed(0)
        models[name] = module.DeterministicLatentODE(vocab_size=module.vocab_size, **SIZES).eval()
    models["phases 1, 3"].load_state_dict(models["legacy"].state_dict())
    print(f"sample_sequences_ode, two loops, {torch.get_num_threads()} threads; median seconds, ratio to legacy")
    for length, batch in LONG if "--long" in sys.argv else CASES:
        rounds = [
            {name: sampled(modules[name], models[name], length, batch) for name in modules}
            for _ in range(ROUNDS[length])
        ]
        same = torch.equal(rounds[0]["legacy"][1], rounds[0]["phases 1, 3"][1])
        medians = {name: statistics.median(one[name][0] for one in rounds) for name in modules}
        figures = "   ".join(f"{name} {s:7.3f} ({medians['legacy'] / s:5.1f} x)" for name, s in medians.items())
        print(f"  T {length:5d}  batch {batch}   {figures}   tokens {'equal' if same else 'DIFFER'}", flush=True)


if __name__ == "__main__":
    main()
