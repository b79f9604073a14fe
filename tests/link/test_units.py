"""Which files are read as one, and what is said where they are not."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from migrator.cli import main
from migrator.codemod import Phase
from migrator.link.linking import linked
from migrator.link.siblings import Siblings
from migrator.link.telling import in_files
from migrator.read.source import read
from migrator.rewrite.plan import Extent
from tests.link.packages import PACKAGES, plans_of, units_of

PARTS = PACKAGES / "a_part_in_each_file" / "before"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> list[list[str]]:
    return [[member.path.name for member in unit.members] for unit in units_of([folder]) if unit.members]


def why_apart(folder: Path) -> list[str]:
    return [row.why for unit in units_of([folder]) for row in unit.apart]


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


ATTENTION = """
import torch.nn as nn
import torch.nn.functional as F

class Attention(nn.Module):
    def forward(self, x):
        return F.softmax(x @ x.transpose(-2, -1), dim=-1) @ x
"""
BLOCK = """
import torch.nn as nn
from attention import Attention

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x):
        return x + self.attention(x)
"""


def test_files_are_read_after_those_that_they_import_from(tmp_path: Path) -> None:
    assert names(write(tmp_path, block=BLOCK, attention=ATTENTION)) == [["attention.py", "block.py"]]


def test_a_name_that_is_imported_and_never_used_joins_nothing(tmp_path: Path) -> None:
    unused = BLOCK.replace("self.attention = Attention()", "pass")
    assert names(write(tmp_path, block=unused, attention=ATTENTION)) == []


def test_a_script_that_defines_no_module_is_read_by_itself(tmp_path: Path) -> None:
    script = "from attention import Attention\n\ndef main():\n    print(Attention())\n"
    assert names(write(tmp_path, script=script, attention=ATTENTION)) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"block": BLOCK + "\nF = 1\n"}, "`F` is one thing in block.py and another in attention.py"),
        ({"block": BLOCK.replace("import Attention", "import Attention as Attention_")
          .replace("= Attention()", "= Attention_()")}, "it calls it `Attention_`"),
        ({"block": BLOCK.replace("from attention import Attention",
                                 "try:\n    from attention import Attention\nexcept ImportError:\n    pass")},
         "block.py imports from its siblings inside of another statement"),
        ({"block": BLOCK.replace("from attention", "import math; from attention")},
         "block.py imports from its siblings inside of another statement"),
        ({"attention": ATTENTION + "\nfrom block import Block\n\nclass Two(Block):\n    pass\n"},
         "the files import one another in a circle"),
        ({"attention": ATTENTION + "\n" * 12_000}, "2 files of 12,018 lines would have to be read as one"),
    ],
)  # fmt: skip
def test_files_stay_apart_for_a_reason(tmp_path: Path, changed: dict[str, str], why: str) -> None:
    write(tmp_path, **{"block": BLOCK, "attention": ATTENTION, **changed})
    assert names(tmp_path) == []
    assert why in why_apart(tmp_path)


def test_a_constant_of_both_files_is_no_conflict_if_it_says_the_same(tmp_path: Path) -> None:
    both = "\nlog = print\n__all__ = []\n"
    assert names(write(tmp_path, block=BLOCK + both, attention=ATTENTION + both + "__all__ = ['Attention']\n"))


def test_a_helper_of_both_files_is_no_conflict_if_it_says_the_same(tmp_path: Path) -> None:
    both = "\ndef exists(value):\n    return value is not None\n"
    assert names(write(tmp_path, block=BLOCK + both, attention=ATTENTION + both))


def test_every_line_of_the_text_can_be_traced_to_its_file() -> None:
    (unit,) = [unit for unit in units_of([PARTS]) if unit.members]
    text = linked(unit.siblings, unit.members)
    for number, (member, extent) in enumerate(zip(text.members, text.extents, strict=True)):
        for definition in text.index.definitions:
            if definition.member == number and isinstance(definition.tree, ast.ClassDef):
                own = member.index.classes[definition.name].definition
                assert extent.line(definition.first_line) == own.first_line
                assert definition.text == own.text
    ast.parse(text.index.source)


def test_what_is_imported_from_elsewhere_stays(tmp_path: Path) -> None:
    write(tmp_path / "net", __init__="", sizes="WIDTH = 8\n", attention=ATTENTION)
    write(tmp_path / "net", block=BLOCK.replace("from attention", "from .sizes import WIDTH\nfrom .attention"))
    (unit,) = [unit for unit in units_of([tmp_path]) if unit.members]
    source = linked(Siblings(unit.given), unit.members).index.source
    assert "from net.sizes import WIDTH" in source
    assert "import Attention" not in source


def test_messages_speak_of_the_lines_of_the_files() -> None:
    extents = (Extent(Path("a.py"), 1, 10), Extent(Path("b.py"), 11, 10))
    assert in_files("line 3 and line 12", extents, Path("a.py")) == "line 3 and line 2 of b.py"


def test_a_sibling_that_is_no_python_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, block=BLOCK, attention="class Attention(:\n")
    assert [unit.members for unit in units_of([tmp_path / "block.py"])] == [()]


# --- files that were not given ---------------------------------------------------------------------------------------


def test_a_change_in_a_file_that_was_not_given_is_refused() -> None:
    """The positions can only leave the model if they arrive in the attention, which is fused in another file."""
    plans = plans_of([PARTS / "net" / "layers" / "attention.py"], Phase.DROP_IN)
    assert [file.path.name for file in plans] == ["attention.py"]
    found = {(row.codemod, row.code) for file in plans_of([PARTS / "net" / "model.py"]) for row in file.outcomes}
    assert ("rotary", "not-fused") in found


def test_what_would_change_with_it_is_named(tmp_path: Path) -> None:
    for file in plans_of([PARTS], Phase.DROP_IN):
        path = tmp_path / file.path.relative_to(PARTS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    for file in PARTS.rglob("*.py"):
        if not (tmp_path / file.relative_to(PARTS)).exists():
            (tmp_path / file.relative_to(PARTS)).write_text(file.read_text("utf-8"), encoding="utf-8")
    (model,) = plans_of([tmp_path / "net" / "model.py"])
    (row,) = [row for row in model.outcomes if row.codemod == "rotary"]
    assert (row.status, row.code, row.line) == ("refused", "elsewhere", 14)
    assert (
        row.message
        == "`SelfAttention` (line 10 of attention.py) would change with it, in a file that is not changed together with this one"
    )
    assert row.remedy == "give both files, or the folder that they stand in"


def test_who_else_uses_what_changes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "net"
    write(folder, __init__="from .block import Block\n", **{
        name: (PARTS / "net" / f"{name}.py").read_text("utf-8") for name in ("block", "model", "positions")
    })  # fmt: skip
    write(folder / "layers", **{
        file.stem: file.read_text("utf-8") for file in (PARTS / "net" / "layers").glob("*.py")
    })  # fmt: skip
    write(tmp_path, train="from net.model import Decoder\nfrom net import Block\n\nmodel = Decoder()\n")
    assert exit_code(str(folder), "--phase", "2", "--dry-run", "--format", "json") == 0
    files = {Path(file["path"]).name: file for file in json.loads(capsys.readouterr().out)["files"]}
    (of_model,), (of_block,) = files["model.py"]["warnings"], files["block.py"]["warnings"]
    assert of_model.endswith("train.py:1 imports `Decoder`, which changes, and stays as it is")
    assert of_block.endswith("train.py:2 imports `Block`, which changes, and stays as it is")
    assert files["attention.py"]["warnings"] == []


def test_a_wrong_proof_of_one_file_leaves_all_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from migrator import prove
    from migrator.prove.result import Verification

    write(tmp_path, block=BLOCK, attention=ATTENTION)
    monkeypatch.setattr(prove.Prover, "prove", lambda *args, **options: Verification("failed"))
    assert exit_code(str(tmp_path), "--phase", "1") == 4
    assert read(tmp_path / "attention.py").text == ATTENTION
