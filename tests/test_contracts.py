"""The rules of the house: who imports whom, and what every codemod has to bring along."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.codemod import Codemod, Phase, Promise

ROOT = Path(__file__).parents[1]
PACKAGES = ("migrator", "codemods", "runtime")
ROOMS = ("read", "recognise", "rewrite", "link", "prove", "write", "checkpoint", "validate", "report")
TORCH = (
    "prove",
    "checkpoint",
    "validate",
)  # whose modules are loaded in child processes, but for the face of each room
COMMAND_LINE = ("run", "commands")  # what sees all rooms
SHARED = {"errors", "codemod", "config"}  # what every room may use
CODEMODS = sorted(path.stem for path in (ROOT / "codemods").glob("*.py") if path.stem != "__init__")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """The full names of everything that a file imports, at any level: `a.b` for `from a import b`."""
    whole = tree(path)
    hidden = set() if typing_too else set(type_checking_only(whole))
    for node in ast.walk(whole):
        if isinstance(node, ast.Import) and node not in hidden:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node not in hidden:
            module = node.module if not node.level else vendorable(path, node)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def vendorable(path: Path, node: ast.ImportFrom) -> str:
    """Only the runtime, which may be copied beside a user's file, names its own modules relatively."""
    assert path.relative_to(ROOT).parts[0] == "runtime" and node.level == 1, f"{path}:{node.lineno}: relative import"
    return f"runtime.{node.module}" if node.module else "runtime"


def type_checking_only(module: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(module):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (inner for child in node.body for inner in ast.walk(child))


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def room(name: str) -> str:
    """`read` for `migrator.read.source`."""
    return name.split(".")[1] if name.startswith("migrator.") else ""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- who imports whom ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [p for name in ROOMS for p in sorted((ROOT / "migrator" / name).rglob("*.py"))], ids=relative
)
def test_a_room_imports_only_the_rooms_before_it(path: Path) -> None:
    here = path.relative_to(ROOT).parts[1]
    allowed = SHARED | {"__version__"} | set(ROOMS[: ROOMS.index(here) + 1])
    assert {room(name) for name in imports(path) if name.startswith("migrator.")} <= allowed


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_all_rooms_share_imports_no_room(name: str) -> None:
    path = ROOT / "migrator" / f"{name}.py"
    if path.exists():
        used = set(imports(path, typing_too=name != "codemod"))
        # Called as a LibCST command, a codemod hands itself to the engine; that import is made when it happens.
        used -= {"migrator.rewrite.command.transformed"} if name == "codemod" else set()
        assert not {room(target) for target in used} & set(ROOMS)


def test_only_the_command_line_sees_more_than_a_room() -> None:
    for path in (ROOT / "migrator").glob("*.py"):
        if path.stem not in {"cli", "__main__", "__init__", *SHARED}:
            pytest.fail(f"{relative(path)} belongs into a room")
    for path in (ROOT / "migrator").glob("*/"):
        assert path.name in {*ROOMS, *COMMAND_LINE, "__pycache__"}, f"{relative(path)} has no place in the order"
    for path in SOURCES:
        assert not any(name.startswith("migrator.cli") for name in imports(path)) or path.stem == "__main__", path


def test_nobody_imports_a_subcommand() -> None:
    for path in SOURCES:
        assert not any(name.startswith("migrator.commands") for name in imports(path)), path


@pytest.mark.parametrize("path", [path for path in SOURCES if "runtime" not in path.parts], ids=relative)
def test_torch_is_imported_by_the_proof_and_for_checkpoints_alone(path: Path) -> None:
    if path.relative_to(ROOT).parts[1] not in TORCH:
        assert not roots(path) & {"torch", "numpy", "safetensors", "runtime"}


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").rglob("*.py")), ids=relative)
def test_the_runtime_needs_torch_and_nothing_else(path: Path) -> None:
    assert roots(path) - {"torch", "runtime"} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", [path for path in SOURCES if "codemods" not in path.parts], ids=relative)
def test_the_engine_knows_no_codemod_by_name(path: Path) -> None:
    assert "codemods" not in roots(path)


@pytest.mark.parametrize("name", CODEMODS)
def test_a_codemod_imports_its_vocabulary_and_no_other_codemod(name: str) -> None:
    for target in imports(ROOT / "codemods" / f"{name}.py"):
        root = target.partition(".")[0]
        fine = root == "libcst" or root in sys.stdlib_module_names
        assert fine or target.startswith(("migrator.codemod.", "migrator.recognise.")), target


