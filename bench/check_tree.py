"""How long `--check` takes on a tree, cold, in parallel and cached, next to a bare parse of the same files by LibCST.

    python bench/check_tree.py [FOLDER] [--files N]

Files are taken evenly over the folder (without one: this environment's packages) and copied, so that all look at the
same. `torchfix` takes part if it is installed. The commands run one after another; only their ratios mean much.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

PARSE = """
import pathlib, sys, libcst
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    try:
        libcst.parse_module(path.read_bytes())
    except Exception:
        pass  # what it cannot parse costs it nothing more
"""


def copy_sample(source: Path, target: Path, number: int) -> int:
    """Copy at most `number` files, evenly spread, and give back their lines."""
    paths = sorted(path for path in source.rglob("*.py") if path.is_file())
    step = max(1, len(paths) // number)
    lines = 0
    for path in paths[::step][:number]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        copy.write_bytes(data)
        lines += data.count(b"\n")
    return lines


def seconds(command: list[str], environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path(sysconfig.get_path("purelib")))
    parser.add_argument("--files", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        lines = copy_sample(given.folder, tree, given.files)
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        check = [sys.executable, "-m", "migrator", str(tree), "--check", "--phase", "2", "--quiet"]
        commands = {
            "libcst.parse_module, bare": [sys.executable, "-c", PARSE, str(tree)],
            "migrate --check --no-cache": [*check, "--no-cache"],
            "migrate --check --no-cache -j 2": [*check, "--no-cache", "-j", "2"],
            "migrate --check, first time": check,
            "migrate --check, cached": check,
        }
        if torchfix := shutil.which("torchfix"):
            commands["torchfix"] = [torchfix, str(tree)]
        count = sum(1 for _ in tree.rglob("*.py"))
        print(f"{count} files, {lines:,} lines of {given.folder.name}")
        bare = 0.0
        for name, command in commands.items():
            took = seconds(command, environment)
            bare = bare or took
            print(f"  {name:<32} {took:7.2f} s  {lines / took:10,.0f} lines/s  {took / bare:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
