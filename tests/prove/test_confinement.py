"""What code in a box can do to the user's files, to the network and to other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from migrator.prove import Prover
from migrator.prove.confinement import MEANS, without_secrets
from tests.prove.texts import STAGES, one_stage

TRIED = """
    import os, socket, sys
    from pathlib import Path
    from migrator.prove import confinement

    if sys.argv[1] == "landlock":
        confinement._live_apart = lambda: False
    home, file, parent = Path(sys.argv[2]), Path(sys.argv[3]), os.getpid()
    os.setsid()
    means = confinement.confine(home)

    def forbidden(action):
        try:
            action()
        except OSError:
            return True
        return False

    Path("mine").write_text("x")
    print(means, *map(forbidden, (
        lambda: file.write_text("gone"),
        lambda: file.unlink(),
        lambda: file.rename(home / "stolen"),
        lambda: file.with_name("new").mkdir(),
        lambda: socket.create_connection(("127.0.0.1", int(sys.argv[4])), 1),
        lambda: os.kill(int(sys.argv[5]), 0),
        lambda: open(f"/proc/{sys.argv[5]}/mem").close(),
    )))
"""


@pytest.mark.parametrize("means", ["namespaces", "landlock"])
def test_files_network_and_other_processes_are_out_of_reach(tmp_path: Path, means: str) -> None:
    import socket

    home, file = tmp_path / "home", tmp_path / "file.py"
    home.mkdir()
    file.write_text("old\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [means, home, file, server.getsockname()[1], os.getpid()]
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(TRIED), *map(str, arguments)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    found, *forbidden = run.stdout.split()
    if found != means:
        pytest.skip(f"this system has {found}")
    assert forbidden == ["True"] * 7
    assert file.read_text() == "old\n"


def test_the_proof_says_what_confined_it(prover: Prover, tmp_path: Path) -> None:
    code = "import os, sys\nfrom pathlib import Path\nfrom migrator.prove import confinement\nos.setsid()\nprint(confinement.confine(Path(sys.argv[1])))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    verification = prover.prove(one_stage(STAGES["exact"], Path("small_model.py")), timeout=60)
    assert verification.confinement == run.stdout.strip()
    assert verification.confinement in MEANS


def test_secrets_are_not_handed_on() -> None:
    assert without_secrets({"PATH": "a", "GITHUB_TOKEN": "b", "api_key": "c"}) == {"PATH": "a"}
