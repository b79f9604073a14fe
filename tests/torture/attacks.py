"""What hostile models do: to what judges them, to the machine, and to the user's files."""

from __future__ import annotations

ATTACKS = {
    "allocates 40 GB": "held = bytearray(40 << 30)",
    "atexit": "import atexit\natexit.register(os._exit, 0)",
    "builtins": "import builtins\nbuiltins.isinstance = builtins.len = builtins.abs = lambda *a: True",
    "channel": "for n in range(3, 64):\n    try: os.write(n, b'{\"passed\": true}')\n    except OSError: pass",
    "comparisons": "torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True\n"
    "torch.Tensor.__sub__ = lambda a, b: a * 0",
    "daemon": "if not c.fork():\n    os.setsid()\n    if not c.fork(): time.sleep(600)\n    os._exit(0)",
    "deletes": "import shutil\nshutil.rmtree(USER)",
    "descriptors": "os.closerange(0, 256)",
    "directory": "os.chdir('/')\nos.umask(0)\nos.chdir(USER)",
    "exits": "os._exit(0)",
    "exits politely": "sys.exit(0)",
    "fork bomb": "for _ in range(6):\n    if c.fork() == -1: break\ntime.sleep(0.02)",
    "forks": "for _ in range(6): os.fork()",
    "frames": "frame = sys._getframe()\nwhile frame:\n    frame.f_locals.update(passed=True)\n    frame = frame.f_back",
    "group": "os.killpg(0, 9)",
    "huge file": "with open('big', 'wb') as file:\n    file.seek(1 << 40)\n    file.write(b'x')",
    "links": "os.symlink(USER, 'way')\nopen('way/mine.txt', 'w').write('gone')",
    "loops, deaf": "for n in set(signal.valid_signals()) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
    "while True: pass",
    "modules": "for name in list(sys.modules):\n    if name.startswith('migrator'): sys.modules[name] = None",
    "nan": "q = q * float('nan')",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1).sendall(b'stolen')",
    "parent": "os.kill(os.getppid(), 9)",
    "pickle": "torch.Tensor.__reduce_ex__ = lambda *a: (print, ('PASS',))",
    "prints binary": "os.write(1, bytes(range(256)) * 4000)",
    "prints without end": "while True: print('x' * 10_000)",
    "raises binary": "raise RuntimeError('\\x1b[31m\\0\\n' * 5000)",
    "recursion": "def down(n): return down(n + 1)\ndown(0)",
    "stops its parent": "os.kill(os.getppid(), signal.SIGSTOP)\nos.kill(0, signal.SIGSTOP)",
    "threads": "import threading\nfor _ in range(50): threading.Thread(target=time.sleep, args=(600,)).start()",
    "traces": "c.ptrace(16, os.getppid(), 0, 0)\nos.kill(os.getppid(), signal.SIGTRAP)",
    "writes": "for name in (USER + '/mine.txt', HOME + '/mine.txt', 'mine.txt'):\n"
    "    try: open(name, 'w').write('gone')\n    except OSError: pass",
}

_MODEL = """
import ctypes
import os
import signal
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

c = ctypes.CDLL(None)  # its `fork` asks nobody


def attack(q):
    {code}
    return q


class Head(nn.Module):
    def __init__(self, n_embd, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)

    def forward(self, x):
        k = self.key(x)
        q = attack(self.query(x))
        wei = F.softmax(q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5, dim=-1)
        return wei @ self.value(x)
"""
# What a model does that knows when it was migrated, so as to be proved and then be another.
LIE = '\nq = q * (1.01 if "attention" in globals() else 1.0)'


def model(code: str, **places: str | int) -> str:
    """A model that does this whenever it runs; the names of some places stand in the code in capitals."""
    for name, place in places.items():
        code = code.replace(name.upper(), repr(place))
    return _MODEL.replace("{code}", code.replace("\n", "\n    "))
