"""The bundled legacy file and its rewrites, loaded as modules, independent of the proof."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from migrator.codemod import Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.registry import all_codemods, name_of

FIXTURE = Path(__file__).parents[2] / "fixtures" / "latent_drift_trajectory.py"
SIZES = {"latent_size": 10, "hidden_size": 24, "embed_size": 14, "num_slices": 6}

NEW = frozenset(name_of(codemod) for codemod in all_codemods() if codemod.phase is Phase.ARCHITECTURE)


def load(text: str, name: str) -> ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses and pickling look it up
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def legacy_text() -> str:
    return FIXTURE.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def exact_text(legacy_text: str) -> str:
    return plan(FIXTURE, legacy_text, phase=Phase.DROP_IN).text


@pytest.fixture(scope="session")
def modern_text(legacy_text: str) -> str:
    return plan(FIXTURE, legacy_text, phase=Phase.ARCHITECTURE).text


@pytest.fixture(scope="session")
def fast_text(legacy_text: str) -> str:
    return plan(FIXTURE, legacy_text, phase=Phase.ACCELERATION).text


@pytest.fixture(scope="session")
def fast_exact_text(legacy_text: str) -> str:
    """Phases 1 and 3 without phase 2: the legacy function, faster."""
    return plan(FIXTURE, legacy_text, phase=Phase.ACCELERATION, skip=NEW).text


@pytest.fixture(scope="session")
def legacy(legacy_text: str) -> ModuleType:
    return load(legacy_text, "legacy_file")


@pytest.fixture(scope="session")
def exact(exact_text: str) -> ModuleType:
    return load(exact_text, "exact_file")


@pytest.fixture(scope="session")
def modern(modern_text: str) -> ModuleType:
    return load(modern_text, "modern_file")


@pytest.fixture(scope="session")
def fast(fast_text: str) -> ModuleType:
    return load(fast_text, "fast_file")


@pytest.fixture(scope="session")
def fast_exact(fast_exact_text: str) -> ModuleType:
    return load(fast_exact_text, "fast_exact_file")


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def whole_model(module: ModuleType, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = module.DeterministicLatentODE(vocab_size=module.vocab_size, **SIZES)
    return model
