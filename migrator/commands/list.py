"""`migrate list`: the codemods there are."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """List the codemods: phase, name, promise, and why."""
    import sys

    from migrator.report.page import Page, width_of
    from migrator.rewrite.registry import all_codemods, name_of

    page = Page(width_of(sys.stdout))
    width = max(len(name_of(codemod)) for codemod in all_codemods())
    for codemod in all_codemods():
        lead = f"{int(codemod.phase)}  {name_of(codemod):<{width}}  {codemod.promise:<5}  "
        page.paragraph(lead, codemod.rationale)
    page.print(sys.stdout)
