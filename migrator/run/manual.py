"""What `migrate --help` says beside the options, and how these are grouped."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import click

EXAMPLES = (
    ("migrate model.py --dry-run", "what would change, as a patch"),
    ("migrate model.py --phase 2", "migrate, with the proof first"),
    ("migrate src --check", "for continuous integration"),
    ("migrate model.py --phase 2 --only rotary", "one codemod alone"),
    ("migrate explain rotary", "what a codemod does, and why"),
)
EXIT_CODES = (
    ("0", "done, or nothing to do"),
    ("1", "--check: work is left"),
    ("2", "wrong usage, unreadable input, or a fault of migrate; files are untouched"),
    ("3", "migrated, but something was refused, or measured to be worse"),
    ("4", "the proof failed or could not be made; nothing was written"),
    ("130", "interrupted: every file is either as it was, or wholly rewritten"),
)
ENVIRONMENT = (
    ("NO_COLOR", "any value turns colours off"),
    ("XDG_CACHE_HOME", "where --check keeps what it found in files that have not changed"),
)
FILES = (
    ("pyproject.toml", "[tool.migrate] of the nearest one fills in what the command line leaves open"),
    (".gitignore", "what it names is passed over where a directory is given"),
    ("# migrate: keep(CODEMOD) reason", "on a class or function: leave it as it is"),
)


class Option(click.Option):
    """An option that knows its heading in the help."""

    def __init__(self, *arguments: Any, group: str = "Other options", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """The options under their headings, in the order in which they are declared."""
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    for title, group in groupby(options, key=lambda option: getattr(option, "group", "Other options")):
        records = [record for option in group if (record := option.get_help_record(context))]
        with formatter.section(title):
            formatter.write_dl(records)


def write_rest(formatter: click.HelpFormatter) -> None:
    """Examples, exit codes, environment and files."""
    for title, rows in (
        ("Examples", EXAMPLES),
        ("Exit codes", EXIT_CODES),
        ("Environment", ENVIRONMENT),
        ("Files", FILES),
    ):
        with formatter.section(title):
            formatter.write_dl(rows)
