"""Which files import the runtime from a copy beside them, and what has to be copied (`--vendor`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.errors import MigrateError
from migrator.rewrite.renaming import RUNTIME, imported_modules, renamed, runtime_names
from migrator.run.options import Options
from migrator.write import vendor
from migrator.write.vendor import is_copy

if TYPE_CHECKING:
    from migrator.read.source import Source
    from migrator.rewrite.plan import Outcome

_OTHER_NAME = "modern_runtime"


def module_of(options: Options, source: Source) -> str:
    """From where the file imports the runtime, or is to import it: `runtime`, or a copy, `.name` inside a package."""
    for module in sorted(imported_modules(source.text)):
        if is_copy(folder_of(source, module)):
            return module
    if not options.vendor:
        return RUNTIME
    inside_package = (source.target.parent / vendor.INIT).exists()
    return "." + options.runtime_name if inside_package else options.runtime_name


def folder_of(source: Source, module: str) -> Path:
    return source.target.parent / module.removeprefix(".")


def as_runtime(source: Source, module: str) -> Source:
    """The source with the copy called by the runtime's own name.

    Raises:
        MigrateError: the file imports another module of that name too.
    """
    if module == RUNTIME:
        return source
    if RUNTIME in imported_modules(source.text) and is_copy(folder_of(source, module)):
        cause = "the file imports a module `runtime` of its own beside its copy of ours"
        raise MigrateError("runtime-taken", cause, "rename that module", path=source.path)
    return replace(source, text=renamed(source.text, module, RUNTIME))


def check_free(source: Source, module: str) -> None:
    """See that the module's name is not that of something of the user's, which would hide it.

    Raises:
        MigrateError: it is; with another name.
    """
    folder = folder_of(source, module)
    file = folder.with_suffix(".py")
    taken = file if file.exists() else folder
    if file.exists() or vendor.is_foreign(folder):
        cause = f"{taken.name} beside it is a module of yours, and would hide the one that the new text imports"
        remedy = f"use --vendor --runtime-name {_OTHER_NAME}"
        raise MigrateError("runtime-taken", cause, remedy, path=source.path)


def copies(needs: Iterable[tuple[Path, str]]) -> dict[Path, bytes]:
    """The files to write, of those that (directory of the copy, new text that imports it) ask for.

    Raises:
        MigrateError: somebody has edited a copy.
    """
    names: dict[Path, set[str]] = {}
    for folder, text in needs:
        names.setdefault(folder, vendor.exported(folder)).update(runtime_names(text))
    wanted: dict[Path, bytes] = {}
    for folder, used in names.items():
        if not used:
            continue
        for name, matter in vendor.differences(folder) if is_copy(folder) else ():
            if matter == "was edited":
                raise MigrateError("vendored-edited", f"{name} {matter}", f"delete {folder} first", path=folder)
        wanted.update({folder / name: data for name, data in vendor.package(used).items()})
    return {path: data for path, data in wanted.items() if not path.is_file() or path.read_bytes() != data}


def complaints(source: Source, module: str) -> Iterator[Outcome]:
    """A row for a copy that is not what this version would copy."""
    from migrator.codemod import Promise
    from migrator.rewrite.plan import Outcome

    folder = folder_of(source, module)
    matters = list(vendor.differences(folder)) if is_copy(folder) else []
    if matters:
        seen = ", ".join(f"{folder.name}/{name} {matter}" for name, matter in matters)
        edited = any(matter == "was edited" for _, matter in matters)
        code, remedy = (
            ("vendored-edited", "delete the copy, then run migrate --vendor")
            if edited
            else ("vendored-stale", "run migrate --vendor again")
        )
        yield Outcome("vendor", 1, str(Promise.EXACT), "refused", code, seen, "", 1, 1, remedy)
