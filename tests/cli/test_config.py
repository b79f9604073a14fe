"""`[tool.migrate]` in pyproject.toml: what it says is done, and what it says wrongly is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrator.config import Tolerances, nearest
from migrator.errors import MigrateError

ROOT = Path(__file__).parents[2]
LEGACY = (ROOT / "fixtures/latent_drift_trajectory.py").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/model.py").write_text(LEGACY)
    return tmp_path


def configure(folder: Path, table: str) -> None:
    (folder / "pyproject.toml").write_text(f'[project]\nname = "x"\n\n[tool.migrate]\n{table}')


def migrate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrator", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def checked(*arguments: object, cwd: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(migrate(*arguments, "--check", "--format", "json", cwd=cwd).stdout)
    return document


def codemods(document: dict[str, Any]) -> set[str]:
    return {finding["codemod"] for file in document["files"] for finding in file["findings"]}


def test_without_a_table_the_defaults_hold(project: Path) -> None:
    assert checked("src", cwd=project)["phase"] == 1
    (project / "pyproject.toml").write_text("[tool.black]\n")
    assert checked("src", cwd=project)["phase"] == 1


def test_phase_and_codemods_come_from_the_nearest_file(project: Path) -> None:
    configure(project, 'phase = 2\nskip = ["rotary"]\n[tool.migrate.codemods]\nswiglu = false\nattention = true\n')
    document = checked("src/model.py", cwd=project)
    assert document["phase"] == 2
    assert {"attention", "depth_init"} <= codemods(document)
    assert not {"rotary", "swiglu"} & codemods(document)
    configure(project / "src", "phase = 1\n")
    assert checked("src/model.py", cwd=project)["phase"] == 1
    assert checked("src", cwd=project)["phase"] == 1


def test_the_command_line_goes_before_the_configuration(project: Path) -> None:
    configure(project, 'phase = 2\nonly = ["rotary"]\n[tool.migrate.codemods]\nswiglu = false\n')
    assert codemods(checked("src", cwd=project)) == {"rotary"}
    assert codemods(checked("src", "--only", "swiglu", cwd=project)) == {"swiglu"}
    assert checked("src", "--phase", "1", "--only", "attention", cwd=project)["phase"] == 1


def test_positions(project: Path) -> None:
    configure(project, 'phase = 2\npositions = "alibi"\n')
    assert "alibi" in codemods(checked("src", cwd=project))
    assert "alibi" not in codemods(checked("src", "--positions", "rotary", cwd=project))


def test_paths_stand_in_for_those_that_are_not_given(project: Path) -> None:
    configure(project, 'paths = ["src"]\n')
    assert [file["path"] for file in checked(cwd=project)["files"]] == ["src/model.py"]
    (project / "other").mkdir()
    assert [file["path"] for file in checked(cwd=project / "other")["files"]] == ["../src/model.py"]
    (project / "pyproject.toml").unlink()
    assert "Missing argument 'PATH...'" in migrate(cwd=project).stderr


def test_exclude_holds_for_directories_and_not_for_files_that_are_named(project: Path) -> None:
    (project / "src/vendor").mkdir()
    (project / "src/vendor/a.py").write_text("x = 1\n")
    configure(project, 'exclude = ["vendor/"]\n')
    assert [file["path"] for file in checked("src", cwd=project)["files"]] == ["src/model.py"]
    assert [file["path"] for file in checked("src/vendor/a.py", cwd=project)["files"]] == ["src/vendor/a.py"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("fase = 2", "[tool.migrate] has no key 'fase'; did you mean 'phase'?"),
        ("zzz = 2", "has no key 'zzz'; there are: phase, paths,"),
        ('phase = "2"', "phase in [tool.migrate] is '2'; make it a number"),
        ("phase = true", "phase in [tool.migrate] is True"),
        ('paths = "src"', "make it a list of files and directories"),
        ("timeout = -1", "make it a number of seconds"),
        ("codemods = {swiglu = 1}", "make it a table of switches"),
        ("probe = {Model = 1}", "make it a table from class names to expressions"),
        ("tolerances = {float46 = 1e-4}", "[tool.migrate.tolerances] has no key 'float46'; did you mean 'float64'?"),
        ("tolerances = {zzz = 1e-4}", "has no key 'zzz'; there are: float64, float32, invariants, initial-scale,"),
        ("tolerances = {float64 = 0}", "make it a table of numbers above 0, as in float32 = 1e-4"),
        ("tolerances = {float64 = inf}", "make it a table of numbers above 0"),
        ("tolerances = 1e-4", "make it a table of numbers above 0"),
        ("phase = [", "config: "),
        ("phase = 7", "'7' is not one of"),
        ('skip = ["swigl"]', "no codemod is called 'swigl'; did you mean 'swiglu'?"),
        ("codemods = {swigl = false}", "no codemod is called 'swigl'; did you mean 'swiglu'?"),
        ("codemods = {swigl = true}", "no codemod is called 'swigl'; did you mean 'swiglu'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(project: Path, table: str, words: str) -> None:
    configure(project, table)
    run = migrate("src", "--check", cwd=project)
    assert run.returncode == 2
    assert words in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


def test_tolerances_reach_the_proof_and_the_report(project: Path) -> None:
    case = ROOT / "fixtures/attention/single_head_tril_buffer/before.py"
    (project / "src/model.py").write_text(case.read_text(encoding="utf-8"))
    configure(project, "[tool.migrate.tolerances]\nfloat32 = 1e-3\ngradient-ratio = 2\n")
    assert nearest(project).tolerances == Tolerances(float32=1e-3, gradient_ratio=2.0)
    run = migrate("src", cwd=project)
    assert run.returncode == 0, run.stderr
    words = " ".join(run.stdout.split())
    assert "LOOSER than usual: pyproject.toml has float32 = 0.001, and the usual is 1e-05" in words
    assert "stricter than usual: pyproject.toml has gradient-ratio = 2, and the usual is 10" in words


def test_a_table_of_another_tool_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('description = "tool.migrate"\n[tool.other]\nfase = 1\n')
    assert nearest(tmp_path).table == {}


def test_a_file_that_is_no_toml_is_not_our_business_unless_it_has_our_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("not toml")
    assert nearest(tmp_path).table == {}
    (tmp_path / "pyproject.toml").write_text("[tool.migrate\n")
    with pytest.raises(MigrateError, match="config"):
        nearest(tmp_path)


def test_the_bundled_config_is_only_parsed_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import torch\n")
    code = (
        "import sys\nfrom migrator.cli import main\ntry: main(['plain.py', '--check'])\nexcept SystemExit: pass\n"
        "print('LOADED', {'tomllib', 'pathspec', 'platformdirs', 'difflib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.endswith("LOADED set()\n")
