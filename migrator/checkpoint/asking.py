"""From the files that a user names to a request: what their text says of models, and what a migration would claim."""

from __future__ import annotations

from pathlib import Path

from migrator.checkpoint.request import ModelFile, Renamed
from migrator.codemod import Phase, SwiGLUPart
from migrator.config import nearest
from migrator.read import source
from migrator.recognise.gates import gates
from migrator.recognise.index import FileIndex
from migrator.rewrite import engine


def model_file(path: Path) -> ModelFile:
    """The source of a model.

    Raises:
        MigrateError: the file cannot be read, or is no Python.
    """
    read = source.read(path)
    source.parse(path, read.text)
    seen = tuple(gates(FileIndex(read.text)))
    return ModelFile(read.target.resolve(), read.text, seen, nearest(read.target).probes)


def claims(legacy: ModelFile) -> tuple[tuple[SwiGLUPart, ...], Renamed]:
    """Feed-forwards that can start from old weights, and tensors that get another name, whatever phase was chosen."""
    parts: dict[SwiGLUPart, None] = {}
    renamed: dict[tuple[str, str, str], None] = {}
    for width in ("warm", "neutral"):
        plan = engine.plan(legacy.path, legacy.text, phase=max(Phase), choices={"feed_forward": width})
        for claim in (claim for stage in plan.stages for claim in stage.claims):
            parts |= {part: None for part in claim.parts if isinstance(part, SwiGLUPart) and part.sharpness}
            renamed |= dict.fromkeys(claim.renamed)
    return tuple(parts), tuple(renamed)
