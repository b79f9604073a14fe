"""How long whole commands take on the bundled legacy file, next to a process that only parses it with LibCST.

The commands take turns, so that whatever else the machine does hits all of them alike; medians are printed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "latent_drift_trajectory.py"
ROUNDS = 5
PARSE = "import sys, libcst; libcst.parse_module(open(sys.argv[1], encoding='utf-8').read())"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    migrate = [sys.executable, "-m", "migrator"]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.py")
        plain.write_text("import torch\n")
        commands = {
            "libcst.parse_module, bare": [sys.executable, "-c", PARSE, str(FIXTURE)],
            "migrate --phase 2 --check": [*migrate, str(FIXTURE), "--phase", "2", "--check"],
            "migrate --phase 2 --dry-run": [*migrate, str(FIXTURE), "--phase", "2", "--dry-run"],
            "migrate --check, no transformer": [*migrate, str(plain), "--check"],
        }
        rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in commands}
    bare = next(iter(medians.values()))
    print(f"median of {ROUNDS}, {FIXTURE.name}")
    for name, median in medians.items():
        print(f"  {name:<32} {median:6.3f} s   {median / bare:5.2f} x")


if __name__ == "__main__":
    main()
