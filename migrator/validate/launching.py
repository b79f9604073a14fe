"""Between the worker and torchrun: confines itself, and with that torchrun and every process that torchrun starts.

It never runs user code, but they do: what they write is handed on as it is, for the worker to look at.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from migrator.prove.confinement import confine, end_with_parent


def main() -> None:
    """Read a job from standard input, and write what confined the processes, and their answer, to standard output."""
    end_with_parent()
    job = sys.stdin.buffer.read()
    output = os.dup(1)  # none of those that are started get it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    means = confine(Path(sys.argv[2]), output, loopback=True)
    Path("job.json").write_bytes(job)
    _torchrun(json.loads(job)["processes"])
    with open(output, "w", encoding="utf-8") as stream:
        stream.write(means + "\n" + Path("answer.json").read_text(encoding="utf-8"))


def _torchrun(processes: int) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(
            ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes),
             "-m", "migrator.validate.ranks", "job.json", "answer.json"]
        )  # fmt: skip
    except ChildFailedError:
        if not Path("answer.json").is_file():  # a process that lost the others answers before it fails
            raise
