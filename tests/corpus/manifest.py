"""What the corpus consists of, and what is expected of it: `manifest.toml`, read and written.

A package is `legacy` (it ships hand-written transformers), or `untouched` (nothing in it may be changed). For each file
in which something is found, the manifest says what, and why that is right. A file that it does not name stays silent.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = Path(__file__).parent / "manifest.toml"
HEAD = "# What `make corpus` expects. Rows are sorted; see manifest.py for what they mean.\n"


@dataclass
class File:
    """A file of a package: what is expected there, and the reason.

    Args:
        could: how many of its refused attentions fused attention could compute exactly, as a person judges.
    """

    path: str
    expect: list[str]
    why: str = ""
    could: int = 0


@dataclass
class Package:
    """A pinned package of the Python Package Index, `name==version`."""

    pin: str
    kind: str  # legacy | untouched | support
    about: str
    sample: bool = False
    files: dict[str, File] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.pin.partition("==")[0]


def load() -> list[Package]:
    document = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return [
        Package(
            entry["pin"],
            entry["kind"],
            entry["about"],
            entry.get("sample", False),
            {file["path"]: File(**file) for file in entry.get("file", [])},
        )
        for entry in document["package"]
    ]


def save(packages: list[Package]) -> None:
    """Write the manifest anew; reasons that a person wrote are kept, new rows have none."""
    MANIFEST.write_text(HEAD + "".join(_package(package) for package in packages), encoding="utf-8")


def _package(package: Package) -> str:
    lines = ["", "[[package]]", f"pin = {json.dumps(package.pin)}", f"kind = {json.dumps(package.kind)}"]
    lines += [f"about = {json.dumps(package.about)}", *(["sample = true"] if package.sample else [])]
    for _, file in sorted(package.files.items()):
        lines += ["", "  [[package.file]]", f"  path = {json.dumps(file.path)}"]
        lines += [f"  expect = {json.dumps(file.expect)}", f"  why = {json.dumps(file.why)}"]
        lines += [f"  could = {file.could}"] if file.could else []
    return "\n".join(lines) + "\n"
