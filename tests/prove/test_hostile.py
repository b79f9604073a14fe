"""Code that ends, hangs, lies or eats: one clear message, and never a proof. Nothing of it is left running."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator import prove
from migrator.codemod import Claim, Promise
from migrator.prove import Prover, Verification
from migrator.rewrite.plan import Plan, Stage
from tests.prove.texts import EXACT, LEGACY, STAGES, changed, one_stage

PATH = Path("small_model.py")
FORWARD = '        v = torch.einsum("ntc,hdc->nhtd", x, self.w_v)\n'


def in_forward(text: str, code: str) -> str:
    """`text` with `code` in the forward of its attention."""
    lines = "".join(f"        {line}\n" for line in code.splitlines())
    return changed(text, (FORWARD, FORWARD + lines))


def both_with(code: str) -> Plan:
    before, after = in_forward(LEGACY, code), in_forward(EXACT, code)
    stage = STAGES["exact"]
    return Plan(PATH, before, after, (Stage(stage.codemods, stage.promise, before, after, stage.claims),))


def after_with(code: str) -> Plan:
    return one_stage(STAGES["exact"], PATH, in_forward(EXACT, code))


def why(verification: Verification) -> str:
    """All that is said of the failure."""
    return " | ".join([*(check.message for check in verification.checks if not check.passed), *verification.notes])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos._exit(0)", "it exited with status 0"),
        ("import os\nos.abort()", "SIGABRT"),
        ("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("q = q * float('nan')", "no finite number"),
        ("torch.empty(1 << 45)", "RuntimeError"),
        ("import os\nos.closerange(0, 100)", "did not answer"),
        ("def down(n): return down(n + 1)\ndown(0)", "RecursionError"),
    ],
)
def test_a_model_that_breaks_is_never_proved(prover: Prover, code: str, said: str) -> None:
    legacy = prover.prove(both_with(code), timeout=40)
    assert legacy.status == "not verified" and legacy.notes[0]
    if code.startswith("raise RuntimeError"):
        assert "runs with; most often it says RuntimeError: no such luck" in legacy.notes[0]
    if "nan" not in code:
        migrated = prover.prove(after_with(code), timeout=40)
        assert migrated.status == "failed" and said in why(migrated)
    else:
        assert said in why(legacy)


@pytest.mark.parametrize("plan", [both_with("while True: pass"), after_with("while True: pass")], ids=["both", "after"])
def test_a_model_that_never_ends_is_stopped_in_time(prover: Prover, plan: Plan) -> None:
    began = time.monotonic()
    verification = prover.prove(plan, timeout=5)
    assert verification.status == "not verified"
    assert "5 s" in verification.notes[0] or "in time" in verification.notes[0]
    assert time.monotonic() - began < 15


def test_lies_do_not_help(prover: Prover) -> None:
    """A wrong model that prints PASS and has every comparison of torch say yes."""
    lies = (
        "print('PASS: proved')\n"
        "torch.allclose = torch.equal = lambda *a, **k: True\n"
        "torch.Tensor.__sub__ = lambda a, b: a * 0\n"
        "q = q * 1.01"
    )
    verification = prover.prove(after_with(lies), timeout=40)
    assert verification.status == "failed"
    assert not any("PASS" in check.message for check in verification.checks)


def test_noise_alone_does_no_harm(prover: Prover) -> None:
    verification = prover.prove(both_with("print('x' * 100_000)"), timeout=60)
    assert verification.status == "proved", why(verification)


def test_children_of_a_model_do_not_outlive_the_proof() -> None:
    mark = f"600.{os.getpid()}"
    code = f"import subprocess\nchild = subprocess.Popen(['sleep', '{mark}'], start_new_session=True)"
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.extend(sleeping(mark))

    watcher = threading.Thread(target=look)
    watcher.start()
    with prove.start() as own:
        own.prove(after_with(code), timeout=40)
    over.set()
    watcher.join()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and sleeping(mark):
        time.sleep(0.05)
    assert seen and not sleeping(mark)


def sleeping(mark: str) -> list[str]:
    """The processes that were started as `sleep MARK`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes() == f"sleep\0{mark}\0".encode():
                found.append(entry.parent.name)
    return found


