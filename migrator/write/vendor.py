"""Copies of the runtime's modules beside a user's file: those that it uses and what these need, and no others."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from migrator.errors import MigrateError

_RUNTIME = Path(__file__).parents[2] / "runtime"
_HEADER = re.compile(
    rb"# Copied from transformer-migrator (\S+) by `migrate --vendor`, under the licence beside it\.\n"
    rb"# SHA-256 of all below this line: (\w+)\n"
)
INIT, LICENCE = "__init__.py", "LICENSE"


def is_copy(folder: Path) -> bool:
    """Whether a directory was made by `migrate --vendor`."""
    try:
        with open(folder / INIT, "rb") as file:
            return _HEADER.match(file.read(300)) is not None
    except OSError:
        return False


def is_foreign(folder: Path) -> bool:
    """Whether a directory holds what we did not put there; a run that was killed may have left an empty one."""
    if not folder.is_dir():
        return folder.exists()
    return not is_copy(folder) and not set(folder.iterdir()) <= set(_leftovers(folder))


def exported(folder: Path) -> set[str]:
    """The names that a copy offers."""
    return set(_names_of(folder / INIT)) if is_copy(folder) else set()


def package(names: Collection[str]) -> dict[str, bytes]:
    """The files of a copy that offers these names, by file name.

    Raises:
        MigrateError: the runtime has no such name.
    """
    homes = dict(_homes())
    for name in sorted(set(names) - set(homes)):
        raise MigrateError("no-such-name", f"the runtime has no {name}", "correct the import")
    lines = [f"from .{module} import {', '.join(sorted(n for n in names if homes[n] == module))}"
             for module in sorted({homes[name] for name in names})]  # fmt: skip
    listed = "".join(f'    "{name}",\n' for name in sorted(names))
    init = '"""Parts of modern transformers."""\n\n' + "\n".join(lines) + f"\n\n__all__ = [\n{listed}]\n"
    files = {INIT: _with_header(init.encode())}
    for module in sorted(_closure({homes[name] for name in names})):
        files[f"{module}.py"] = _with_header((_RUNTIME / f"{module}.py").read_bytes())
    files[LICENCE] = _licence()
    return files


def differences(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, what is the matter with it) for each file of a copy that is edited, stale or missing."""
    for name, wanted in package(exported(folder)).items():
        path = folder / name
        there = path.read_bytes() if path.is_file() else None
        if name == LICENCE:
            continue
        match = _HEADER.match(there or b"")
        if there is None:
            yield name, "is missing"
        elif match is None or hashlib.sha256(there[match.end() :]).hexdigest() != match[2].decode():
            yield name, "was edited"
        elif there[match.end() :] != wanted[_body(wanted) :]:
            yield name, f"is that of version {match[1].decode()}"


@contextlib.contextmanager
def put(files: Mapping[Path, bytes]) -> Iterator[None]:
    """Write copies, each as a whole; if the block fails, all is as it was.

    Raises:
        MigrateError: the directory cannot be written.
    """
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    try:
        for path, data in files.items():
            path.parent.mkdir(exist_ok=True)
            _replace(path, data)
        for leftover in {leftover for path in files for leftover in _leftovers(path.parent)}:
            leftover.unlink()
        yield
    except OSError as error:
        _put_back(before)
        cause = f"cannot be written ({error.strerror}); nothing was written"
        raise MigrateError("not-written", cause, "check the rights of its directory", path=error.filename) from error
    except BaseException:
        _put_back(before)
        raise


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.migrate")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _leftovers(folder: Path) -> Iterator[Path]:
    """Files that runs which were killed have not renamed."""
    return folder.glob(".*.migrate")


def _put_back(before: Mapping[Path, bytes | None]) -> None:
    with contextlib.suppress(OSError):  # what is left is a module that nobody imports
        for path, data in before.items():
            if data is None:
                path.unlink(missing_ok=True)
            else:
                _replace(path, data)
        for folder in {path.parent for path in before}:
            folder.rmdir()  # fails, as it should, if it was there before


def _body(data: bytes) -> int:
    match = _HEADER.match(data)
    assert match is not None
    return match.end()


def _with_header(body: bytes) -> bytes:
    from migrator import __version__

    head = f"# Copied from transformer-migrator {__version__} by `migrate --vendor`, under the licence beside it.\n"
    return f"{head}# SHA-256 of all below this line: {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _homes() -> Iterator[tuple[str, str]]:
    """(name, module that defines it) for all that the runtime offers."""
    for node in ast.parse((_RUNTIME / INIT).read_bytes()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            yield from ((alias.name, node.module) for alias in node.names)


def _closure(modules: set[str]) -> set[str]:
    """These modules and those that they import, and so on."""
    found: set[str] = set()
    while modules - found:
        module = min(modules - found)
        found.add(module)
        for node in ast.walk(ast.parse((_RUNTIME / f"{module}.py").read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                modules = modules | {node.module}
    return found


def _names_of(init: Path) -> list[str]:
    for node in ast.parse(init.read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _licence() -> bytes:
    from importlib.metadata import distribution

    text = distribution("transformer-migrator").read_text(f"licenses/{LICENCE}")
    return text.encode() if text is not None else (_RUNTIME.parent / LICENCE).read_bytes()
