"""`migrate explain CODEMOD`: everything there is to know about one codemod."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from migrator.codemod import Codemod
    from migrator.report.page import Page

_PROMISES = {
    "exact": "exact: the same function with the same weights. Outputs and all gradients agree in float64, old "
    "checkpoints load, and training goes the same way.",
    "warm": "warm: the difference is bounded, and the bound is printed.",
    "new": "new: the function changes, so retrain or fine-tune. With the new part switched off on both sides old and "
    "new agree, and causality and the other invariants hold.",
}


class _Name(click.ParamType[str]):
    """The name of a codemod, completed by the shell."""

    name = "codemod"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from migrator.rewrite.registry import check_names

        try:
            check_names([value])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from migrator.rewrite.registry import names

        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


@click.command()
@click.argument("name", metavar="CODEMOD", type=_Name())
def command(name: str) -> None:
    """Explain a codemod: why, before and after, the mathematics, its promise, when it refuses, and the paper."""
    import sys

    from migrator.report.page import Page, width_of
    from migrator.rewrite.registry import all_codemods, name_of

    codemod = next(codemod for codemod in all_codemods() if name_of(codemod) == name)
    page = Page(width_of(sys.stdout))
    _show_head(page, name, codemod)
    _show_example(page, name, codemod)
    _show_refusals(page, codemod)
    page.paragraph("reference  ", codemod.reference)
    page.print(sys.stdout)


def _show_head(page: Page, name: str, codemod: type[Codemod]) -> None:
    origin = _distribution(codemod)
    page.line(f"{name}, phase {int(codemod.phase)}" + (f", from {origin}" if origin else ""), "bold")
    page.paragraph("  ", (codemod.__doc__ or "").strip())
    if codemod.choice is not None:
        page.paragraph("  ", f"Chosen with --{codemod.choice[0].replace('_', '-')} {codemod.choice[1]}.")
    page.line()
    page.line("why", "bold")
    page.paragraph("  ", codemod.rationale)
    page.line()
    if codemod.formula:
        page.line("formula", "bold")
        for line in codemod.formula.strip().splitlines():
            page.paragraph("  ", line)
        page.line()
    page.line("promise", "bold")
    page.paragraph("  ", _PROMISES[str(codemod.promise)])
    page.line()


def _show_example(page: Page, name: str, codemod: type[Codemod]) -> None:
    """What this very codemod says of its example, and makes of it."""
    file = files(codemod.__module__.rpartition(".")[0]) / "examples" / f"{name}.txt"
    if not file.is_file():
        return
    from migrator.report.diff import unified
    from migrator.rewrite.engine import plan

    choices = dict([codemod.choice] if codemod.choice is not None else [])
    before = file.read_text(encoding="utf-8")
    result = plan(Path("example.py"), before, phase=codemod.phase, only=frozenset({name}), choices=choices)
    page.line("example", "bold")
    for found in result.outcomes:
        page.paragraph("  ", f"line {found.line}: {found.status}: {found.message}")
    page.line()
    patch = unified(before.encode(), result.text.encode(), "example.py").decode().splitlines()
    for line in patch[2:] if result.changed else before.splitlines():
        page.line(f"    {line}".rstrip(), {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], ""))
    page.line()


def _show_refusals(page: Page, codemod: type[Codemod]) -> None:
    if not codemod.refusals:
        return
    page.line("refused when", "bold")
    width = max(map(len, codemod.refusals))
    for code, meaning in sorted(codemod.refusals.items()):
        page.paragraph(f"  {code:<{width}}  ", meaning, lead_style="yellow")
    page.line()


def _distribution(codemod: type[Codemod]) -> str:
    """Name and version of the distribution that a codemod comes from, unless it is one of ours."""
    from importlib.metadata import packages_distributions, version

    top = codemod.__module__.partition(".")[0]
    if top == "codemods":
        return ""
    return ", ".join(f"{name} {version(name)}" for name in packages_distributions().get(top, []))
