"""`migrate PATH...`: the options of a run over files."""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from migrator.config import nearest
from migrator.report.result import CHECK, DRY_RUN, WRITE
from migrator.run.dispatch import CommandLine, PathOrSubcommand
from migrator.run.flow import execute
from migrator.run.manual import Option
from migrator.run.options import Options
from migrator.run.showing import show

Function = TypeVar("Function", bound=Callable[..., Any])
FORMATS = ("text", "json", "sarif", "github")


def _configured(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths; and from here on the project's configuration stands in for options that are not given."""
    if context.resilient_parsing:  # the shell asks for completions
        return paths
    config = nearest(Path(os.path.commonpath([path.resolve() for path in paths])) if paths else Path())
    _check_names(config.switches)
    context.default_map = config.defaults()
    context.obj = config
    paths = paths or tuple(Path(os.path.relpath(path)) for path in config.paths)
    if not paths:
        raise click.MissingParameter(ctx=context, param=parameter)
    return paths


def _names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """Codemod names from a repeatable, comma-separated option."""
    names = frozenset(name.strip() for value in values for name in value.split(",") if name.strip())
    _check_names(names)
    return names


def _check_names(names: Collection[str]) -> None:
    if names:
        from migrator.rewrite.registry import check_names

        try:
            check_names(names)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error


def _module_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.isidentifier() or keyword.iskeyword(value):
        raise click.BadParameter(f"{value!r} is no name for a module")
    return value


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of codemods for the shell, behind those that are there already."""
    from migrator.rewrite.registry import names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in names() if name.startswith(last)]


def _option(group: str, *names: str, **settings: Any) -> Callable[[Function], Function]:
    return click.option(*names, cls=Option, group=group, **settings)


WHAT, PROOF, OUTPUT, RUN = "What to change", "Proof", "Output", "How to run"


@click.command(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.argument("paths", nargs=-1, metavar="PATH...", type=PathOrSubcommand(path_type=Path), is_eager=True,
                callback=_configured)  # fmt: skip
@_option(WHAT, "--phase", type=click.Choice(["1", "2", "3", "4"]), default="1", show_default=True,
         help="1: same function, same weights; 2: the architecture too; 3: caches; 4: measured, too.")  # fmt: skip
@_option(
    WHAT,
    "--only",
    multiple=True,
    callback=_names,
    shell_complete=_complete,
    metavar="CODEMOD",
    help="Run only these; repeatable, or a,b.",
)
@_option(
    WHAT,
    "--skip",
    multiple=True,
    callback=_names,
    shell_complete=_complete,
    metavar="CODEMOD",
    help="Leave these out; repeatable, or a,b.",
)
@_option(WHAT, "--positions", type=click.Choice(["rotary", "alibi"]), default="rotary", show_default=True,
         help="What replaces additive positions in phase 2.")  # fmt: skip
@_option(WHAT, "--feed-forward", type=click.Choice(["neutral", "warm"]), default="neutral", show_default=True,
         help="SwiGLU with as many parameters, or of the old width for old weights.")  # fmt: skip
@_option(WHAT, "--vendor", is_flag=True, help="Copy what is used of the runtime beside the file.")
@_option(WHAT, "--runtime-name", default="runtime", show_default=True, metavar="NAME", callback=_module_name,
         help="What to call that copy.")  # fmt: skip
@_option(PROOF, "--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
         metavar="S", help="Seconds for the proof of one file.")  # fmt: skip
@_option(PROOF, "--no-verify", is_flag=True, help="Write without a proof.")
@_option(PROOF, "--keep-failed", is_flag=True, help="Keep a text that was not proved as FILE.candidate.py.")
@_option(RUN, "--dry-run", is_flag=True, help="Print a patch for `git apply`; write nothing.")
@_option(RUN, "--check", is_flag=True, help="Write nothing; exit with 1 if anything is left to do.")
@_option(RUN, "-i", "--interactive", is_flag=True, help="Ask about each finding, and before writing.")
@_option(RUN, "-j", "--jobs", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
         help="Work on N files at a time; 0 for as many as there are processors.")  # fmt: skip
@_option(RUN, "--allow-dirty", is_flag=True, help="Write files with changes that are not committed in git, too.")
@_option(RUN, "--no-cache", is_flag=True, help="With --check: look again at files that have not changed.")
@_option(RUN, "--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True, metavar="S",
         help="With --phase 4: for the measurements of one file.")  # fmt: skip
@_option(OUTPUT, "--report", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
         help="With --phase 4: a page and a JSON document for each file that is measured.")  # fmt: skip
@_option(OUTPUT, "--format", type=click.Choice(FORMATS), default="text", show_default=True,
         help="For people, for programs, for code scanning, or as annotations of a GitHub workflow.")  # fmt: skip
@_option(OUTPUT, "-q", "--quiet", is_flag=True, help="Only refusals, work that is left, and errors.")
@_option(OUTPUT, "-v", "--verbose", is_flag=True, help="Also files without a transformer, and tensors one by one.")
@_option(OUTPUT, "--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(package_name="transformer-migrator", prog_name="migrate", message="%(prog)s %(version)s")
@click.pass_context
def migrate(
    context: click.Context, /, dry_run: bool, check: bool, no_verify: bool, no_cache: bool, **given: Any
) -> int:
    """Modernise the PyTorch transformers in PATH (files or directories).

    Every change is proved in a process of its own before any file is written. What cannot be rewritten safely is
    refused, with the reason.
    """
    if _given(context, "runtime_name") and not given["vendor"]:
        raise click.UsageError("--runtime-name needs --vendor")
    if given["report"] is not None:
        _check_report(given["phase"])
    _check_flags(dry_run=dry_run, check=check, **given)
    mode = CHECK if check else DRY_RUN if dry_run else WRITE
    if _given(context, "only") and not _given(context, "skip"):
        given["skip"] -= given["only"]  # the command line goes before the configuration
    given.update(phase=int(given["phase"]), jobs=given["jobs"] or os.cpu_count() or 1)
    options = Options(mode=mode, verify=not no_verify, cache=not no_cache, config=context.obj, **given)
    _check_phases(options)
    run = execute(options)
    show(run, options)
    return run.exit_code


def _check_report(phase: str) -> None:
    """What draws a page has to be there before anything is proved and measured for it."""
    if phase != "4":
        raise click.UsageError("--report needs --phase 4, which measures what it reports")
    from migrator.report.html import check_installed

    check_installed()


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _check_flags(dry_run: bool, check: bool, quiet: bool, verbose: bool, interactive: bool, **rest: Any) -> None:
    if dry_run and check:
        raise click.UsageError("--dry-run and --check exclude each other")
    if interactive and (dry_run or check or rest["jobs"] != 1 or rest["format"] != "text"):
        raise click.UsageError("--interactive goes with neither --dry-run, --check, --jobs nor another --format")
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")


def _check_phases(options: Options) -> None:
    """An --only that its phase leaves out would do nothing without saying so."""
    if not options.only:
        return
    from migrator.rewrite.registry import all_codemods, name_of

    phases = {name_of(codemod): int(codemod.phase) for codemod in all_codemods()}
    for name in sorted(options.only):
        if phases[name] > options.phase:
            raise click.UsageError(f"--only {name} needs --phase {phases[name]}")
