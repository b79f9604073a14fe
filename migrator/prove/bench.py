"""What all checks of one proof share: boxes, probes, and the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from migrator.codemod import Claim, Part
from migrator.config import Tolerances
from migrator.prove.comparing import Scale
from migrator.prove.ledger import Ledger
from migrator.prove.nursery import Nursery
from migrator.prove.probe import Case, Probes
from migrator.prove.remote import Box, BoxError, Model, OutOfTime, build, open_box

_IMPORT_SECONDS = 15.0


@dataclass
class Bench:
    """Opens boxes as they are needed, each combination of text and switches once."""

    nursery: Nursery
    path: Path
    deadline: float
    progress: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)
    probes: Probes = field(default_factory=Probes)
    definitions_only: bool = False
    left_out: int = 0
    tolerances: Tolerances = Tolerances()
    known: dict[tuple[str, ...], bool] = field(default_factory=dict)
    _boxes: dict[str, Box] = field(default_factory=dict)
    _single: list[Case] = field(default_factory=list)  # cases that can't be built or run in float64 throughout

    @property
    def float64(self) -> Scale:
        return Scale(self.tolerances.float64, 1e-4)

    @property
    def float32(self) -> Scale:
        return Scale(self.tolerances.float32, 1.0)

    def tick(self, doing: str) -> None:
        """Say what comes next, unless the time is over."""
        if time.monotonic() > self.deadline:
            raise OutOfTime
        self.progress(doing)

    def open_first(self, text: str) -> Box:
        """The box of the text as the user has it; decides whether a file can only be run in part."""
        limit = min(_IMPORT_SECONDS, max((self.deadline - time.monotonic()) / 3, 1.0))
        try:
            return self.box("the legacy code", text, limit=limit)
        except BoxError as error:
            reason = str(error)
        self.definitions_only = True
        box, notes = open_box(
            self.nursery, "the legacy code", text, self.path, self.deadline, definitions_only=True, limit=limit
        )
        box.key = _key(text, (), (), False)
        self._boxes[box.key] = box
        self.left_out = len(notes)
        self.ledger.note(f"importing the file failed ({reason}); only its definitions were run")
        for note in notes:
            self.ledger.note(note)
        return box

    def box(
        self, label: str, text: str, *, neutral: Sequence[Part] = (), reference: Sequence[Part] = (),
        isolated_draws: bool = False, limit: float = _IMPORT_SECONDS,
    ) -> Box:  # fmt: skip
        key = _key(text, neutral, reference, isolated_draws)
        if key not in self._boxes:
            box, notes = open_box(
                self.nursery, label, text, self.path, self.deadline, definitions_only=self.definitions_only,
                neutral=_described(neutral), reference=_described(reference), isolated_draws=isolated_draws,
                limit=limit,
            )  # fmt: skip
            if len(notes) > self.left_out:
                box.close()
                raise BoxError(notes[-1])
            box.key = key
            self._boxes[key] = box
        return self._boxes[key]

    def scratch(self, text: str) -> Box:
        """A box for trying things out in, alive even if the last one was not."""
        key = _key(text, (), (), False)
        if key in self._boxes and self._boxes[key].gone:
            del self._boxes[key]
        return self.box("the legacy code", text)

    def release(self, keep: Sequence[str]) -> None:
        """Close the boxes of all texts but these."""
        for key, box in list(self._boxes.items()):
            if json.loads(key)[0] not in keep:
                box.close()
                del self._boxes[key]

    def close(self) -> None:
        self.release(())

    def model(self, box: Box, case: Case, dtype: torch.dtype = torch.float64, **options: Any) -> Model:
        """The case's module in a box, and, where it has a path, the part of it that is meant."""
        if dtype == torch.float64 and any(case is one for one in self._single):
            options.setdefault("default", torch.float32)
        return build(box, case.build, case.tensors, dtype=dtype, **options).at(case.path)

    def legacy(self, box: Box, case: Case) -> Model:
        """In float64 throughout or, if it can't be built or run so, with float64 weights and inputs alone.

        What was found holds for all models of the case from now on. Raises BoxError where neither runs.
        """
        try:
            model = self.model(box, case)
            model.run(case.largest, grads=False)
        except BoxError as error:
            try:
                model = self.model(box, case, default=torch.float32)
                model.run(case.largest, grads=False)
            except BoxError:
                raise error from None
            self._single.append(case)
        return model


def _key(text: str, neutral: Sequence[Part], reference: Sequence[Part], isolated_draws: bool) -> str:
    return json.dumps([text, _described(neutral), _described(reference), isolated_draws])


def _described(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [{"kind": type(part).__name__, **vars(part)} for part in parts]


def parts_of(claims: Sequence[Claim]) -> list[Part]:
    return list(dict.fromkeys(part for claim in claims for part in claim.parts))
