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

import torch

from migrator.prove.confinement import without_secrets
from migrator.validate.result import ScaleRow, Scaling, Verdict
from migrator.validate.subject import Budget, CannotMeasure, Subject

_STEPS, _LENGTH, _EACH = 6, 32, 2
_LIMIT = 1e-4  # of the loss: AdamW enlarges the rounding of float32 from step to step


def measure(subject: Subject, budget: Budget, processes: int, compiler: str) -> Scaling:
    """DDP and FSDP2, plain, with gradient checkpointing and compiled by a backend of torch.compile.

    Raises:
        CannotMeasure: the processes could not be started, or came to no end in time.
    """
    if subject.tensors:
        raise CannotMeasure("it is built from tensors, which are not handed to other processes")
    job = _job(subject, processes, compiler or _compiler())
    budget.tick(f"{processes} processes")
    answer = _run(job, processes, budget.left)
    rows = tuple(_rows(answer))
    unused = answer["unused"]
    note = f"find_unused_parameters=True for DDP: no gradient reaches {', '.join(unused)}" if unused else ""
    return Scaling(processes, job["backend"], rows, tuple(_verdicts(rows)), note)


def _job(subject: Subject, processes: int, compiler: str) -> dict[str, Any]:
    text = subject.texts["migrated"]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "text": text.text, "path": str(text.path), "definitions_only": subject.definitions_only, "build": subject.build,
        "specs": subject.specs, "initialiser": subject.initialiser, "seed": 0, "steps": _STEPS,
        "batch": _EACH * processes, "compiler": compiler, "backend": "nccl" if gpus >= processes else "gloo",
        "length": max((n for n in subject.lengths if n <= _LENGTH), default=subject.lengths[0]),
    }  # fmt: skip


def _compiler() -> str:
    """Inductor needs a C++ compiler; without one the graphs are captured and run as they are."""
    return "inductor" if any(map(shutil.which, ("g++", "c++", "clang++"))) else "aot_eager"


def _run(job: dict[str, Any], processes: int, seconds: float) -> dict[str, Any]:
    """Have torchrun start the processes in a folder of their own; all of them end with it."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps(job), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
             "-m", "migrator.validate.ranks", str(request), str(answer)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            cwd=folder, env=_environment(folder),
        )  # fmt: skip
        try:
            _, printed = process.communicate(timeout=max(seconds, 10.0))
        except subprocess.TimeoutExpired as error:
            raise CannotMeasure("the processes came to no end in the time there is; --seconds gives more") from error
        finally:
            _end(process)
        if not answer.is_file():
            raise CannotMeasure(f"the processes ended without an answer: {_last(printed)}")
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def _environment(folder: str) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**without_secrets(os.environ), **own, "GLOO_SOCKET_IFNAME": "lo"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole session: torchrun and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last(printed: bytes) -> str:
    """The line of an error that says the most, of what torchrun prints."""
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return (telling or lines or ["nothing was printed"])[-1][:200]


# --- what comes of it ---------------------------------------------------------------------------------------------


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
