"""Scale-out: the migrated model trained by several processes loses what a single process loses."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migrator.prove.confinement import LANDLOCK, NOTHING, without_secrets
from migrator.validate.result import ScaleRow, Scaling, Verdict
from migrator.validate.subject import Budget, CannotMeasure, Subject

_STEPS, _LENGTH, _EACH = 6, 32, 2
_LIMIT = 1e-4  # of the loss: AdamW enlarges the rounding of float32 from step to step
_GRACE = 3.0
_CONFINED = {
    LANDLOCK: "the processes were confined by Landlock, but for the network",
    NOTHING: "the processes were not confined",
}
_START = "import sys; sys.path.append(sys.argv[1]); from migrator.validate.launching import main; main()"
_ROOT = str(Path(__file__).resolve().parents[2])


def measure(subject: Subject, budget: Budget, processes: int, compiler: str, gpus: str | None) -> Scaling:
    """DDP and FSDP2, plain, with gradient checkpointing and compiled by a backend of torch.compile.

    `gpus` are those that may be seen, as `CUDA_VISIBLE_DEVICES` says it; None is all.

    Raises:
        CannotMeasure: the processes could not be started, or came to no end in time.
    """
    if subject.tensors:
        raise CannotMeasure("it is built from tensors, which are not handed to other processes")
    budget.tick(f"{processes} processes")
    return _measured(*_run(_job(subject, processes, compiler or _compiler()), budget.left, gpus), processes)


def _job(subject: Subject, processes: int, compiler: str) -> dict[str, Any]:
    text = subject.texts["migrated"]
    return {
        "text": text.text, "path": str(text.path), "definitions_only": subject.definitions_only, "build": subject.build,
        "specs": subject.specs, "initialiser": subject.initialiser, "seed": 0, "steps": _STEPS,
        "processes": processes, "batch": _EACH * processes, "compiler": compiler,
        "length": max((n for n in subject.lengths if n <= _LENGTH), default=subject.lengths[0]),
    }  # fmt: skip


def _compiler() -> str:
    """Inductor needs a C++ compiler; without one the graphs are captured and run as they are."""
    return "inductor" if any(map(shutil.which, ("g++", "c++", "clang++"))) else "aot_eager"


def _run(job: dict[str, Any], seconds: float, gpus: str | None) -> tuple[str, dict[str, Any]]:
    """What confined the processes that torchrun has started, and their answer."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, _ROOT, folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            cwd=folder, env=_environment(folder, gpus),
        )  # fmt: skip
        try:
            answer, printed = process.communicate(json.dumps(job).encode(), seconds)
        except subprocess.TimeoutExpired as error:
            raise CannotMeasure(f"the processes came to no end in {seconds:.0f} s") from error
        finally:
            _end(process)
        means, _, data = answer.decode(errors="replace").partition("\n")
        if not data:
            raise CannotMeasure(f"the processes ended without an answer: {_last(printed)}")
        try:
            return means, dict(json.loads(data))
        except (TypeError, ValueError) as error:
            raise CannotMeasure("the processes gave an answer that makes no sense") from error


def _environment(folder: str, gpus: str | None) -> dict[str, str]:
    inherited = {name: value for name, value in without_secrets(os.environ).items() if name != "CUDA_VISIBLE_DEVICES"}
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "HOME": folder, "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }  # fmt: skip
    return {**inherited, **own, **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})}


def _end(process: subprocess.Popen[bytes]) -> None:
    """torchrun is asked to end what it has started, in sessions of their own; on Linux that ends with it anyway."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _last(printed: bytes) -> str:
    """The line of an error that says the most, of what torchrun prints."""
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return (telling or lines or ["nothing was printed"])[-1][:200]


# --- what comes of it ---------------------------------------------------------------------------------------------


def _measured(means: str, answer: dict[str, Any], processes: int) -> Scaling:
    """What the processes answer, which run the user's code and can say anything."""
    try:
        rows = tuple(_rows(answer))
        backend, unused = str(answer["backend"]), [str(name) for name in answer["unused"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CannotMeasure("the processes gave an answer that makes no sense") from error
    notes = [f"find_unused_parameters=True for DDP: no gradient reaches {', '.join(unused)}"] if unused else []
    notes += [_CONFINED[means]] if means in _CONFINED else []
    return Scaling(processes, backend, rows, tuple(_verdicts(rows)), "; ".join(notes))


def _rows(answer: dict[str, Any]) -> Iterator[ScaleRow]:
    """Each run beside the single process that it comes nearest to."""
    references = [tuple(map(float, answer[name])) for name in ("whole", "shares")]
    for row in answer["rows"]:
        losses = tuple(map(float, row["losses"]))
        single = min(references, key=lambda reference: _difference(losses, reference))
        difference = _difference(losses, single)
        of_shares = "its loss is no mean over sequences: compared with the mean over the same shares"
        note = row["error"] or (of_shares if single is references[1] and _unlike(*references) else "")
        if not row["left_out"]:
            yield ScaleRow(row["mode"], row["options"], losses, single, difference, difference <= _LIMIT, note)


def _unlike(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return _difference(first, second) > _LIMIT


def _difference(losses: tuple[float, ...], single: tuple[float, ...]) -> float:
    """The largest, as a share of the loss of a single process; infinite where a run broke off."""
    if len(losses) != len(single) or not all(map(math.isfinite, losses)):
        return math.inf
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, single, strict=True))


def _verdicts(rows: tuple[ScaleRow, ...]) -> Iterator[Verdict]:
    equal = [row for row in rows if row.equal]
    if equal:
        largest = max(row.difference for row in equal)
        said = ", ".join(f"{row.mode}{f' with {row.options}' if row.options else ''}" for row in equal)
        yield Verdict("same", f"losses of a single process, to {largest:.1e}: {said}")
    for row in rows:
        if not row.equal:
            why = row.note or f"losses differ by {row.difference:.1e}"
            yield Verdict("worse", f"{row.mode}{f' with {row.options}' if row.options else ''}: {why}")
