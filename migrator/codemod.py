"""What the author of a codemod needs to know, and all of it.

A codemod looks at an index of one file (`find`) and says what it saw: a `Site` that it can rewrite, a part that is
already `Modern`, or a `Refusal` with its reason. For a site it yields the `Edit`s (`rewrite`) and a `Claim`: what the
proof may hold the rewritten text to. It never touches files, never imports torch, and knows no other codemod.
Lines are counted from 1 and columns in UTF-8 bytes from 0, both as in the `ast` module.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Union

if TYPE_CHECKING:
    import libcst as cst

    from migrator.recognise.index import Definition, FileIndex


class Phase(IntEnum):
    """How much a user asks for; a phase includes the phases before it."""

    DROP_IN = 1
    ARCHITECTURE = 2
    ACCELERATION = 3
    VALIDATION = 4


class Promise(StrEnum):
    """What a change owes: the same function, a bounded difference, or a new function in an isolated place."""

    EXACT = "exact"
    WARM = "warm"
    NEW = "new"


# --- what was seen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A stretch of source: the qualified name of its definition and its first and last line."""

    symbol: str
    line: int
    end_line: int

    @classmethod
    def of(cls, symbol: str, node: ast.AST, definition: Definition) -> Place:
        """The place of a node of `definition`, in lines of the file."""
        line: int = getattr(node, "lineno", 1)
        return cls(symbol, line + definition.shift, (getattr(node, "end_lineno", None) or line) + definition.shift)


@dataclass(frozen=True)
class Site:
    """A place that the codemod can rewrite. `part` is what `find` recognised and `rewrite` needs."""

    place: Place
    message: str
    claim: Claim
    part: Any = field(compare=False, repr=False)


@dataclass(frozen=True)
class Modern:
    """A place where there is nothing to do, and what was seen there."""

    place: Place
    message: str


@dataclass(frozen=True)
class Refusal:
    """A place that is left alone: `code` is a key of the codemod's `refusals`; `seen` and `remedy` are for people."""

    place: Place
    code: str
    seen: str
    remedy: str


Finding = Union[Site, Modern, Refusal]


# --- what a change claims, for the proof ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Swap:
    """An expression of the text before the change, and what stands there while the old component is switched off."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str

    @classmethod
    def of(cls, definition: Definition, node: ast.expr, text: str) -> Swap:
        """The swap of an expression of `definition`, with lines of the file."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        last = node.end_lineno + definition.shift
        return cls(definition.line(node), node.col_offset, last, node.end_col_offset, text)


@dataclass(frozen=True)
class RotaryPart:
    """`attribute` of `owner` rotates queries and keys (never values) with this base, in this layout."""

    owner: str
    attribute: str
    base: float
    layout: str


@dataclass(frozen=True)
class AlibiPart:
    """`attribute` of `owner` adds ALiBi's linear bias to the scores of its attention."""

    owner: str
    attribute: str


@dataclass(frozen=True)
class NormPart:
    """`attribute` of `owner` is a new norm of what `source`, another attribute, gave out (its result at `place`)."""

    owner: str
    attribute: str
    source: str
    place: int | None = None


@dataclass(frozen=True)
class MovedNormPart:
    """`attribute` of `owner`, a norm that both texts have, stands in another place."""

    owner: str
    attribute: str


@dataclass(frozen=True)
class SwiGLUPart:
    """The feed-forward of `owner` is `down(silu(gate(x)) * up(x))`; the three are dotted attribute paths.

    Where the hidden width changes, the proof compares on the units that both sides have.

    A warm start is promised where there is a `sharpness` k: with `gate = k * first product`, `up` of weight 0 and bias
    1/k, each hidden unit differs from the old `activation` (ReLU, GELU or tanh GELU) by at most `bound`.
    """

    owner: str
    gate: str
    up: str
    down: str
    activation: str = ""
    sharpness: float = 0.0
    bound: float = 0.0


@dataclass(frozen=True)
class DepthInitPart:
    """`attribute` of `owner` scales the initial values of `outputs` (paths below each block) by 1/sqrt(2 N).

    `blocks` is the attribute with the stack of N blocks, or a single block. `embeddings` start at std 0.02.
    """

    owner: str
    attribute: str
    blocks: str
    outputs: tuple[str, ...]
    embeddings: tuple[str, ...] = ()


Part = Union[RotaryPart, AlibiPart, NormPart, MovedNormPart, SwiGLUPart, DepthInitPart]


@dataclass(frozen=True)
class CachedDecoding:
    """`method` of `owner` takes `past_kv` and `use_cache`, and then computes only positions that are not cached yet.

    `sequences` are the parameters that hold the whole prefix, each with its axis of positions. With `use_cache=True`
    the result is (old result, cache), or, where the old one was a tuple, that tuple with the cache at its end. What
    comes out for the new positions equals what the whole prefix gives there.
    """

    owner: str
    method: str
    sequences: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class CachedGeneration:
    """`function`, "sample" or "GPT.generate", decodes with a cache, and gives the same tokens from the same seed."""

    function: str


@dataclass(frozen=True)
class Checkpointing:
    """`owner` runs the blocks in `attribute` under `gradient_checkpointing_enable()`, which changes no gradient."""

    owner: str
    attribute: str


Ability = Union[CachedDecoding, CachedGeneration, Checkpointing]