def test_a_forked_copy_does_not_answer_in_the_models_place(prover: Prover) -> None:
    verification = prover.prove(after_with("import os\nos.fork()"), timeout=40)
    assert verification.status == "proved", why(verification)  # the copy ends; the original gives the right numbers


@pytest.fixture
def scripts() -> Iterator[dict[str, str]]:
    yield {
        "raises": "raise RuntimeError('data set missing')\n",
        "trains": "for step in range(10 ** 12):\n    vocab_size += step\n",
        "exits": "import sys\nsys.exit(3)\n",
    }


@pytest.mark.parametrize("kind", ["raises", "exits"])
def test_a_script_that_fails_at_import_is_proved_by_its_definitions(
    prover: Prover, scripts: dict[str, str], kind: str
) -> None:
    before, after = (text + "\n\n" + scripts[kind] for text in (LEGACY, EXACT))
    stage = STAGES["exact"]
    verification = prover.prove(
        Plan(PATH, before, after, (Stage(stage.codemods, stage.promise, before, after, stage.claims),)), timeout=60
    )
    assert verification.status == "proved", why(verification)
    assert any("only its definitions were run" in note for note in verification.notes)


def test_a_script_that_trains_at_import_is_proved_by_its_definitions(prover: Prover, scripts: dict[str, str]) -> None:
    before, after = (text + "\n\n" + scripts["trains"] for text in (LEGACY, EXACT))
    stage = STAGES["exact"]
    verification = prover.prove(
        Plan(PATH, before, after, (Stage(stage.codemods, stage.promise, before, after, stage.claims),)), timeout=15
    )
    assert verification.status == "proved", why(verification)
    assert "only its definitions were run" in verification.notes[0]


def test_definitions_that_cannot_be_run_are_not_proved(prover: Prover) -> None:
    text = "import torch\nfrom torch import nn\n\n\nclass Broken(nn.Module):\n    width = missing\n"
    claim = Claim(("Broken",), ("Broken",))
    after = text + "    height = 1\n"
    plan = Plan(PATH, text, after, (Stage(("attention",), Promise.EXACT, text, after, (claim,)),))
    verification = prover.prove(plan, timeout=40)
    assert verification.status == "not verified" and "Broken" in verification.notes[0]


def test_a_migrated_text_that_cannot_be_imported_fails(prover: Prover) -> None:
    wrong = changed(
        EXACT,
        ("import SinusoidalPositionalEncoding, attention", "import Missing as SinusoidalPositionalEncoding, attention"),
    )
    verification = prover.prove(one_stage(STAGES["exact"], PATH, wrong), timeout=40)
    assert verification.status == "failed" and "ImportError" in why(verification)


def test_main_is_never_run_and_the_file_is_a_module_of_its_own_name(prover: Prover) -> None:
    check = (
        "assert __name__ == 'small_model', __name__\nimport sys\nassert sys.modules[__name__].__dict__ is globals()\n"
    )
    before, after = (
        changed(text, ("vocab_size = len(chars)\n", "vocab_size = len(chars)\n" + check)) for text in (LEGACY, EXACT)
    )
    stage = STAGES["exact"]
    verification = prover.prove(
        Plan(PATH, before, after, (Stage(stage.codemods, stage.promise, before, after, stage.claims),)), timeout=60
    )
    assert verification.status == "proved", why(verification)
    assert not any("import" in note and "failed" in note for note in verification.notes)


def test_the_worker_recovers_from_a_proof_that_was_stopped(prover: Prover) -> None:
    assert prover.prove(after_with("while True: pass"), timeout=2).status == "not verified"
    assert prover.prove(one_stage(STAGES["final_norm"], PATH), timeout=60).status == "proved"


def test_no_torch_in_the_worker_is_one_clear_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with prove.start(str(python)) as own:
        verification = own.prove(one_stage(STAGES["exact"], PATH), timeout=20)
    assert verification.status == "not verified" and "torch" in verification.notes[0]
