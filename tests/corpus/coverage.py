"""The table of the corpus, for the terminal and for docs/coverage.md."""

from __future__ import annotations

from collections.abc import Iterator

from tests.corpus.looking import Look, Row, attention_sites, refusals
from tests.corpus.manifest import Package

Seen = tuple[Package, Look, Look]
_COLUMNS = ("package", "files", "sites", "proved", "not proved", "modern", "refused", "unexpected")


def cells(package: Package, look: Look, unexpected: int) -> tuple[str, ...]:
    sites = dict(attention_sites(look.rows))
    migrated = sites["proved"], sites["not verified"] + sites["failed"]
    numbers = (look.files, sum(sites.values()), *migrated, sites["modern"], sites["refused"], unexpected)
    return package.pin, *(str(number) for number in numbers)


def line(package: Package, look: Look, unexpected: int) -> str:
    name, *numbers = cells(package, look, unexpected)
    labels = _COLUMNS[1:]
    return f"{name:36}" + "  ".join(f"{number:>4} {label}" for label, number in zip(labels, numbers, strict=True))


def totals(seen: list[Seen]) -> str:
    """The figures that sum up the corpus."""
    rows = [row for _, look, _ in seen for row in look.rows]
    later = [row for _, _, look in seen for row in look.rows]
    sites = dict(attention_sites(rows))
    migrated = sum(sites[verdict] for verdict in ("proved", "not verified", "failed"))
    crashes = sum(row.verdict == "crash" for row in rows + later)
    lines = sum(look.lines for _, look, _ in seen)
    could = sum(file.could for package, _, _ in seen for file in package.files.values())
    models = [model for package, _, look in seen if package.kind == "legacy" for model in _models(look)]
    reached = [model for model in models if _reaches(model)]
    proved = [model for model in reached if all(row.verdict in ("proved", "unchanged") for row in model)]
    return "\n".join(
        [
            f"- {len(seen)} packages, {lines:,} lines, {crashes} crashes",
            f"- {sum(sites.values())} attention sites: {migrated} migrated, {sites['proved']} of them proved without any "
            f"configuration; {sites['modern']} modern already; {sites['refused']} refused with a reason",
            f"- of the {migrated + could} legacy sites that fused attention can compute exactly, {sites['proved']} are "
            f"migrated and proved ({_percent(sites['proved'], migrated + could)}); the manifest names the {could} others "
            "that could be",
            f"- {len(models)} models, which are files read as one that attend and have blocks: phase 2 changes "
            f"{len(reached)} of them ({_percent(len(reached), len(models))}), or finds them modern; {len(proved)} are proved",
        ]
    )


def _models(look: Look) -> list[list[Row]]:
    """Files that are read as one, in which attention is fused now and blocks, stacks or feed-forwards were seen."""
    units: dict[str, list[Row]] = {}
    for row in look.rows:
        units.setdefault(row.unit, []).append(row)
    return [rows for rows in units.values() if _attends(rows) and _has_blocks(rows)]


def _attends(rows: list[Row]) -> bool:
    return any(row.count("migrated") for row in rows)


def _has_blocks(rows: list[Row]) -> bool:
    return any(o.codemod == "block" or o.phase == 2 for row in rows for o in row.outcomes)


def _reaches(rows: list[Row]) -> bool:
    return any(o.phase == 2 and o.status in ("migrated", "modern") for row in rows for o in row.outcomes)


def _percent(some: int, of: int) -> str:
    return f"{100 * some / max(of, 1):.0f} %"


def page(seen: list[Seen]) -> str:
    """docs/coverage.md."""
    return "\n".join(_page(seen)) + "\n"


def _page(seen: list[Seen]) -> Iterator[str]:
    yield from (
        "# Coverage",
        "",
        "What the tool makes of pinned packages that nobody here wrote. Written by `make corpus`,",
    )
    yield from ("which also compares each file with what `tests/corpus/manifest.toml` expects of it, and why.", "")
    yield from (totals(seen), "", "## Attention, by package", "")
    yield from ("| " + " | ".join(_COLUMNS[:-1]) + " |", "|" + "---|" * (len(_COLUMNS) - 1))
    for package, look, _ in seen:
        yield "| " + " | ".join(cells(package, look, 0)[:-1]) + " |"
    yield from ("", "## The most common refusals", "", "| codemod and code | sites |", "|---|---|")
    later = [row for _, _, look in seen for row in look.rows]
    for code, count in refusals(later).most_common(10):
        yield f"| {code} | {count} |"
    yield from ("", "## Not proved", "", "Nothing is written there without `--no-verify` or a probe.", "")
    for package, look, _ in seen:
        for row in look.rows:
            if row.verdict in ("not verified", "failed"):
                yield f"- `{row.path}` of {package.pin}: {row.verdict}; {row.notes[0]}"
