"""A codemod as a LibCST command: one tree in, one tree out."""

from __future__ import annotations

from pathlib import Path

import libcst as cst

from migrator.codemod import Codemod
from migrator.rewrite.engine import plan
from migrator.rewrite.registry import name_of


def transformed(codemod: type[Codemod], tree: cst.Module) -> cst.Module:
    """The module after this one codemod, applied until it finds nothing more."""
    choices = dict([codemod.choice]) if codemod.choice is not None else {}
    result = plan(
        Path("module.py"), tree.code, phase=codemod.phase, only=frozenset({name_of(codemod)}), choices=choices
    )
    return cst.parse_module(result.text) if result.changed else tree
