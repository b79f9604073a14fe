"""One worker for all tests of the proof, because its import of torch is what takes time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrator import prove


@pytest.fixture(scope="session")
def prover() -> Iterator[prove.Prover]:
    with prove.start() as prover:
        yield prover
