"""A line on the terminal that says what is being done, for somebody who watches; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migrator.report.page import colourful


@contextmanager
def watching(title: str, worth_it: bool = True) -> Iterator[Callable[[str], None]]:
    """Gives a function that replaces the line. Where nothing takes long, it is not worth to load what draws it."""
    if not worth_it or not colourful(sys.stderr):
        yield lambda text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(title) as status:
        yield lambda text: status.update(f"{title} {escape(text)}")
