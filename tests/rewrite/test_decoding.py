"""What `kv_cache` makes of a model: computed with a cache, position by position, it is what the whole prefix gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from migrator.codemod import CachedDecoding
from tests.cases import Case, all_cases, load, probes
from tests.parity import double_precision, randomise

CASES = [case for case in all_cases() if case.codemod == "kv_cache" and case.rewritten]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


def decoded(case: Case) -> Iterator[tuple[nn.Module, CachedDecoding, dict[str, Tensor]]]:
    """Each probe of a case that has a cached method: the model, the claim, and the whole sequences by parameter."""
    claims = [claim for stage in case.plan(case.before).stages for claim in stage.claims]
    abilities = {one.owner: one for claim in claims for one in claim.abilities if isinstance(one, CachedDecoding)}
    module = load(case.after, "after")
    for name, arguments, inputs in probes(case):
        if name in abilities:
            torch.manual_seed(0)
            model = getattr(module, name)(*arguments).eval()
            randomise(model)
            names = [parameter for parameter, _ in abilities[name].sequences]
            yield model, abilities[name], dict(zip(names, inputs, strict=False))


def rows(result: Any) -> Tensor:
    """The logits of the last position."""
    logits = result[0] if isinstance(result, tuple) else result
    return logits[:, -1]


def cut(sequences: dict[str, Tensor], ability: CachedDecoding, length: int) -> dict[str, Tensor]:
    return {name: sequences[name].narrow(axis, 0, length) for name, axis in ability.sequences}


def step_by_step(
    method: Callable[..., Any], ability: CachedDecoding, sequences: dict[str, Tensor], first: int
) -> float:
    """The largest difference between cached and whole, the first `first` positions being one step."""
    name, axis = ability.sequences[0]
    past_kv, worst = None, 0.0
    for length in range(first, sequences[name].size(axis) + 1):
        given = cut(sequences, ability, length)
        *_, past_kv = result = method(**given, past_kv=past_kv, use_cache=True)
        worst = max(worst, float((rows(result) - rows(method(**given))).abs().max()))
    return worst


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cached_positions_equal_those_of_the_whole_prefix(case: Case, first: int) -> None:
    ran = 0
    for model, ability, sequences in decoded(case):
        with torch.no_grad():
            assert step_by_step(getattr(model, ability.method), ability, sequences, first) < 1e-10
        ran += 1
    assert ran, "no probe runs the cached method"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_new_positions_are_run(case: Case) -> None:
    lengths: list[int] = []
    for model, ability, sequences in decoded(case):
        for module in model.modules():
            if type(module).__name__ == "Mix":
                module.register_forward_hook(lambda _, given, __: lengths.append(given[0].size(1)))
        past_kv = None
        with torch.no_grad():
            for end in range(1, next(iter(sequences.values())).size(1) + 1):
                given = cut(sequences, ability, end)
                *_, past_kv = getattr(model, ability.method)(**given, past_kv=past_kv, use_cache=True)
    assert lengths and set(lengths) == {1}
