"""`migrate undo`: the old bytes back."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]", type=click.Path(path_type=Path))
def command(paths: tuple[Path, ...]) -> None:
    """Give the files of the last run their old bytes back.

    The last run is the last that wrote PATH, or anything below the working directory. All of its files are set back, or
    none: if one of them was changed since, nothing happens. Called again, it undoes the run before that.
    """
    from migrator.write.transaction import undo

    for path in undo([path.resolve() for path in paths or (Path.cwd(),)]):
        click.echo(f"restored  {path}")
