"""A sample of the corpus. All of it, which takes minutes: `make corpus`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from migrator import prove
from tests.corpus import manifest, run
from tests.corpus.manifest import File, Package

PACKAGES = manifest.load()
SAMPLE = [package for package in PACKAGES if package.sample]


@pytest.fixture(scope="module")
def prover() -> Iterator[prove.Prover]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")  # is changed by `prepare`, and goes back afterwards
        try:
            run.prepare(PACKAGES)
            for package in SAMPLE:
                run.install(package)
        except subprocess.CalledProcessError:
            pytest.skip("the packages cannot be installed: is there a package index?")
        with prove.start() as prover:
            yield prover


@pytest.mark.parametrize("package", SAMPLE, ids=lambda package: package.pin)
def test_nothing_unexpected(package: Package, prover: prove.Prover) -> None:
    assert not run.examine(package, prover).unexpected


def test_the_manifest_gives_reasons() -> None:
    legacy, untouched = ([p for p in PACKAGES if p.kind == kind] for kind in ("legacy", "untouched"))
    assert len(legacy) >= 12 and len(untouched) >= 6
    assert not [file.path for package in PACKAGES for file in package.files.values() if not file.why]


def test_what_differs_is_named(prover: prove.Prover) -> None:
    """The negative control: a manifest that expects something else is contradicted, file by file."""
    one = next(package for package in SAMPLE if package.files and package.kind == "legacy")
    path, file = next(iter(one.files.items()))
    wrong = Package(one.pin, "untouched", one.about, True, {path: File(path, [*file.expect, "modern attention"], "")})
    unexpected = run.examine(wrong, prover).unexpected
    assert any(text.startswith(f"{path}: expected") for text in unexpected)
    assert f"{path}: the manifest gives no reason" in unexpected
