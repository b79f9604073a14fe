"""`python -m tests.corpus.run [--update] [PACKAGE ...]`: the tool on pinned packages that nobody here wrote.

Installs each package into a folder of its own below build/corpus, without what it depends on, runs both phases over it,
proves what changes, compares with the manifest, and prints the table. With all packages, docs/coverage.md is written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from migrator import prove
from migrator.codemod import Phase
from tests.corpus import coverage, manifest
from tests.corpus.looking import Look, Row, look
from tests.corpus.manifest import File, Package

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "corpus"


@dataclass
class Seen:
    """What both phases found in a package, and how that differs from what the manifest says."""

    package: Package
    drop_in: Look
    architecture: Look
    unexpected: list[str]


def install(package: Package) -> Path:
    """The folder that the package is unpacked in; it is installed once."""
    folder = BUILD / package.name
    stamp = BUILD / f"{package.pin}.installed"
    if not stamp.exists():
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *quiet, "--upgrade", "--target", str(folder), package.pin],
            check=True,
        )
        stamp.touch()
    return folder


def prepare(packages: list[Package]) -> None:
    """Unpack what others import, and let the boxes of the proof find it."""
    support = [str(install(package)) for package in packages if package.kind == "support"]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *support])


def examine(package: Package, prover: prove.Prover) -> Seen:
    folder = install(package)
    drop_in = look(folder, prover)
    architecture = look(folder, prover, Phase.ARCHITECTURE, drop_in)
    return Seen(package, drop_in, architecture, unexpected(package, drop_in, architecture))


def expected_words(row: Row | None, later: Row) -> list[str]:
    """The words of a file: those of phase 1, and those that phase 2 adds."""
    first = row.words if row is not None else []
    second = [f"phase 2: {word}" for word in later.words if word not in first]
    return [*first, *second]


def found(drop_in: Look, architecture: Look) -> dict[str, list[str]]:
    rows = {row.path: row for row in drop_in.rows}
    return {later.path: expected_words(rows.get(later.path), later) for later in architecture.rows}


def unexpected(package: Package, drop_in: Look, architecture: Look) -> list[str]:
    """`file: expected ..., found ...` for each file that differs from the manifest, and all that must never happen."""
    words = found(drop_in, architecture)
    wanted = {path: file.expect for path, file in package.files.items()}
    differ = [path for path in sorted({*words, *wanted}) if words.get(path) != wanted.get(path)]
    rows = [f"{path}: expected {wanted.get(path)}, found {words.get(path)}" for path in differ]
    unsaid = [f"{path}: the manifest gives no reason" for path, file in package.files.items() if not file.why]
    changed = [row.path for look_ in (drop_in, architecture) for row in look_.rows if row.verdict != "unchanged"]
    touched = [f"{path}: must stay as it is" for path in changed if package.kind == "untouched"]
    return rows + unsaid + touched


def main(arguments: list[str]) -> int:
    names = {argument for argument in arguments if not argument.startswith("-")}
    packages = manifest.load()
    chosen = [p for p in packages if p.kind != "support" and (not names or p.name in names)]
    prepare(packages)
    seen: list[Seen] = []
    with prove.start() as prover:
        for package in chosen:
            seen.append(examine(package, prover))
            print(coverage.line(seen[-1].package, seen[-1].drop_in, len(seen[-1].unexpected)), flush=True)
            print("".join(f"    unexpected: {text}\n" for text in seen[-1].unexpected), end="", flush=True)
    if "--update" in arguments:
        update(packages, seen)
    text = coverage.page([(one.package, one.drop_in, one.architecture) for one in seen])
    print(coverage.totals([(one.package, one.drop_in, one.architecture) for one in seen]))
    if not names:
        (ROOT / "docs" / "coverage.md").write_text(text, encoding="utf-8")
    return 1 if any(one.unexpected for one in seen) else 0


def update(packages: list[Package], seen: list[Seen]) -> None:
    """Make the manifest say what was found, for a person to judge and give reasons."""
    for one in seen:
        words = found(one.drop_in, one.architecture)
        old = one.package.files
        one.package.files = {
            path: replace(old[path], expect=said) if path in old else File(path, said) for path, said in words.items()
        }
    manifest.save(packages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
