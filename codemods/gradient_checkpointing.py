"""Stacks of blocks learn to give up their activations, for those who switch it on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.codemod import (
    AnyEdit,
    Checkpointing,
    Claim,
    Codemod,
    Edit,
    Finding,
    Import,
    Insert,
    Modern,
    Phase,
    Place,
    Promise,
    Refusal,
    Replace,
    Site,
)
from migrator.recognise.attention import compiles_scripts
from migrator.recognise.borrowers import hooked
from migrator.recognise.composition import family, users_of
from migrator.recognise.constants import init_values, number
from migrator.recognise.dataflow import flow_of
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.mutation import changed_in_place
from migrator.recognise.recomputing import RECOMPUTE_REFUSALS, obstacle
from migrator.recognise.spelling import call, free_local, runtime_name
from migrator.recognise.syntax import first_parameter
from migrator.recognise.trunks import Run, Trunk, trunks
from migrator.recognise.values import roots

if TYPE_CHECKING:
    import libcst as cst

_BASE = "runtime.GradientCheckpointing"
_SWITCHES = (
    "gradient_checkpointing_enable",
    "gradient_checkpointing_disable",
    "gradient_checkpointing",
    "checkpointed",
)
_OPTIONS = frozenset({"use_reentrant", "context_fn", "determinism_check", "debug", "preserve_rng_state", "early_stop"})
_REMEDIES = {
    "bases": "derive the class from nn.Module alone, or call torch.utils.checkpoint.checkpoint by hand",
    "conflict": "rename it, or go on using it",
    "hooks": "hang the hooks on the blocks",
    "arguments": "give the argument another name",
    "stateful": "move what counts out of the blocks",
    "random": "draw from torch's own generator",
    "in-place": "write `x = x + y` instead of `x += y`",
    "unknown-part": "build it in `__init__`, from a class of torch or of this file",
    "scripted": "use torch.compile, which needs no such subset of Python",
    "layout": "give what goes into the blocks a name, and run them in a statement of their own",
}


class _Obstacle(Exception):
    def __init__(self, code: str, seen: str) -> None:
        super().__init__(code)
        self.code, self.seen = code, seen


@dataclass(frozen=True)
class _Rewriting:
    """How one run is written anew: its call, a loop around its statement, or a loop before it."""

    run: Run
    code: str
    loop: tuple[str, str] | None = None  # variable, iterable
    before: str = ""


@dataclass(frozen=True)
class _Part:
    trunk: Trunk
    rewritings: tuple[_Rewriting, ...]
    heirs: tuple[ClassInfo, ...]
    base: str
    imported: Import


class GradientCheckpointing(Codemod):
    """x = self.trunk(x) -> for block in self.trunk: x = self.checkpointed(block, x), with the switch for it."""

    phase = Phase.ACCELERATION
    promise = Promise.EXACT
    rationale = "Activations inside the blocks can be computed a second time instead of being kept, if memory is short."
    reference = "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174"
    formula = "N blocks: activations of one block at a time and N inputs, for one more forward"
    after = ("generation_loop",)
    refusals = {
        "bases": "the class has bases that may know checkpointing in their own way",
        "conflict": "the class uses a name of the switch for something else",
        "hooks": "hooks may hang on the nn.Sequential, and would not be called by a loop over its blocks",
        "arguments": "the blocks are given an argument that torch's checkpoint takes for its own",
        "scripted": "the file compiles code with torch.jit.script",
        "layout": "the place cannot be edited statement by statement",
        **RECOMPUTE_REFUSALS,
    }

    def find(self, index: FileIndex) -> Iterator[Finding]:
        for trunk in trunks(index):
            place = _place(trunk)
            if trunk.by_hand:
                yield Modern(place, f"the blocks in `{trunk.path}` are checkpointed already")
            elif _is_one_block(index, trunk):
                yield Modern(place, "one block: recomputing it would save nothing")
            else:
                try:
                    yield _site(index, trunk, place)
                except _Obstacle as found:
                    yield Refusal(place, found.code, found.seen, _REMEDIES[found.code])

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        part: _Part = site.part
        definition = part.trunk.owner.definition
        for one in part.rewritings:
            if one.before:
                yield Insert(definition, one.run.statement, one.before, "before")
            if one.loop is not None:
                yield Edit(definition, one.run.statement, _Loop(*one.loop))
            yield Replace(definition, one.run.call, one.code)
        for heir in part.heirs:
            yield Edit(heir.definition, heir.node, _Heir(part.base))
        if part.heirs:
            yield part.imported


def _place(trunk: Trunk) -> Place:
    first = [*trunk.by_hand, *trunk.runs][0]
    return Place.of(f"{trunk.owner.name}.{first.method.name}", first.call, trunk.owner.definition)


def _is_one_block(index: FileIndex, trunk: Trunk) -> bool:
    if trunk.kind == "single":
        return True
    depth = trunk.members[0].depth
    if len(trunk.members) > 1 or not depth:
        return False
    expression = ast.parse(depth, mode="eval").body
    spelt_out = number(index, expression)
    numbers = init_values(index, trunk.owner, expression) if spelt_out is None else [spelt_out]
    return bool(numbers) and all(one == 1 for one in numbers)


def _site(index: FileIndex, trunk: Trunk, place: Place) -> Site:
    _check(index, trunk)
    base, imported = runtime_name(index, "GradientCheckpointing")
    rewritings = tuple(_whole(index, trunk, run) if run.whole else _single(run, trunk) for run in trunk.runs)
    heirs = _heirs(index, trunk.owner)
    names = tuple(dict.fromkeys([trunk.owner.name, *(heir.name for heir in heirs)]))
    claim = Claim(
        names,
        (trunk.owner.name,),
        abilities=(Checkpointing(trunk.owner.name, trunk.path),),
        bases=tuple((heir.name, base) for heir in heirs),
    )
    top = next((one.name for one in _tops(index, trunk.owner) if one in heirs), trunk.owner.name)
    message = f"the blocks in `{trunk.path}` can be checkpointed: {top}.gradient_checkpointing_enable()"
    return Site(place, message, claim, _Part(trunk, rewritings, heirs, base, imported))


# --- what stands against it ----------------------------------------------------------------------------------------


def _check(index: FileIndex, trunk: Trunk) -> None:
    if compiles_scripts(index):
        raise _Obstacle("scripted", "the file compiles code with `torch.jit.script`")
    reason = _strange_base(index, trunk.owner)
    if reason:
        raise _Obstacle("bases", reason)
    kin = [*trunk.owner.lineage, *(index.classes[one.name] for one in family(index, trunk.owner))]
    taken = [f"{info.name} has a `{name}`" for info in kin for name in _SWITCHES if _has(info, name)]
    if taken and not trunk.owner.derives_from(_BASE):
        raise _Obstacle("conflict", f"{taken[0]} of its own")
    if any(run.whole for run in trunk.runs) and hooked(index):
        raise _Obstacle("hooks", f"{hooked(index)} hangs a hook, perhaps on `{trunk.path}`")
    for name in dict.fromkeys(member.name for member in trunk.members):
        found = obstacle(index, name)
        if found is not None:
            raise _Obstacle(*found)
    for run in trunk.runs:
        _check_run(index, trunk, run)


def _check_run(index: FileIndex, trunk: Trunk, run: Run) -> None:
    clash = _OPTIONS & {keyword.arg for keyword in run.call.keywords if keyword.arg}
    if clash:
        raise _Obstacle("arguments", f"the blocks are given `{min(clash)}`, an option of torch's checkpoint")
    flow = flow_of(index, trunk.owner.definition, run.method, trunk.owner)
    value = next((value for value in flow.values if value.node is run.call), None)
    if value is None:
        raise _Obstacle("layout", "it cannot be told what the blocks are given")
    given = {root for operand in value.operands() for root in roots(operand)}
    for target, statement in changed_in_place(flow):
        if given & roots(target):
            raise _Obstacle("in-place", f"`{_first_line(statement)}` changes what the blocks were given")


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def _strange_base(index: FileIndex, info: ClassInfo) -> str:
    for one in info.lineage:
        strange = [b for b in one.bases if b not in index.classes and b not in ("torch.nn.Module", _BASE)]
        if strange or one.node.keywords:
            return f"{one.name} derives from {strange[0] if strange else 'a class with a metaclass'}"
    return ""


def _has(info: ClassInfo, name: str) -> bool:
    return name in info.methods or name in info.attributes or any(
        isinstance(node, ast.Name) and node.id == name for item in info.node.body for node in ast.walk(item)
        if isinstance(item, ast.Assign | ast.AnnAssign)
    )  # fmt: skip


# --- who gets the switch -------------------------------------------------------------------------------------------


def _heirs(index: FileIndex, owner: ClassInfo) -> tuple[ClassInfo, ...]:
    """The classes that gain the base, so that the owner and the models at the top that hold it have the switch.

    Of classes that derive from one another the highest gains it: a base may stand in front of its heirs only once.
    """
    owners = [trunk.owner for trunk in trunks(index)]
    wanting = [*owners, *(top for one in owners for top in _tops(index, one))]
    found: list[ClassInfo] = []
    for info in [owner, *_tops(index, owner)]:
        heir = [one for one in info.lineage if one in wanting][-1]
        fine = not _strange_base(index, heir) and not any(_has(heir, name) for name in _SWITCHES)
        if fine and not heir.derives_from(_BASE) and heir not in found:
            found.append(heir)
    return tuple(found)


def _tops(index: FileIndex, owner: ClassInfo) -> list[ClassInfo]:
    """The classes that hold the owner, at any depth, and that no class holds."""
    tops: list[ClassInfo] = []
    todo, seen = [owner.name], {owner.name}
    for name in todo:
        holders = [component.owner for component in users_of(index, name)]
        if not holders and name != owner.name:
            tops.append(index.classes[name])
        todo += [holder.name for holder in holders if holder.name not in seen]
        seen |= {holder.name for holder in holders}
    return tops


# --- the new calls -------------------------------------------------------------------------------------------------


def _single(run: Run, trunk: Trunk) -> _Rewriting:
    """`block(x, mask)` -> `self.checkpointed(block, x, mask)`."""
    definition = trunk.owner.definition
    if "#" in definition.source(run.call):
        raise _Obstacle("layout", "comments stand inside the call")
    arguments = [definition.source(run.call.func), *(definition.source(argument) for argument in run.call.args)]
    named = ((f"{k.arg}=" if k.arg else "**", definition.source(k.value)) for k in run.call.keywords)
    arguments += [name + value for name, value in named]
    switch = f"{first_parameter(run.method)}.checkpointed"
    around = len(_first_line(run.statement)) - len(ast.unparse(run.call))
    code = call(switch, arguments, indent=run.statement.col_offset + max(around, 0))
    if "\n" in code and _shares_its_line(run):
        raise _Obstacle("layout", f"`{_first_line(run.statement)}` shares its line, which has no room for more")
    return _Rewriting(run, code)


def _shares_its_line(run: Run) -> bool:
    """`for block in self.blocks: x = block(x)`."""
    return any(
        hasattr(one, "body") and isinstance(one, ast.stmt) and one.lineno == run.statement.lineno
        for one in ast.walk(run.method)
    )


def _whole(index: FileIndex, trunk: Trunk, run: Run) -> _Rewriting:
    """`x = self.trunk(x)` -> a loop over the blocks."""
    statement, own = run.statement, first_parameter(run.method)
    if len(run.call.args) != 1 or run.call.keywords or isinstance(run.call.args[0], ast.Starred):
        raise _Obstacle("layout", f"`{_first_line(run.call)}` takes more than what goes into the first block")
    simple = isinstance(statement, ast.Assign | ast.Return | ast.AnnAssign | ast.Expr)
    if not simple or _comes_late(statement, run.call):
        raise _Obstacle("layout", f"the blocks are run in the middle of `{_first_line(statement)}`")
    variable = free_local(index, run.method, "block", "layer", "each_block")
    over, entry = f"{own}.{trunk.path}", trunk.owner.definition.source(run.call.args[0])
    name = _carried(statement, run.call)
    if not name or name in index.shadowed or name in index.imports:
        name = free_local(index, run.method, "x", "h", "hidden")
    checkpointed = f"{own}.checkpointed({variable}, {name})"
    before = "" if entry == name else f"{name} = {entry}"
    if isinstance(statement, ast.Assign) and statement.value is run.call and ast.unparse(statement.targets[0]) == name:
        return _Rewriting(run, checkpointed, (variable, over), before)
    loop = f"for {variable} in {over}:\n    {name} = {checkpointed}"
    return _Rewriting(run, name, None, f"{before}\n{loop}" if before else loop)


def _carried(statement: ast.stmt, node: ast.Call) -> str:
    """The name that goes through the loop: the one that is assigned or handed in, if nothing else reads it here."""
    inside = {id(inner) for inner in ast.walk(node)}
    others = [inner for inner in ast.walk(statement) if isinstance(inner, ast.Name) and id(inner) not in inside]
    name = ""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        name = statement.targets[0].id
    elif isinstance(statement, ast.Return) and isinstance(node.args[0], ast.Name):
        name = node.args[0].id
    return "" if any(one.id == name and isinstance(one.ctx, ast.Load) for one in others) else name


def _comes_late(statement: ast.stmt, node: ast.Call) -> bool:
    """Whether the call is made only under a condition, or something else is computed before it."""
    scopes = ast.IfExp | ast.BoolOp | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    inside = {id(inner) for inner in ast.walk(node)}
    for other in ast.walk(statement):
        if isinstance(other, scopes) and any(inner is node for inner in ast.walk(other)):
            return True
        if isinstance(other, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return True
        around = any(inner is node for inner in ast.walk(other))
        earlier = isinstance(other, ast.Call) and (other.lineno, other.col_offset) < (node.lineno, node.col_offset)
        if earlier and not around and id(other) not in inside:
            return True
    return isinstance(statement, ast.Assign) and len(statement.targets) > 1


@dataclass(frozen=True)
class _Loop:
    """Puts a statement into a loop over the blocks, the comments above it above the loop."""

    variable: str
    over: str

    def __call__(self, node: cst.CSTNode) -> cst.CSTNode:
        import libcst as cst

        line = cst.ensure_type(node, cst.SimpleStatementLine)
        return cst.For(
            target=cst.Name(self.variable),
            iter=cst.parse_expression(self.over),
            body=cst.IndentedBlock([line.with_changes(leading_lines=[])]),
            leading_lines=line.leading_lines,
        )


@dataclass(frozen=True)
class _Heir:
    """Puts the base in front of the others, so that its methods come first."""

    base: str

    def __call__(self, node: cst.CSTNode) -> cst.CSTNode:
        import libcst as cst

        heir = cst.ensure_type(node, cst.ClassDef)
        return heir.with_changes(bases=[cst.Arg(cst.parse_expression(self.base)), *heir.bases])
