"""`migrate PATH...` beside `migrate SUBCOMMAND`: each module in `migrator/commands` is a subcommand of its name.

None of them is known by name here, nor loaded before it is asked for.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.run import manual

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = Path(__file__).parents[1] / "commands"


class CommandLine(click.Command):
    """A run over files, unless the first word is the name of a subcommand. A file of that name is `./name`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the subcommand that is called, else our own; completion comes this way too."""
        if args and args[0] in subcommands():
            settings = {**self.context_settings, **extra}
            return subcommand(args[0]).make_context(f"{info_name} {args[0]}", args[1:], parent, **settings)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        manual.write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Subcommands"):
            formatter.write_dl([(name, subcommand(name).get_short_help_str(80)) for name in subcommands()])
        manual.write_rest(formatter)


class PathOrSubcommand(click.Path):
    """A path; the shell offers the subcommands too where the first one is awaited."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        first = not ctx.params.get(param.name or "")
        names = [name for name in subcommands() if first and name.startswith(incomplete)]
        return [*map(CompletionItem, names), *super().shell_complete(ctx, param, incomplete)]


def subcommands() -> list[str]:
    """`checkpoint` for migrator/commands/checkpoint.py; modules that start with an underscore are helpers."""
    return sorted(name[:-3] for name in os.listdir(COMMANDS) if name.endswith(".py") and name[0] != "_")


def subcommand(name: str) -> click.Command:
    """The click command that the module calls `command`."""
    command: click.Command = importlib.import_module(f"migrator.commands.{name}").command
    return command
