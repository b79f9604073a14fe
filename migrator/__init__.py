"""Rewrites 2017-style PyTorch transformers into modern ones, and proves each change.

`migrator.plan(source)` says what the command line would do to a text. It is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migrator.rewrite.plan import Outcome, Plan, Stage
    from migrator.run.api import plan

    __version__: str

__all__ = ["Outcome", "Plan", "Stage", "plan"]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("transformer-migrator")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("migrator.run.api"), name)