@dataclass(frozen=True)
class Claim:
    """What one site's change says of itself. The proof accepts nothing that no claim covers.

    Args:
        definitions: top-level names whose text may change; every other definition has to stay as it is.
        models: classes whose behaviour the change alters and that the proof therefore runs.
        off: what to switch off in the text before, so that only the change itself differs (promise `new`).
        parts: the new components, each of which the proof checks against its own reference.
        renamed: (class, old key, new key) of state-dict entries that changed their name.
        changes: invariants that the change gives up by intent, with the reason, printed as CHANGED.
        abilities: what the text can do after the change and could not before; the proof tries it.
        parameters: (function or "Class.method", names of parameters with defaults that it gains at its end).
        bases: (class, base that it gains).
        dropped: (class, attribute that it loses), with all that its state held.
        inside: definitions that only run inside of the models, as they take functions, which no probe can make up.
    """

    definitions: tuple[str, ...]
    models: tuple[str, ...]
    off: tuple[Swap, ...] = ()
    parts: tuple[Part, ...] = ()
    renamed: tuple[tuple[str, str, str], ...] = ()
    changes: tuple[tuple[str, str], ...] = ()
    abilities: tuple[Ability, ...] = ()
    parameters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bases: tuple[tuple[str, str], ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    inside: tuple[str, ...] = ()


# --- what to do ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """A change of the statement or expression at `node`, a node of `definition.tree`.

    `change` gets the LibCST node as it is after all edits inside it, and gives back what shall stand there.
    """

    definition: Definition
    node: ast.AST
    change: Callable[[cst.CSTNode], cst.CSTNode]


@dataclass(frozen=True)
class Replace:
    """`code` instead of a statement (then: one or more statements) or of an expression.

    A statement keeps the comments above it and, on its last line, the comment behind it.
    """

    definition: Definition
    node: ast.AST
    code: str


@dataclass(frozen=True)
class Remove:
    """The statement goes; its comments move to the statement that is edited beside it. An empty body gets `pass`."""

    definition: Definition
    node: ast.stmt


@dataclass(frozen=True)
class Insert:
    """Statements `code` directly before or after a statement, or at the end of a function (`side` "end")."""

    definition: Definition
    node: ast.stmt
    code: str
    side: str = "after"


@dataclass(frozen=True)
class Guard:
    """`code` where the condition `test` holds, and where not the statements from `node` to `last`, as they stand.

    Those in `first` are needed either way, and come before the condition.
    """

    definition: Definition
    node: ast.stmt
    last: ast.stmt
    test: str
    code: str
    first: tuple[ast.stmt, ...] = ()


@dataclass(frozen=True)
class Argument:
    """One more argument, such as `past_kv=past_kv`, at the end of the call `node`."""

    definition: Definition
    node: ast.Call
    code: str


@dataclass(frozen=True)
class Withdraw:
    """The keyword argument `name` leaves the call `node`."""

    definition: Definition
    node: ast.Call
    name: str


@dataclass(frozen=True)
class Parameter:
    """One more parameter with a default, such as `use_cache: bool = False`, at the end of those of a function."""

    definition: Definition
    node: ast.FunctionDef | ast.AsyncFunctionDef
    code: str


@dataclass(frozen=True)
class Import:
    """`from module import name`, wherever the file keeps its imports; without a name `import module`."""

    module: str
    name: str = ""


AnyEdit = Union[Edit, Replace, Remove, Insert, Guard, Argument, Withdraw, Parameter, Import]


if TYPE_CHECKING or "libcst.codemod" not in sys.modules:

    class _Command:
        """Loading LibCST's codemod driver takes longer than a whole `--check`, so it is not our base by default."""

        def __init__(self, context: Any = None) -> None:
            self.context = context

else:
    # `python -m libcst.tool codemod codemods.NAME.CLASS` is what loads us: be one of its commands.
    from libcst.codemod import CodemodCommand as _Command


class Codemod(_Command):
    """Base of all codemods; a subclass in `codemods/` is found by the registry without being listed anywhere.

    Attributes:
        phase, promise: see `Phase` and `Promise`.
        rationale: why, in one printed sentence.
        reference: the paper or specification.
        after: names of codemods of the same phase that have to run first.
        choice: (option, value) for codemods of which the user chooses one, such as ("positions", "alibi").
        refusals: {code: what it means}; each code has a fixture.
        formula: the mathematics, in a line or a few.

    `migrate explain NAME` also shows what the codemod makes of `examples/NAME.txt` beside its module, a small file.
    """

    phase: ClassVar[Phase]
    promise: ClassVar[Promise]
    rationale: ClassVar[str]
    reference: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    choice: ClassVar[tuple[str, str] | None] = None
    refusals: ClassVar[Mapping[str, str]] = {}
    formula: ClassVar[str] = ""
    DESCRIPTION: ClassVar[str] = "Migrates PyTorch transformers; see the codemod's rationale."

    def __init_subclass__(cls) -> None:
        cls.DESCRIPTION = cls.rationale

    def __init__(self, context: Any = None) -> None:
        super().__init__(context)

    def transform_module_impl(self, tree: cst.Module) -> cst.Module:
        """This codemod alone, as a LibCST command: no proof, no report."""
        from migrator.rewrite.command import transformed

        return transformed(type(self), tree)

    def find(self, index: FileIndex) -> Iterator[Finding]:
        """All places of the file that this codemod has something to say about."""
        raise NotImplementedError

    def rewrite(self, site: Site) -> Iterator[AnyEdit]:
        """The edits of one site: all of them are applied, or none. A codemod that only reports has none."""
        yield from ()
