"""The rules that the package keeps as a whole."""

import ast
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import runtime

FOLDER = Path(runtime.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
PUBLIC = [(name, getattr(runtime, name)) for name in runtime.__all__]
# Which of the package's files each of them may import: leaves -> attention, feed_forward -> block -> encoder.
IMPORTS = {
    "table": set(),
    "cache": set(),
    "checkpointing": set(),
    "sinusoidal": {"cache", "table"},
    "rotary": {"cache", "table"},
    "alibi": {"cache"},
    "attention": {"cache"},
    "inspection": {"attention"},
    "feed_forward": set(),
    "projection": set(),
    "init": set(),
    "block": {"attention", "cache", "feed_forward", "rotary"},
    "encoder": {"block", "cache", "checkpointing"},
}


def imported(path: Path) -> tuple[set[str], set[str]]:
    """Top-level names of other packages, and files of this one."""
    outside, inside = set(), set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            (inside if node.level else outside).add((node.module or "").split(".")[0])
    return outside, inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_are_torch_the_standard_library_and_earlier_files(path: Path) -> None:
    outside, inside = imported(path)
    assert outside <= {"torch", *sys.stdlib_module_names}
    assert inside <= (IMPORTS.keys() if path.stem == "__init__" else IMPORTS[path.stem])


def test_all_is_sorted_and_complete() -> None:
    assert sorted(runtime.__all__) == runtime.__all__
    inherited = {"PositionTable", "blocks_of"}  # for other modules, no part of the interface
    defined = set()
    for path in FILES:
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                defined.add(node.name)
    assert defined - inherited == set(runtime.__all__)
    assert runtime.__version__.count(".") == 2


@pytest.mark.parametrize(("name", "public"), PUBLIC)
def test_docstrings(name: str, public: object) -> None:
    text = inspect.getdoc(public) or ""
    sections = ["Reference:"]
    if name not in ("swiglu_width", "magneto_gain"):
        sections.append("Shape:")
    if inspect.isclass(public):
        sections += ["Args:", "State dict:", "Raises:"]
    missing = [section for section in sections if section not in text]
    assert len(text) > 100 and not missing, f"{name} lacks {missing}"


@pytest.mark.parametrize(("name", "public"), PUBLIC)
def test_each_argument_is_documented(name: str, public: object) -> None:
    text = inspect.getdoc(public) or ""
    for argument in inspect.signature(public).parameters:
        assert f"{argument}:" in text or f"{argument}, " in text or f", {argument}" in text, f"{name}: {argument}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize(
    "module",
    [runtime.SinusoidalPositionalEncoding(), runtime.RotaryEmbedding(4), runtime.Alibi(2)],
    ids=lambda module: type(module).__name__,
)
def test_position_modules_leave_no_trace_in_checkpoints(module: nn.Module) -> None:
    owner = nn.ModuleDict({"positions": module, "head": nn.Linear(4, 4)})
    x = torch.zeros(1, 2, 3, 4)
    module(x[0]) if isinstance(module, runtime.SinusoidalPositionalEncoding) else module(x, x)
    assert list(owner.state_dict()) == ["head.weight", "head.bias"]
    owner.load_state_dict({"head.weight": torch.zeros(4, 4), "head.bias": torch.zeros(4)}, strict=True)
