"""Runs the user's text in a box, as a module that is never `__main__`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import linecache
import re
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

from migrator.errors import printable
from migrator.read.packages import package_of

_SIMPLE_CALLS = frozenset((
    "len", "range", "ord", "chr", "list", "dict", "set", "tuple", "frozenset", "sorted", "enumerate", "zip", "int",
    "float", "str", "bool", "max", "min", "sum", "abs", "round", "map", "field", "namedtuple", "compile", "getLogger",
))  # fmt: skip


def load(text: str, path: Path, *, definitions_only: bool) -> tuple[types.ModuleType, list[str]]:
    """Execute `text` as the module that `path` would be.

    Args:
        definitions_only: leave out what a script does at import: run imports, classes, functions and simple constants.

    Returns:
        The module, and one note for each statement that had to be left out.
    """
    package, root = package_of(path)
    sys.argv = [str(path)]
    sys.path.insert(0, str(root))
    sys.path.append(str(root.parent))  # scripts in a folder that is imported from the one above it
    # Where inspect and tracebacks look, so that both see this text and not that of the file.
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    tree = ast.parse(text)
    ways = _WAYS if package and _imports_from(text, package) else _WAYS[:1]
    if definitions_only:
        return _definitions(tree, path, package, ways)
    return _whole(tree, path, package, ways), []


# How the packages around a file are there while it runs: as Python finds them when something is imported from them; as
# folders alone, without what their `__init__.py` does; and run before, as they are when the file itself is imported.
_WAYS = ("as imported", "as folders", "run before")


def _whole(tree: ast.Module, path: Path, package: str, ways: Sequence[str]) -> types.ModuleType:
    first: Exception | None = None
    for way in ways:
        before = set(sys.modules)
        module = _module(path, package, way)
        try:
            exec(compile(tree, str(path), "exec"), module.__dict__)
        except Exception as error:
            first = first or error
            _forget(before)
        else:
            return module
    assert first is not None
    raise first


def _definitions(tree: ast.Module, path: Path, package: str, ways: Sequence[str]) -> tuple[types.ModuleType, list[str]]:
    """The definitions alone, in the way in which the fewest have to be left out."""
    results: list[tuple[types.ModuleType, list[str], str]] = []
    for way in ways:
        before = set(sys.modules)
        module = _module(path, package, way)
        notes = list(_run_definitions(tree, str(path), module))
        if not notes:
            return module, notes
        results.append((module, notes, way))
        _forget(before)
    _, notes, best = min(results, key=lambda found: len(found[1]))
    if best == ways[-1]:
        return results[-1][0], notes
    module = _module(path, package, best)
    return module, list(_run_definitions(tree, str(path), module))


def _module(path: Path, package: str, way: str) -> types.ModuleType:
    """The module that a text is going to be."""
    name = f"{package}.{path.stem}" if package else path.stem
    if way == "as folders":
        _make_folders(package, path)
    elif way == "run before":
        with contextlib.suppress(Exception):
            importlib.import_module(package)
    if name in sys.modules:
        name = f"_migrate_{path.stem}"
    module = types.ModuleType(name)
    module.__file__, module.__package__ = str(path), package
    sys.modules[name] = module
    return module


def _make_folders(package: str, path: Path) -> None:
    """The packages around a file, empty, but so that what lies in them can be imported."""
    names = package.split(".")
    for depth, folder in zip(range(len(names), 0, -1), path.parents, strict=False):
        bare = types.ModuleType(".".join(names[:depth]))
        bare.__path__ = [str(folder)]
        sys.modules[bare.__name__] = bare


def _forget(before: set[str]) -> None:
    """Modules that came with a run that failed."""
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _imports_from(text: str, package: str) -> bool:
    """Whether the text imports anything of its own package."""
    top = re.escape(package.partition(".")[0])
    return re.search(rf"^\s*(from\s+(\.|{top}\b)|import\s+{top}\b)", text, re.MULTILINE) is not None


def _run_definitions(tree: ast.Module, path: str, module: types.ModuleType) -> Iterator[str]:
    for statement in tree.body:
        if not _is_definition(statement):
            continue
        try:
            part = ast.Module([statement], [])
            exec(compile(part, path, "exec"), module.__dict__)
        except Exception as error:
            yield f"line {statement.lineno} was left out: {type(error).__name__}: {str(error)[:120]}"


def _is_definition(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        return statement.value is not None and _is_simple(statement.value)
    if isinstance(statement, ast.Try):
        return all(_is_definition(item) for item in statement.body)
    return isinstance(statement, ast.If) and all(_is_definition(item) for item in [*statement.body, *statement.orelse])


def _is_simple(value: ast.expr) -> bool:
    """Whether an expression only computes: of calls, those to plain builtins, and to classes by their capital."""
    for node in ast.walk(value):
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in _SIMPLE_CALLS and not (name[:1].isupper() and "Model" not in name):
                return False
    return True


def location(error: BaseException, path: Path) -> str:
    """` (line 12)`: the last line of the user's text that an error went through."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"


def described(error: BaseException, path: Path | None = None) -> str:
    """One line for an exception of user code."""
    text = printable(" ".join(str(error).split()))
    where = location(error, path) if path is not None else ""
    return f"{type(error).__name__}: {text[:240]}{where}" if text else f"{type(error).__name__}{where}"
