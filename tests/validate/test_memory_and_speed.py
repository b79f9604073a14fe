"""Memory and speed: a good migration is shown as good, and one that costs more as worse, by the section it is about."""

from __future__ import annotations

import pytest

from migrator.validate import Request, Text, Validation, validate
from migrator.validate.asking import samplers
from migrator.validate.result import Memory, Speed, Unmeasured
from tests.validate.texts import LEGACY, PATH, migrated, spoilt

BUILD = "Tiny(vocab=17, dim=32, heads=4, layers=2, window=512)"


def measured(text: str, before: str = LEGACY) -> Validation:
    legacy = Text(PATH, before)
    request = Request(legacy, Text(PATH, text), "Tiny", BUILD, samplers(legacy), 16.0, only=("memory", "speed"))
    return validate(request)


@pytest.fixture(scope="module")
def good() -> Validation:
    return measured(migrated())


def test_a_good_migration_takes_less_memory_and_generates_faster(good: Validation) -> None:
    assert isinstance(good.memory, Memory) and isinstance(good.speed, Speed)
    exponents = {(g.side, g.activity): g.exponent for g in good.memory.growth}
    assert exponents["migrated", "forward"] < exponents["legacy", "forward"]
    assert [v.level for v in good.memory.verdicts] == ["better", "better"], good.memory.verdicts
    variants = {(row.side, row.variant) for row in good.speed.rows if row.activity == "generation"}
    assert variants == {("legacy", ""), ("migrated", "cached"), ("migrated", "uncached")}
    assert all(row.seconds.n >= 1 and row.tokens_per_second > 0 for row in good.speed.rows)


def test_every_figure_has_its_other_half(good: Validation) -> None:
    assert isinstance(good.memory, Memory) and isinstance(good.speed, Speed)
    halves = [{(r.activity, r.length) for r in good.memory.rows if r.side == side} for side in ("legacy", "migrated")]
    assert halves[0] == halves[1]


def test_quadratic_memory_and_slow_code_are_shown_as_worse() -> None:
    wasteful = """\
        import time

        time.sleep(0.006)
        waste = (x @ x.transpose(1, 2)).unsqueeze(1).repeat(1, 24, 1, 1).cos()
        x = x + waste.mean() * 0
        x = x + self.attn("""
    done = measured(spoilt(migrated(), "        x = x + self.attn(", wasteful), before=migrated())
    assert isinstance(done.memory, Memory) and isinstance(done.speed, Speed)
    assert {v.level for v in done.memory.verdicts} == {"worse"}
    assert sum("grows with" in v.text for v in done.memory.verdicts) == 2
    assert [v.level for v in done.speed.verdicts] == ["worse", "worse"], done.speed.verdicts


def test_slow_generation_is_shown_as_worse() -> None:
    signature = "    def generate(self, idx, max_new_tokens):\n"
    slow = "        import time\n\n        time.sleep(0.004 * max_new_tokens)\n"
    done = measured(spoilt(migrated(), signature, signature + slow))
    assert isinstance(done.speed, Speed)
    assert any(v.level == "worse" and v.text.startswith("generation") for v in done.speed.verdicts)


def test_sections_that_are_not_asked_for_say_so(good: Validation) -> None:
    assert good.quality == Unmeasured("not asked for")
