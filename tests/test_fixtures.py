"""Every fixture case: what is rewritten and what is said, byte for byte; and that rewritten code still works."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from migrator.codemod import Codemod, Promise
from migrator.rewrite.registry import all_codemods, name_of
from tests.cases import Case, all_cases, difference, load, probes, report
from tests.parity import Pair, assert_exact, double_precision, randomise, run, tensors

CASES = all_cases()
REWRITTEN = [case for case in CASES if case.rewritten]
PROBED = [case for case in REWRITTEN if (case.folder / "probe.py").exists()]
EXACT = {name_of(codemod) for codemod in all_codemods() if codemod.promise is Promise.EXACT}


def codemod_named(name: str) -> type[Codemod]:
    return next(codemod for codemod in all_codemods() if name_of(codemod) == name)


def named(case: Case) -> str:
    return case.name


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("case", CASES, ids=named)
def test_text_and_report(case: Case) -> None:
    planned = case.plan(case.before)
    assert planned.text == case.after, difference(case.after, planned.text)
    assert report(planned) == case.text("report.txt")
    assert {outcome.code for outcome in planned.outcomes if outcome.code} <= set(codemod_named(case.codemod).refusals)


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_a_second_run_finds_nothing(case: Case) -> None:
    again = case.plan(case.after)
    assert again.text == case.after, difference(case.after, again.text)
    assert not [outcome for outcome in again.outcomes if outcome.status == "migrated"]


@pytest.mark.parametrize("case", CASES, ids=named)
def test_both_texts_can_be_executed(case: Case) -> None:
    load(case.before, "before")
    load(case.after, "after")


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_the_rewritten_text_uses_what_it_imports(case: Case) -> None:
    used = {node.id for node in ast.walk(ast.parse(case.after)) if isinstance(node, ast.Name)}
    assert imported(case.after) - imported(case.before) <= used


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_nothing_is_computed_for_nobody(case: Case) -> None:
    """A local name that was read before is still read, or is gone."""
    assert unread(case.after) <= unread(case.before)


def unread(text: str) -> set[tuple[str, str]]:
    """(function, name) of what a function assigns and never reads."""
    found = set()
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            targets = [target for node in ast.walk(function) if isinstance(node, ast.Assign) for target in node.targets]
            found |= {(function.name, t.id) for t in targets if isinstance(t, ast.Name) and t.id not in read}
    return found


@pytest.mark.parametrize("case", REWRITTEN, ids=named)
def test_no_comment_is_lost(case: Case) -> None:
    """Each is there as often as before, but for instructions to tools."""
    assert comments(case.before) - comments(case.after) == Counter()


def comments(text: str) -> Counter[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text, newline="").readline)
    found = (token.string.strip() for token in tokens if token.type == tokenize.COMMENT)
    return Counter(comment for comment in found if not comment.startswith(("# noqa", "# type: ignore")))


def imported(text: str) -> set[str]:
    """Names from the runtime."""
    return {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module == "runtime"
        for alias in node.names
    }


@pytest.mark.parametrize("case", [case for case in REWRITTEN if case.codemod in EXACT], ids=named)
def test_an_exact_rewrite_computes_the_same(case: Case) -> None:
    ran = 0
    torch.manual_seed(0)
    for name, arguments, inputs in probes(case):
        assert_exact(case.before, case.after, name, arguments, inputs)
        ran += 1
    assert ran, "the probe yields nothing"


@pytest.mark.parametrize("case", [case for case in PROBED if case.codemod not in EXACT], ids=named)
def test_a_new_part_runs_and_trains_every_parameter(case: Case) -> None:
    torch.manual_seed(0)
    for name, arguments, inputs in probes(case):
        legacy, migrated = Pair(case.before, case.after).build(name, arguments)
        randomise(legacy), randomise(migrated)
        (outputs, gradients), (new, new_gradients) = run(legacy, inputs), run(migrated, inputs)
        assert [out.shape for out in outputs] == [out.shape for out in new]
        assert all(bool(out.isfinite().all()) for out in tensors(new))
        assert sum(g is None for g in new_gradients) <= sum(g is None for g in gradients)


@pytest.mark.parametrize("codemod", [name_of(codemod) for codemod in all_codemods()])
def test_every_refusal_code_has_a_case(codemod: str) -> None:
    reports = "".join(case.text("report.txt") for case in CASES if case.codemod == codemod)
    assert not [code for code in codemod_named(codemod).refusals if f"refused [{code}]" not in reports]
