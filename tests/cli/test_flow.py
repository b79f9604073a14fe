"""Reading, planning, proving and writing as one flow, with a stand-in for the engine and for the proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

import pytest

from migrator import prove
from migrator.cli import main
from migrator.errors import MigrateError
from migrator.prove.result import Check, Verification
from migrator.rewrite import engine
from migrator.rewrite.plan import Outcome, Plan

OLD = "import torch\nold = 'softmax'\n"
NEW = "import torch\nnew = 'softmax'\n"
PROVED = Verification("proved", (Check("outputs", "A", True, "", 0.0, 1e-10),))
FAILED = Verification("failed", (Check("outputs", "A", False, "differ by 3 %", 0.03, 1e-10),))
NOT_VERIFIED = Verification("not verified", notes=("A cannot be built: its argument `size` is unknown",))


class Tool:
    """`migrate` in this process: what it was asked, what it proved, what it printed."""

    def __init__(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self.capture = capfdbinary
        self.planned: list[dict[str, object]] = []
        self.proved: list[tuple[Path, float]] = []
        self.started = self.closed = 0
        self.verdicts: dict[str, Verification] = {}
        self.refused: set[str] = set()
        self.during_proof: Callable[[Path], None] = lambda path: None

    def plan(
        self,
        path: Path,
        source: str,
        *,
        index: object,
        phase: int,
        only: frozenset[str],
        skip: frozenset[str],
        choices: Mapping[str, str],
        findings_only: bool,
        left_out: frozenset[tuple[str, str]],
    ) -> Plan:
        self.planned.append({"phase": phase, "only": only, "skip": skip, "choices": dict(choices)})
        changed = "old =" in source
        statuses = (["migrated"] if changed else ["modern"]) + (["refused"] if path.name in self.refused else [])
        outcomes = tuple(Outcome("attention", 1, "exact", s, None, "seen", "A", 2, 2) for s in statuses)
        return Plan(path, source, source.replace("old =", "new ="), (), outcomes)

    def start(self) -> Tool:
        self.started += 1
        return self

    def __enter__(self) -> Tool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed += 1

    def prove(self, plan: Plan, *, timeout: float, progress: Callable[[str], None] | None) -> Verification:
        self.proved.append((plan.path, timeout))
        self.during_proof(plan.path)
        return self.verdicts.get(plan.path.name, PROVED)

    def __call__(self, *arguments: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = self.capture.readouterr()
        self.out, self.err = captured.out.decode(), captured.err.decode()
        assert isinstance(caught.value.code, int)
        return caught.value.code


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Tool:
    tool = Tool(capfdbinary)
    monkeypatch.setattr(engine, "plan", tool.plan)
    monkeypatch.setattr(prove, "start", tool.start)
    return tool


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return written(tmp_path / "model.py")


def written(path: Path, text: str = OLD) -> Path:
    path.write_text(text)
    return path


def others(folder: Path) -> Iterable[str]:
    return sorted(path.name for path in folder.iterdir())


def test_proved_then_written(tool: Tool, file: Path) -> None:
    tool.during_proof = lambda path: check(file.read_text() == OLD)
    assert tool(file, "--phase", 2) == 0
    assert file.read_text() == NEW
    assert tool.proved == [(file, 120.0)]
    assert tool.started == tool.closed == 1
    assert f"proved and written: {file}" in " ".join(tool.out.split())
    assert tool.err == ""
    assert others(file.parent) == ["model.py"]


def check(condition: bool) -> None:
    assert condition


def test_nothing_to_do(tool: Tool, file: Path) -> None:
    file.write_text(NEW)
    assert tool(file) == 0
    assert "unchanged" in tool.out
    assert tool.proved == []


@pytest.mark.parametrize(("verdict", "words"), [(FAILED, "proof-failed: A: outputs: differ by 3 %"),
                                                (NOT_VERIFIED, "not-verified: A cannot be built")])  # fmt: skip
def test_what_is_not_proved_is_not_written(tool: Tool, file: Path, verdict: Verification, words: str) -> None:
    tool.verdicts["model.py"] = verdict
    assert tool(file) == 4
    assert file.read_text() == OLD
    assert words in tool.err
    assert len(tool.err.splitlines()) == 1
    assert others(file.parent) == ["model.py"]


def test_the_remedies_for_a_model_that_nobody_can_build(tool: Tool, file: Path) -> None:
    tool.verdicts["model.py"] = NOT_VERIFIED
    tool(file)
    assert "[tool.migrate.probe]" in tool.err
    assert "--no-verify" in tool.err


def test_a_failed_candidate_is_kept_on_demand(tool: Tool, file: Path) -> None:
    tool.verdicts["model.py"] = FAILED
    assert tool(file, "--keep-failed") == 4
    assert file.read_text() == OLD
    assert (file.parent / "model.candidate.py").read_text() == NEW
    assert "model.candidate.py" in tool.out


def test_a_candidate_that_finds_no_room_leaves_the_last_one(
    tool: Tool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.verdicts["model.py"] = FAILED
    candidate = written(file.parent / "model.candidate.py", "the last one\n")
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    assert tool(file, "--keep-failed") == 2
    assert "model.candidate.py: not-written: " in tool.err and "proof-failed" in tool.err
    assert candidate.read_text() == "the last one\n"
    assert others(file.parent) == ["model.candidate.py", "model.py"]


def test_refused_and_migrated(tool: Tool, file: Path) -> None:
    tool.refused.add("model.py")
    assert tool(file) == 3
    assert file.read_text() == NEW


def test_only_refused(tool: Tool, file: Path) -> None:
    file.write_text(NEW)
    tool.refused.add("model.py")
    assert tool(file) == 3
    assert tool.proved == []


def test_check_writes_and_proves_nothing(tool: Tool, file: Path) -> None:
    assert tool(file, "--check") == 1
    assert file.read_text() == OLD
    assert tool.started == 0
    file.write_text(NEW)
    assert tool(file, "--check") == 0


def test_dry_run_prints_the_patch_alone(tool: Tool, file: Path) -> None:
    assert tool(file, "--dry-run") == 0
    assert tool.out == (
        "--- a/model.py\n+++ b/model.py\n@@ -1,2 +1,2 @@\n import torch\n-old = 'softmax'\n+new = 'softmax'\n"
    )
    assert "to migrate" in tool.err
    assert file.read_text() == OLD
    assert tool.started == 0


def test_no_verify_writes_and_says_so(tool: Tool, file: Path) -> None:
    assert tool(file, "--no-verify") == 0
    assert file.read_text() == NEW
    assert tool.started == 0
    assert "NOT VERIFIED" in tool.out


def test_crlf_and_encoding_stay(tool: Tool, file: Path) -> None:
    before = ("# coding: latin-1\n# é\n" + OLD).replace("\n", "\r\n").encode("latin-1")
    file.write_bytes(before)
    assert tool(file) == 0
    assert file.read_bytes() == before.replace(b"old =", b"new =")


def test_several_files_all_or_none(tool: Tool, file: Path) -> None:
    other = written(file.parent / "other.py")
    tool.verdicts["other.py"] = FAILED
    assert tool(file, other) == 4
    assert (file.read_text(), other.read_text()) == (OLD, OLD)
    assert "another file of this run was not proved" in " ".join(tool.out.split())
    del tool.verdicts["other.py"]
    assert tool(file, other) == 0
    assert (file.read_text(), other.read_text()) == (NEW, NEW)


def test_one_unreadable_file_stops_the_others(tool: Tool, file: Path) -> None:
    broken = written(file.parent / "broken.py", "s = '\0'\n")
    assert tool(file, broken) == 2
    assert file.read_text() == OLD
    assert "broken.py:1: nul-bytes" in tool.err
    assert tool.proved == []


def test_read_only_is_said_before_the_proof(tool: Tool, file: Path) -> None:
    file.chmod(0o444)
    assert tool(file) == 2
    assert "read-only" in tool.err
    assert tool.proved == []
    assert file.read_text() == OLD


def test_a_file_that_changes_during_its_proof_is_not_overwritten(tool: Tool, file: Path) -> None:
    tool.during_proof = lambda path: check(bool(file.write_text("mine = 1\n")))
    assert tool(file) == 2
    assert "changed-meanwhile" in tool.err
    assert file.read_text() == "mine = 1\n"


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def protected(path: Path) -> None:
    path.chmod(0o444)


def linked(path: Path) -> None:
    path.with_name("another.py").hardlink_to(path)


@pytest.mark.parametrize(
    ("change", "code"),
    [(gone, "not-written"), (a_folder, "not-a-file"), (protected, "read-only"), (linked, "hard-link")],
)
def test_whatever_becomes_of_a_file_during_its_proof_the_others_stay(
    tool: Tool, file: Path, change: Callable[[Path], None], code: str
) -> None:
    others = [written(file.parent / name) for name in ("a.py", "z.py")]
    tool.during_proof = lambda path: change(path) if path == file else None
    assert tool(file.parent) == 2
    assert tool.err.startswith(f"{file}: {code}: ") and tool.err.count("\n") == 1
    assert [path.read_text() for path in others] == [OLD, OLD]
    assert not file.is_file() or file.read_text() == OLD
    assert list(file.parent.glob(".*")) == []


def test_ctrl_c_during_the_proof(tool: Tool, file: Path) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    tool.during_proof = interrupt
    assert tool(file) == 130
    assert file.read_text() == OLD
    assert tool.closed == 1


def test_our_own_fault_is_one_line(tool: Tool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: object, **options: object) -> Plan:
        raise KeyError("two\nlines")

    monkeypatch.setattr(engine, "plan", fault)
    assert tool(file) == 2
    assert tool.err.startswith("internal error: KeyError:")
    assert len(tool.err.splitlines()) == 1
    with pytest.raises(KeyError):
        main([str(file), "--debug"])


def test_errors_of_other_rooms_get_the_files_name(tool: Tool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*arguments: object, **options: object) -> Plan:
        raise MigrateError("some-code", "the cause", "the remedy", line=7)

    monkeypatch.setattr(engine, "plan", fault)
    assert tool("model.py") == 2
    assert tool.err == "model.py:7: some-code: the cause; the remedy\n"


def test_json_is_the_whole_of_standard_output(tool: Tool, file: Path) -> None:
    assert tool(file, "--format", "json") == 0
    (entry,) = json.loads(tool.out)["files"]
    assert entry["written"]
    assert entry["verification"]["status"] == "proved"
    file.write_text(OLD)
    assert tool(file, "--format", "json", "--dry-run") == 0
    assert json.loads(tool.out)["files"][0]["diff"].startswith("--- a/model.py\n")
    assert tool("none.py", "--format", "json") == 2
    assert json.loads(tool.out)["errors"][0]["code"] == "no-such-file"


def test_options_reach_the_engine(tool: Tool, file: Path) -> None:
    assert tool(file, "--phase", "2", "--only", "attention,rotary", "--only", "swiglu", "--skip", "swiglu",
                "--positions", "alibi", "--feed-forward", "warm", "--timeout", "7.5") == 0  # fmt: skip
    assert tool.planned == [
        {
            "phase": 2,
            "only": frozenset({"attention", "rotary", "swiglu"}),
            "skip": frozenset({"swiglu"}),
            "choices": {"positions": "alibi", "feed_forward": "warm"},
        }
    ]
    assert tool.proved == [(file, 7.5)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'PATH...'"),
        (["model.py", "--only", "atention"], "no codemod is called 'atention'; did you mean 'attention'?"),
        (["model.py", "--skip", "zzz"], "no codemod is called 'zzz'; there are: "),
        (["model.py", "--only", "rotary"], "--only rotary needs --phase 2"),
        (["model.py", "--phase", "5"], "'5' is not one of"),
        (["model.py", "--check", "--dry-run"], "exclude each other"),
        (["model.py", "--timeout", "0"], "0"),
        (["model.py", "--positions", "none"], "'none' is not one of"),
        (["model.py", "--feed-forward", "cold"], "'cold' is not one of"),
        (["model.py", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage(tool: Tool, file: Path, arguments: list[str], words: str) -> None:
    assert tool(*arguments) == 2
    assert words in " ".join(tool.err.split())
    assert file.read_text() == OLD


def test_version_and_help(tool: Tool) -> None:
    assert tool("--version") == 0
    assert tool.out.startswith("migrate 0.")
    assert tool("--help") == 0
    assert "--keep-failed" in tool.out
    assert max(map(len, tool.out.splitlines())) <= 80
