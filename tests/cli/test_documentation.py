"""What docs/command-line.md says is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from migrator.config import _KEYS, nearest
from migrator.run.command import FORMATS, migrate
from migrator.run.dispatch import subcommand, subcommands
from migrator.run.manual import EXIT_CODES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(title: str) -> str:
    """The indented lines of a section, without the indent."""
    return "\n".join(line[4:] for line in section(title).splitlines() if line.startswith("    ") or not line)


def test_every_option_that_is_named_exists() -> None:
    commands = [migrate, *map(subcommand, subcommands())]
    options = {name for command in commands for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"`(--[\w-]+)", PAGE + README)) - {"--help", "--extra-index-url"}
    assert named and named <= options


def test_the_configuration_is_valid_and_complete(tmp_path: Path) -> None:
    text = block("Configuration")
    (tmp_path / "pyproject.toml").write_text(text)
    assert set(nearest(tmp_path).table) == set(_KEYS)
    assert tomllib.loads(text)["tool"]["migrate"]["phase"] == 2


@pytest.mark.parametrize(("code", "meaning"), EXIT_CODES)
def test_exit_codes(code: str, meaning: str) -> None:
    row = next(line for line in section("Exit codes").splitlines() if line.startswith(f"| {code} "))
    words = row.replace("`", "").split(" | ")[1].removesuffix(" |")
    assert words.split(";")[0].split(":")[0] == meaning.split(";")[0].split(":")[0]


def test_formats_subcommands_and_codes() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("Reports"), re.MULTILINE)) == set(FORMATS)
    for name in subcommands():
        assert f"migrate {name}" in PAGE, name
    source = (ROOT / "migrator/rewrite/keeping.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(keep-[a-z-]+)"', source)) == set(re.findall(r"`(keep-[a-z-]+)`", PAGE))


def test_the_hooks_that_are_named_exist() -> None:
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    for name in re.findall(r"migrate-(?:check|diff)(?:-system)?", section("Pre-commit")):
        assert f"id: {name}\n" in hooks


def test_the_workflow_is_yaml_and_calls_us_rightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    workflow = yaml.safe_load(block("GitHub Actions"))
    steps = [step.get("run", "") for step in workflow["jobs"]["migrate"]["steps"]]
    calls = [step.partition(" > ")[0].split()[1:] for step in steps if step.startswith("migrate ")]
    assert len(calls) == 2
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").touch()
    monkeypatch.chdir(tmp_path)
    for arguments in calls:
        assert migrate.main(arguments, standalone_mode=False) == 0
