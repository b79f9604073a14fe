"""Migrations that go wrong in one way each: the section that is about it says so, and the good one stands."""

from __future__ import annotations

import pytest

from migrator.validate import Request, Text, Validation, validate
from migrator.validate.result import Attention, Gradients, Quality
from tests.validate.texts import LEGACY, PATH, migrated, spoilt

BUILD = "Tiny(vocab=17, dim=32, heads=4, layers=2, window=256)"
SECTIONS = ("gradients", "attention", "quality")


def measured(text: str, *sections: str, before: str = LEGACY, seconds: float = 12.0) -> Validation:
    legacy = Text(PATH, before)
    return validate(Request(legacy, Text(PATH, text), "Tiny", BUILD, (), seconds, only=sections))


def worse(validation: Validation) -> list[str]:
    return [verdict.text for verdict in validation.worse]


@pytest.fixture(scope="module")
def good() -> Validation:
    return measured(migrated(), *SECTIONS, seconds=36.0)


def test_gradients_and_attention_of_a_good_migration_are_not_worse(good: Validation) -> None:
    assert isinstance(good.gradients, Gradients) and isinstance(good.attention, Attention)
    assert not [v for v in (*good.gradients.verdicts, *good.attention.verdicts) if v.level == "worse"]


def test_gradients_at_three_depths_before_and_after_training(good: Validation) -> None:
    assert isinstance(good.gradients, Gradients)
    seen = {(row.side, row.depth, row.steps) for row in good.gradients.rows}
    assert seen == {(side, depth, steps) for side in ("legacy", "migrated") for depth in (2, 4, 8) for steps in (0, 20)}
    assert good.gradients.note == "", "the depth is an argument of the model"
    assert all(len(row.norms) == row.depth and row.seeds >= 1 for row in good.gradients.rows)


def test_every_head_of_both_sides_is_looked_at(good: Validation) -> None:
    assert isinstance(good.attention, Attention)
    assert len(good.attention.heads) == 2 * 2 * 4
    for head in good.attention.heads:
        assert 0 < head.entropy <= 1 and 0 < head.sink < 1 and head.distance > 0
        assert len(head.weights) == len(head.weights[0]) == 48


def test_training_of_a_good_migration(good: Validation) -> None:
    assert isinstance(good.quality, Quality)
    assert {(c.side, c.seed) for c in good.quality.curves} == {(s, n) for s in ("legacy", "migrated") for n in range(3)}
    assert all(curve.losses[-1] < curve.losses[0] for curve in good.quality.curves), "both learn"
    assert [row.factor for row in good.quality.lengths] == [1, 1, 2, 2, 4, 4]
    assert {row.learning_rate for row in good.quality.divergence} == {3e-3, 1e-2, 3e-2}


def test_the_promises_are_measured(good: Validation) -> None:
    said = {row.claim: row for row in good.promised}
    assert "runs diverge" in said["fewer gradient explosions"].measured
    assert said["faster generation"].measured == "" and said["faster generation"].why == "not asked for"


def test_dead_gradients_are_shown_as_worse() -> None:
    done = measured(
        spoilt(migrated(), "return x + self.ff(self.ln2(x))", "return x + self.ff(self.ln2(x)).detach()"), "gradients"
    )
    assert any(text.startswith("no gradient reaches ") and ".ff." in text for text in worse(done))


def test_gradients_that_vanish_with_depth_are_shown_as_worse() -> None:
    done = measured(
        spoilt(
            migrated(),
            "        return x + self.ff(self.ln2(x))",
            "        return 0.2 * x.detach() + 0.02 * x + self.ff(self.ln2(x)) * 0.02",
        ),
        "gradients",
    )
    assert any(text.startswith("gradients are less even over depth") for text in worse(done))


def test_gradients_that_explode_are_shown_as_worse() -> None:
    done = measured(
        spoilt(migrated(), "        return x + self.ff(self.ln2(x))", "        return 30 * (x + self.ff(self.ln2(x)))"),
        "gradients",
    )
    assert any("times apart between blocks" in text for text in worse(done))


def test_lost_positions_are_shown_as_worse() -> None:
    text = spoilt(migrated(), "        q, k = self.rotary(q, k, past_kv=past_kv)\n", "")
    done = measured(text, "attention")
    assert worse(done)[0].startswith("no position reaches attention any more")


def test_a_model_that_learns_worse_is_shown_as_worse() -> None:
    text = spoilt(
        migrated(), "return x + self.ff(self.ln2(x))", "return torch.randn_like(x) * 3 + self.ff(self.ln2(x))"
    )
    done = measured(text, "quality")
    assert any(text.startswith("loss at the end of training") for text in worse(done))
