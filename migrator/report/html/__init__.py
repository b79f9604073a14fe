"""A validation as one page that needs nothing else: no network, no script. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.errors import MigrateError
from migrator.report.hunks import Hunk

if TYPE_CHECKING:
    from migrator.prove.result import Verification
    from migrator.validate.result import Validation

_HERE = Path(__file__).parent


def check_installed() -> None:
    """Before anything is measured for the page.

    Raises:
        MigrateError: what draws the page is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        cause = f"the page cannot be drawn without {error.name}"
        raise MigrateError("no-report", cause, "run pip install 'transformer-migrator[report]'") from error


def render(validation: Validation, hunks: Sequence[Hunk] = (), proof: Verification | None = None) -> str:
    """The page; equal figures give an equal page.

    Raises:
        MigrateError: what draws it is not installed.
    """
    check_installed()
    import jinja2
    from markupsafe import Markup

    from migrator.report import figures as words
    from migrator.report.html import pictures

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    named = (words.number, words.size, words.duration, words.spread, words.time_spread)
    environment.filters.update({function.__name__: function for function in named})
    template = environment.get_template("page.html.j2")
    return template.render(
        v=validation, hunks=hunks, proof=proof, style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        figures={name: [(Markup(svg), text) for svg, text in found] for name, found in pictures.of(validation).items()},
    )  # fmt: skip
