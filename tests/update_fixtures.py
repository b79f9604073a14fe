"""`python -m tests.update_fixtures [CASE ...]` writes after.py and report.txt anew, for a person to review the diff."""

from __future__ import annotations

import sys

from tests.cases import Case, all_cases, report


def update(case: Case) -> None:
    """Make the expectations of a case what the codemod does now."""
    planned = case.plan(case.before)
    after = case.folder / "after.py"
    if planned.changed:
        after.write_bytes(planned.text.encode("utf-8"))
    else:
        after.unlink(missing_ok=True)
    (case.folder / "report.txt").write_text(report(planned), encoding="utf-8")


def main(names: list[str]) -> None:
    for case in all_cases():
        if not names or case.name in names or case.codemod in names:
            update(case)


if __name__ == "__main__":
    main(sys.argv[1:])
