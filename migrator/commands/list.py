"""`migrate list`: the codemods there are."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """List the codemods: phase, name, promise, and why."""
    from migrator.rewrite.registry import all_codemods, name_of

    width = max(len(name_of(codemod)) for codemod in all_codemods())
    for codemod in all_codemods():
        click.echo(f"{int(codemod.phase)}  {name_of(codemod):<{width}}  {codemod.promise:<5}  {codemod.rationale}")
