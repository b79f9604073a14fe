"""`migrate PATH...`: the options of a run over files."""

from __future__ import annotations

from pathlib import Path

import click

from migrator.report.result import CHECK, DRY_RUN, WRITE
from migrator.run.dispatch import CommandLine
from migrator.run.flow import execute
from migrator.run.options import Options
from migrator.run.showing import show


def _names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """Codemod names from a repeatable, comma-separated option; a wrong one is a usage error."""
    names = frozenset(name.strip() for value in values for name in value.split(",") if name.strip())
    if not names:
        return names
    from migrator.rewrite import registry

    known = registry.names()
    for name in sorted(names - set(known)):
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise click.BadParameter(f"no codemod is called {name!r}; {hint}")
    return names


@click.command(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--phase", type=click.Choice(["1", "2", "3", "4"]), default="1", show_default=True,
              help="1: same function, same weights; 2: the architecture too.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print a patch for `git apply`; write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if anything is left to do.")
@click.option("--no-verify", is_flag=True, help="Write without a proof.")
@click.option("--keep-failed", is_flag=True, help="Keep a text that was not proved as FILE.candidate.py.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
              metavar="S", help="Seconds for the proof of one file.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="How to report.")  # fmt: skip
@click.option("--only", multiple=True, callback=_names, metavar="CODEMOD", help="Run only these; repeatable, or a,b.")
@click.option("--skip", multiple=True, callback=_names, metavar="CODEMOD", help="Leave these out; repeatable, or a,b.")
@click.option("--positions", type=click.Choice(["rotary", "alibi"]), default="rotary", show_default=True,
              help="What replaces additive positions in phase 2.")  # fmt: skip
@click.option("--feed-forward", type=click.Choice(["neutral", "warm"]), default="neutral", show_default=True,
              help="SwiGLU with as many parameters, or of the old width for old weights.")  # fmt: skip
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(package_name="transformer-migrator", prog_name="migrate", message="%(prog)s %(version)s")
def migrate(
    paths: tuple[Path, ...], phase: str, dry_run: bool, check: bool, no_verify: bool, keep_failed: bool,
    timeout: float, format_: str, only: frozenset[str], skip: frozenset[str], positions: str,
    feed_forward: str, debug: bool,
) -> int:  # fmt: skip
    """Modernise the PyTorch transformers in PATH (files or directories).

    Every change is proved in a process of its own before any file is written.

    Exit codes: 0 done or nothing to do; 1 work left (--check); 2 usage, unreadable input or our own fault; 3 migrated,
    but something was refused; 4 the proof failed, nothing was written.
    """
    if dry_run and check:
        raise click.UsageError("--dry-run and --check exclude each other")
    mode = CHECK if check else DRY_RUN if dry_run else WRITE
    options = Options(
        paths,
        int(phase),
        mode,
        not no_verify,
        keep_failed,
        timeout,
        format_,
        only,
        skip,
        positions,
        feed_forward,
        debug,
    )
    _check_phases(options)
    run = execute(options)
    show(run, options)
    return run.exit_code


def _check_phases(options: Options) -> None:
    """A phase without codemods, or an --only that its phase leaves out, would do nothing without saying so."""
    if options.phase <= 2 and not options.only:
        return
    from migrator.rewrite.registry import all_codemods, name_of

    phases = {name_of(codemod): int(codemod.phase) for codemod in all_codemods()}
    last = max(phases.values())
    if options.phase > last:
        raise click.UsageError(f"--phase {options.phase} has no codemods yet; there are phases up to {last}")
    for name in sorted(options.only):
        if phases[name] > options.phase:
            raise click.UsageError(f"--only {name} needs --phase {phases[name]}")
