"""The warm start of a SwiGLU: its formula, its bound, and what the proof does not accept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codemods.swiglu_warm import _STARTS
from migrator.codemod import Claim, Phase, Promise, SwiGLUPart
from migrator.prove import Prover
from migrator.prove.warm import started, undone
from migrator.rewrite.engine import plan
from migrator.rewrite.plan import Plan
from runtime import swiglu
from tests.prove.texts import NORMED, one_stage

PATH = Path("model.py")
FIXTURES = Path(__file__).parents[2] / "fixtures" / "swiglu_warm"
LEGACY = {"ReLU": F.relu, "GELU": F.gelu, "tanh GELU": lambda z: F.gelu(z, approximate="tanh")}
WARM = {"feed_forward": "warm"}


def planned(text: str = NORMED) -> Plan:
    return plan(PATH, text, phase=Phase.ARCHITECTURE, only=frozenset({"swiglu_warm"}), choices=WARM)


def products(bias: bool) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(24, 96, bias).double(), nn.Linear(24, 96).double(), nn.Linear(96, 24).double()


def start(first: nn.Linear, up: nn.Linear, k: float) -> nn.Linear:
    """Load the start into `up`, and give the gate that belongs to it."""
    state = started({f"fc.{key}": value for key, value in first.state_dict().items()}, "fc", "up", k)
    gate = nn.Linear(24, 96, first.bias is not None).double()
    for name, module in (("fc", gate), ("up", up)):
        module.load_state_dict(
            {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
        )
    return gate


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", list(_STARTS))
def test_units_and_outputs_stay_within_the_bound_and_come_close_to_it(activation: str, bias: bool) -> None:
    k, bound = _STARTS[activation]
    first, up, down = products(bias)
    gate = start(first, up, k)
    x = 4 * torch.randn(500, 24, dtype=torch.float64)
    old, new = LEGACY[activation](first(x)), swiglu(gate(x), up(x))
    largest = (old - new).abs().max().item()
    assert 0.95 * bound < largest <= bound
    assert bool(((down(old) - down(new)).abs() <= bound * down.weight.abs().sum(1) + 1e-12).all())


def test_the_bound_for_relu_is_lamberts() -> None:
    w = 0.5
    for _ in range(50):  # Newton on w exp(w) = 1/e
        w -= (w * math.exp(w) - 1 / math.e) / (math.exp(w) * (1 + w))
    k, bound = _STARTS["ReLU"]
    assert w / k <= bound < w / k + 1e-4
    t = torch.linspace(0, 50, 500_001, dtype=torch.float64)
    assert (t * torch.sigmoid(-t)).max().item() == pytest.approx(w, abs=1e-9)


def wrong_starts() -> dict[str, dict[str, Tensor]]:
    first, _, _ = products(True)
    weight, bias, k = first.weight.detach(), first.bias.detach(), 8.0
    right = started({"fc.weight": weight, "fc.bias": bias}, "fc", "up", k)
    return {
        "k forgotten": {**right, "fc.weight": weight, "fc.bias": bias},
        "k forgotten in the bias": {**right, "fc.bias": bias},
        "up is 1": {**right, "up.bias": torch.ones(96, dtype=torch.float64)},
        "up is k": {**right, "up.bias": torch.full((96,), k, dtype=torch.float64)},
        "up keeps its weight": {**right, "up.weight": 0.1 * torch.randn(96, 24, dtype=torch.float64)},
        "units in another order": {**right, "fc.weight": right["fc.weight"].flip(0)},
    }


@pytest.mark.parametrize("name", list(wrong_starts()))
def test_wrong_starts_break_the_bound(name: str) -> None:
    first, _, _ = products(True)
    state = wrong_starts()[name]
    x = 4 * torch.randn(500, 24, dtype=torch.float64)
    new = swiglu(F.linear(x, state["fc.weight"], state["fc.bias"]), F.linear(x, state["up.weight"], state["up.bias"]))
    assert (F.relu(first(x)) - new).abs().max().item() > 2 * _STARTS["ReLU"][1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_power_of_two_comes_back_bit_by_bit(dtype: torch.dtype) -> None:
    state = {"fc.weight": torch.randn(6, 4).to(dtype), "fc.bias": torch.randn(6).to(dtype)}
    made = started(state, "fc", "up", 8.0)
    assert all(value.dtype == dtype for value in made.values())
    back = undone(made, "fc", "up", 8.0)
    assert back is not None and all(torch.equal(back[name], state[name]) for name in state)
    made["up.weight"][0, 0] = 1e-3
    assert undone(made, "fc", "up", 8.0) is None


# --- in the proof ---------------------------------------------------------------------------------------------------


def test_a_warm_stage_is_proved(prover: Prover) -> None:
    verification = prover.prove(planned(), timeout=60)
    assert verification.status == "proved", verification
    figures = {check.name: check for check in verification.checks}
    for name in ("isolation", "SwiGLU reference", "warm bound", "warm hidden units", "warm outputs"):
        assert figures[name].passed, name
    units = figures["warm hidden units"]
    assert units.figure is not None and 0.02 < units.figure <= 0.0349  # the inputs come near the worst


@pytest.mark.parametrize("case", ["gelu_by_tanh", "own_class", "without_bias", "sequential_with_dropouts"])
def test_other_forms_are_proved(prover: Prover, case: str) -> None:
    text = (FIXTURES / case / "before.py").read_text(encoding="utf-8")
    verification = prover.prove(planned(text), timeout=60)
    assert verification.status == "proved", verification
    assert {"warm bound", "warm hidden units", "warm outputs"} <= {check.name for check in verification.checks}


def claiming(**changes: object) -> Plan:
    """The right text under another claim."""
    stage = planned().stages[0]
    (claim,) = stage.claims
    (part,) = claim.parts
    assert isinstance(part, SwiGLUPart) and stage.promise == Promise.WARM
    other = replace(claim, parts=(replace(part, **changes),))  # type: ignore[arg-type]
    return replace(planned(), stages=(replace(stage, claims=(other,)),))


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"sharpness": 4.0}, "warm bound"),  # k smaller than said
        ({"sharpness": 1.0}, "warm bound"),  # k forgotten
        ({"bound": 0.03}, "warm bound"),
        ({"bound": 0.5}, "warm bound"),  # true, and says nothing
        ({"activation": "GELU", "sharpness": 1.702, "bound": 0.0204}, "warm hidden units"),
        ({"activation": "tanh"}, "warm bound"),
        ({"down": "ffn_fc1"}, "SwiGLU reference"),
    ],
)
def test_wrong_claims_fail(prover: Prover, changes: dict[str, object], check: str) -> None:
    verification = prover.prove(claiming(**changes), timeout=60)
    assert verification.status == "failed"
    assert check in [found.name for found in verification.checks if not found.passed]


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("self.ffn_up = nn.Linear(dim_model, dim_hidden)", "self.ffn_up = nn.Linear(dim_model, dim_hidden, bias=False)", ""),
        ("swiglu(self.ffn_fc1(x), self.ffn_up(x))", "swiglu(self.ffn_up(x), self.ffn_fc1(x))", "isolation"),
        ("swiglu(self.ffn_fc1(x), self.ffn_up(x))", "2 * swiglu(self.ffn_fc1(x), self.ffn_up(x))", "isolation"),
        ("swiglu(self.ffn_fc1(x), self.ffn_up(x))", "swiglu(self.ffn_fc1(r), self.ffn_up(r))", "isolation"),
        ("swiglu(self.ffn_fc1(x), self.ffn_up(x))", "swiglu(self.ffn_fc1(x), self.ffn_up(x).relu())", "SwiGLU reference"),
    ],
)  # fmt: skip
def test_wrong_texts_fail(prover: Prover, old: str, new: str, check: str) -> None:
    right = planned()
    assert right.text.count(old) == 1
    verification = prover.prove(one_stage(right.stages[0], PATH, right.text.replace(old, new)), timeout=60)
    assert verification.status == "failed"
    assert not check or check in [found.name for found in verification.checks if not found.passed]


def test_a_claim_without_a_start_is_no_warm_claim(prover: Prover) -> None:
    stage = planned().stages[0]
    (claim,) = stage.claims
    bare = Claim(claim.definitions, claim.models, claim.off, (SwiGLUPart("Block", "ffn_fc1", "ffn_up", "ffn_fc2"),))
    verification = prover.prove(replace(planned(), stages=(replace(stage, claims=(bare,)),)), timeout=60)
    assert verification.status == "failed"
