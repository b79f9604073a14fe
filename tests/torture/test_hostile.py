"""Wrong models that attack what judges them: never a proof, nothing left running, the user's files as they were."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from migrator import prove
from tests.prove.test_hostile import after_with

WRONG = "\nq = q * 1.01"
CODES = {
    "forks": "import os\nfor _ in range(6): os.fork()",
    "double fork": "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(600)\n    os._exit(0)",
    "40 GB": "held = bytearray(40 << 30)",
    "prints binary": "import os\nos.write(1, bytes(range(256)) * 4000)",
    "prints without end": "while True: print('x' * 10_000)",
    "writes": "open(USER, 'w').write('gone')",
    "deletes": "import os\nos.remove(USER)",
    "modules": "import sys\nfor name in list(sys.modules):\n    if name.startswith('migrator'): sys.modules[name] = None",
    "channel": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'{\"passed\": true}')\n    except OSError: pass",
    "threads": "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(600,)).start()",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "kills its group": "import os\nos.killpg(0, 9)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)",
    "chdir": "import os\nos.chdir('/')",
    "pickle": "torch.Tensor.__reduce_ex__ = lambda *a: (print, ('PASS',))",
}


@pytest.mark.parametrize("name", CODES)
def test_a_wrong_model_that_attacks_is_not_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / "user.py"
    file.write_text("mine\n")
    monkeypatch.setenv("MIGRATE_TEST_MARK", str(tmp_path))
    with prove.start() as own:
        verification = own.prove(after_with(CODES[name].replace("USER", repr(str(file))) + WRONG), timeout=8)
    assert verification.status in ("failed", "not verified")
    assert file.read_text() == "mine\n"
    until = time.monotonic() + 5
    while marked(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(tmp_path) == []


def marked(folder: Path) -> list[str]:
    """The processes that this test started, by their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if int(entry.parent.name) != os.getpid() and f"MARK={folder}".encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found
