"""A new file is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.errors import MigrateError
from migrator.write.transaction import created


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new.pt"
    with created(target, force=False) as out:
        assert out.parent == tmp_path and not target.exists()
        out.write_bytes(b"whole")
    assert target.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), created(tmp_path / "new.pt", force=False) as out:
        out.write_bytes(b"half")
        raise error
    assert not list(tmp_path.iterdir())


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new.pt"
    with pytest.raises(MigrateError, match="exists: this file is there already"), created(target, force=False):
        target.write_bytes(b"mine")
    assert target.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed_and_a_hard_link_refused(tmp_path: Path) -> None:
    (tmp_path / "real.pt").write_bytes(b"old")
    (tmp_path / "link.pt").symlink_to("real.pt")
    with created(tmp_path / "link.pt", force=True) as out:
        out.write_bytes(b"new")
    assert (tmp_path / "link.pt").is_symlink() and (tmp_path / "real.pt").read_bytes() == b"new"
    (tmp_path / "other.pt").hardlink_to(tmp_path / "real.pt")
    with pytest.raises(MigrateError, match="hard-link"), created(tmp_path / "real.pt", force=True):
        raise AssertionError("never gets here")
