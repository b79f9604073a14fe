"""Every codemod is a command of LibCST's own driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migrator.codemod import Codemod, Phase
from migrator.rewrite.engine import plan
from migrator.rewrite.registry import all_codemods, name_of

FIXTURE = Path(__file__).parents[1] / "fixtures" / "latent_drift_trajectory.py"


def libcst_tool(codemod: type[Codemod], path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "libcst.tool", "codemod", "--no-format", "--hide-progress", "--external"]
    name = f"{codemod.__module__}.{codemod.__name__}"
    return subprocess.run([*command, name, str(path)], capture_output=True, text=True, cwd=path.parent, check=False)


def test_the_attention_codemod_gives_what_migrate_gives(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_bytes(FIXTURE.read_bytes())
    codemod = next(c for c in all_codemods() if name_of(c) == "attention")
    result = libcst_tool(codemod, path)
    assert result.returncode == 0, result.stderr
    expected = plan(FIXTURE, FIXTURE.read_text(), phase=Phase.DROP_IN, only=frozenset({"attention"}))
    assert path.read_text() == expected.text != FIXTURE.read_text()


@pytest.mark.parametrize("codemod", all_codemods(), ids=name_of)
def test_every_codemod_loads_as_a_command(codemod: type[Codemod]) -> None:
    code = (
        "import libcst.codemod, importlib;"
        f"cls = getattr(importlib.import_module({codemod.__module__!r}), {codemod.__name__!r});"
        "assert issubclass(cls, libcst.codemod.CodemodCommand) and cls.DESCRIPTION == cls.rationale;"
        "cls(libcst.codemod.CodemodContext())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
