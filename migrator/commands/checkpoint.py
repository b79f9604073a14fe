"""`migrate checkpoint OLD NEW`: old weights for the migrated model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from migrator.checkpoint.request import Request

_REFUSED = 3


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--model", metavar="FILE[:CLASS]", help="The migrated file, and its class if the file has several.")
@click.option("--legacy", metavar="FILE", type=click.Path(path_type=Path),
              help="The file before: renamed tensors and warm starts need it.")  # fmt: skip
@click.option("--build", default="", metavar="CALL", help="How the model is built: 'Model(vocab=11, dim=16)'.")
@click.option("--reverse", is_flag=True, help="From the migrated model to the legacy one; needs --legacy.")
@click.option("--force", is_flag=True, help="Replace NEW if it is there.")
@click.option("--seed", default=0, show_default=True, help="For initial values of what is new.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True, metavar="S",
              help="Seconds for all of it.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="How to report.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def command(
    old: Path, new: Path, model: str | None, legacy: Path | None, build: str, reverse: bool, force: bool, seed: int,
    timeout: float, format_: str, debug: bool,
) -> int:  # fmt: skip
    """Carry a checkpoint over to the migrated model.

    OLD is read without running code (.pt by `weights_only`, or .safetensors); NEW is written in the format that its
    name says. The model is built in a process of its own, to learn the names and shapes of its tensors.

    Exit codes: 0 done; 2 nothing was written; 3 written, but the state of an optimizer was left out.
    """
    from migrator.checkpoint import convert
    from migrator.write.transaction import created

    _check_paths(old, new)
    with created(new, force=force) as out:
        request = _request(old, new, out, model, legacy, build, reverse, seed)
        done = convert(request, timeout=timeout)
    if format_ == "json":
        import json

        click.echo(json.dumps({"version": 1, "old": str(old), "new": str(new), **done.to_json()}, indent=2))
    else:
        from migrator.report.checkpoint import render
        from migrator.report.page import width_of

        render(done, old, new, width_of(sys.stdout)).print(sys.stdout)
    return _REFUSED if done.lost else 0


def _check_paths(old: Path, new: Path) -> None:
    from migrator.errors import MigrateError

    if not old.is_file():
        raise MigrateError("no-such-file", "there is no such checkpoint", "name an existing file", path=old)
    if new.exists() and new.samefile(old):
        raise MigrateError("same-file", "OLD and NEW are one file", "give NEW a name of its own", path=new)


def _request(
    old: Path, new: Path, out: Path, model: str | None, legacy: Path | None, build: str, back: bool, seed: int
) -> Request:
    from migrator.checkpoint.asking import claims, model_file
    from migrator.checkpoint.request import Request
    from migrator.errors import MigrateError

    if back and legacy is None:
        cause = "the way back leads to the tensors of the legacy model"
        raise MigrateError("legacy-needed", cause, "add --legacy FILE.py, the file as it was", path=old)
    if not back and model is None:
        cause = "the tensors that the new checkpoint has to have are those of the migrated model"
        raise MigrateError("model-needed", cause, "add --model FILE.py, the migrated file", path=old)
    path, symbol = _split(model or "")
    before = None if legacy is None else model_file(legacy)
    starts, renamed = claims(before) if before is not None else ((), ())
    return Request(
        old=old.resolve(), out=out, safetensors=new.suffix == ".safetensors", legacy=before,
        model=model_file(Path(path)) if path and not back else None, symbol=symbol, build=build, starts=starts,
        renamed=renamed, back=back, seed=seed,
    )  # fmt: skip


def _split(model: str) -> tuple[str, str]:
    """`FILE.py:Class` in two; a colon elsewhere belongs to the path."""
    path, colon, symbol = model.rpartition(":")
    return (path, symbol) if colon and symbol.isidentifier() and not Path(model).exists() else (model, "")
