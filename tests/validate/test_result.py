"""A validation survives the way through JSON, whatever was measured and whatever was not."""

from __future__ import annotations

import json
import math

from migrator.validate.result import (
    Environment,
    GradientRow,
    Gradients,
    LengthRow,
    Quality,
    Spread,
    Subject,
    Unmeasured,
    Validation,
    Verdict,
)  # fmt: skip

GRADIENTS = Gradients(
    rows=(GradientRow("legacy", 2, 0, 3, (1.0, 0.5), math.inf, 0, 1, ("head.bias",)),),
    verdicts=(Verdict("worse", "head.bias has no gradient any more"),),
)
QUALITY = Quality(
    "copying", 1e-3, (), {"legacy": Spread(1.0, 0.5, 2.0, 3)},
    (LengthRow("legacy", 2, None, "its window is 16"), LengthRow("migrated", 2, Spread(1.0, 1.0, 1.0, 1))), (), (),
)  # fmt: skip


def validation() -> Validation:
    return Validation(
        "old.py", "new.py", Subject("GPT", "defaults", True, 2, {"legacy": 10, "migrated": 11}),
        Environment("3.11", "2.13", "cpu", 1, "a processor", "linux", "0.1.0"),
        GRADIENTS, Unmeasured("no attention was seen"), Unmeasured("-"), Unmeasured("-"), QUALITY, Unmeasured("-"),
        (), ("a note",), 1.5,
    )  # fmt: skip


def test_json_and_back() -> None:
    text = json.dumps(validation().to_json(), allow_nan=False)
    assert Validation.from_json(json.loads(text)) == validation()


def test_json_has_a_version_and_says_why_something_was_not_measured() -> None:
    data = validation().to_json()
    assert data["version"] == 1
    assert data["attention"] == {"reason": "no attention was seen"}
    assert data["gradients"]["rows"][0]["ratio"] == "inf"


def test_what_got_worse_is_gathered_from_all_sections() -> None:
    assert [verdict.text for verdict in validation().worse] == ["head.bias has no gradient any more"]


def test_the_middle_of_even_and_odd_counts() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]).median == 2.5
