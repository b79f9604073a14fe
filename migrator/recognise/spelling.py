"""How generated code is spelled in a given file: names that do not collide, calls that fit the line."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from migrator.codemod import Import
from migrator.recognise.index import Definition, FileIndex
from migrator.recognise.syntax import split_lines

LINE_LIMIT = 100
# A comment that tells a tool about the very line that it stands on; elsewhere it would mean something else.
INSTRUCTION = re.compile(r"#\s*(noqa|nosec|type:|pragma:|pylint:|pyright:|mypy:|ruff:|flake8:|fmt:|isort:|yapf:)")


def runtime_name(index: FileIndex, name: str) -> tuple[str, Import]:
    """What to call a runtime object in this file, and the import that this needs.

    `attention`, or `runtime.attention` where the file uses that word for something of its own, or another name still.
    """
    for local, dotted in index.imports.items():
        if dotted == f"runtime.{name}" and local not in index.shadowed:
            return local, Import("runtime", name if local == name else f"{name} as {local}")
    taken = bound_names(index)
    if name not in taken:
        return name, Import("runtime", name)
    if "runtime" not in taken or index.imports.get("runtime") == "runtime":
        return f"runtime.{name}", Import("runtime")
    alias = next(f"runtime_{name}{'_' * n}" for n in range(9) if f"runtime_{name}{'_' * n}" not in taken)
    return alias, Import("runtime", f"{name} as {alias}")


def bound_names(index: FileIndex) -> set[str]:
    """Every name that anything in the file binds, at any level."""
    names: set[str] = set()
    for definition in index.definitions:
        names |= bound_in(definition)
    return names


def free_name(index: FileIndex, definition: Definition, *wishes: str) -> str:
    """The first of the wishes that is neither bound inside the definition nor at module level."""
    module = {*index.imports, *index.classes, *index.functions, *index.constants}
    taken = bound_in(definition) | module
    return next((name for name in wishes if name not in taken), f"{wishes[-1]}_")


def free_local(index: FileIndex, function: ast.AST, *wishes: str) -> str:
    """The first of the wishes that nothing inside a function, nor the module, means by that name."""
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    used |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    used |= {*index.imports, *index.classes, *index.functions, *index.constants}
    return next((name for name in wishes if name not in used), f"{wishes[-1]}_")


def call(
    function: str, arguments: list[str], *, prefix: str = "", suffix: str = "", indent: int = 8,
    behind: Sequence[str] = (),
) -> str:  # fmt: skip
    """`prefix function(arguments) suffix` in as few lines as fit: one, the arguments on their own line, or one each.

    `behind` has a comment for each argument, or "".
    """
    joined = ", ".join(arguments)
    line = f"{prefix}{function}({joined}){suffix}"
    if indent + len(line) <= LINE_LIMIT and not any(behind):
        return line
    if indent + 4 + len(joined) <= LINE_LIMIT and not any(behind):
        return f"{prefix}{function}(\n    {joined}\n){suffix}"
    body = "".join(f"    {one},  {note}".rstrip() + "\n" for one, note in zip_longest(arguments, behind, fillvalue=""))
    return f"{prefix}{function}(\n{body}){suffix}"


def comments_above(definition: Definition, statement: ast.stmt) -> list[str]:
    """The lines of comment that stand directly above a statement."""
    lines = split_lines(definition.text)
    last = first = definition.line_in_text(statement) - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return [line.strip() for line in lines[first:last]]


def comment_behind(definition: Definition, statement: ast.stmt) -> str:
    """The comment on the last line of a statement, or ""; an instruction to a tool is none."""
    assert statement.end_lineno is not None
    line = split_lines(definition.text)[statement.end_lineno + definition.shift - definition.first_line]
    rest = line.encode()[statement.end_col_offset :].decode().strip()
    return rest if rest.startswith("#") and not INSTRUCTION.match(rest) else ""


def parenthesised(text: str, *bare: type[ast.expr]) -> str:
    """An expression in parentheses, unless it binds as tightly as a name or is of a kind that may stay `bare`."""
    node = ast.parse(f"({text}\n)", mode="eval").body
    tight = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, *bare)
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return text if isinstance(node, tight) and not negated else f"({text})"


def respelt(definition: Definition, statement: ast.stmt, texts: Mapping[ast.expr, str]) -> str:
    """A statement as it stands in the file, with other text for some expressions in it."""
    lines = [line.encode() for line in split_lines(definition.source(statement))]
    for node, text in sorted(texts.items(), key=lambda item: (item[0].lineno, item[0].col_offset), reverse=True):
        assert node.end_lineno is not None and node.end_col_offset is not None
        first, last = node.lineno - statement.lineno, node.end_lineno - statement.lineno
        start = node.col_offset - (statement.col_offset if not first else 0)
        end = node.end_col_offset - (statement.col_offset if not last else 0)
        lines[first : last + 1] = [lines[first][:start] + text.encode() + lines[last][end:]]
    return b"".join(lines).decode()


def bound_in(definition: Definition) -> set[str]:
    """Every name that is bound inside a definition, its own name included."""
    if "bound" not in definition.memo:
        names: set[str] = set()
        for node in definition.nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.alias):
                names.add((node.asname or node.name).split(".")[0])
        definition.memo["bound"] = names
    bound: set[str] = definition.memo["bound"]
    return bound