def test_nothing_else_loads_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.relative_to(ROOT).parts[1] not in TORCH and "runtime" not in path.parts and path.stem != "__main__"
    ]
    modules += ["migrator.prove", "migrator.prove.result"]
    modules += ["migrator.checkpoint", "migrator.checkpoint.asking", "migrator.checkpoint.request"]
    modules += ["migrator.validate", "migrator.validate.result"]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "False\n"


# --- what a codemod brings along -----------------------------------------------------------------------------------


def codemod(name: str) -> type[Codemod]:
    """The one codemod of a file."""
    module = importlib.import_module(f"codemods.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Codemod) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"codemods/{name}.py defines {len(found)} codemods"
    return found[0]


def test_there_are_codemods() -> None:
    assert len(CODEMODS) >= 6


@pytest.mark.parametrize("name", CODEMODS)
def test_metadata_is_complete(name: str) -> None:
    this = codemod(name)
    assert isinstance(this.phase, Phase)
    assert isinstance(this.promise, Promise)
    assert this.rationale.endswith(".") and "\n" not in this.rationale and len(this.rationale.split()) > 4
    assert len(this.reference) > 10 and "\n" not in this.reference
    assert this.__doc__
    assert this.formula
    assert (ROOT / "codemods" / "examples" / f"{name}.txt").exists()
    for code, meaning in this.refusals.items():
        assert code == code.lower() and " " not in code
        assert len(meaning.split()) > 2


@pytest.mark.parametrize("name", CODEMODS)
def test_what_runs_before_a_codemod_exists_in_its_phase(name: str) -> None:
    for earlier in codemod(name).after:
        assert earlier in CODEMODS
        assert codemod(earlier).phase == codemod(name).phase


@pytest.mark.parametrize("name", CODEMODS)
def test_every_refusal_has_a_fixture(name: str) -> None:
    reports = [path.read_text(encoding="utf-8") for path in (ROOT / "fixtures" / name).glob("*/report.txt")]
    missing = [code for code in codemod(name).refusals if not any(code in report for report in reports)]
    assert not missing


@pytest.mark.parametrize("name", CODEMODS)
def test_a_codemod_has_a_case_that_is_rewritten_unless_it_only_looks(name: str) -> None:
    cases = [path.parent for path in (ROOT / "fixtures" / name).glob("*/before.py")]
    assert cases
    rewrites = "def rewrite" in (ROOT / "codemods" / f"{name}.py").read_text(encoding="utf-8")
    assert any((case / "after.py").exists() for case in cases) or not rewrites


def test_fixtures_are_complete() -> None:
    for case in {path.parent for name in CODEMODS for path in (ROOT / "fixtures" / name).glob("*/*")}:
        assert (case / "before.py").exists() and (case / "report.txt").exists(), case


def test_at_least_as_many_cases_stay_as_are_rewritten() -> None:
    cases = [path.parent for name in CODEMODS for path in (ROOT / "fixtures" / name).glob("*/before.py")]
    rewritten = sum((case / "after.py").exists() for case in cases)
    assert len(cases) - rewritten >= rewritten


# --- the runtime, as codemods spell it -----------------------------------------------------------------------------


def runtime_all() -> set[str]:
    for node in tree(ROOT / "runtime" / "__init__.py").body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return set(ast.literal_eval(node.value))
    raise AssertionError("runtime/__init__.py has no __all__")


def emitted(path: Path) -> Iterator[str]:
    """The runtime names in `runtime_name(index, "x")` and `Import("runtime", "x")`."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        function, first, second = ast.unparse(node.func), ast.unparse(node.args[0]), node.args[1]
        if function == "runtime_name" or (function == "Import" and first == "'runtime'"):
            assert isinstance(second, ast.Constant), f"{path}:{node.lineno}: a runtime name that is not spelt out"
            yield second.value


EMITTING = [path for path in SOURCES if path.parent.name in ("codemods", "recognise") and path.stem != "spelling"]


@pytest.mark.parametrize("path", EMITTING, ids=relative)
def test_emitted_runtime_names_exist(path: Path) -> None:
    assert set(emitted(path)) <= runtime_all()


def test_fixtures_import_runtime_names_that_exist() -> None:
    for after in (ROOT / "fixtures").rglob("after.py"):
        names = {name.partition(".")[2] for name in imports(after) if name.startswith("runtime.")}
        assert names <= runtime_all(), after


# --- size and tidiness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < 60, f"line {node.lineno}: {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_loose_ends(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("TO" + "DO", "FIX" + "ME", "XXX") if word in text]
