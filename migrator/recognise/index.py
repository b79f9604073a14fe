"""What stands in one file: its top-level definitions, classes, imports and who uses whom.

The file is parsed once. A pass that changes a few definitions makes the next index from this one (`replaced`): only
what changed is parsed again, everything else, with what was found out about it, is shared.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from migrator.recognise.bindings import attribute_reads, bound_at_top, calls_of, globals_of, import_nodes
from migrator.recognise.syntax import (
    FunctionNode,
    first_parameter,
    imported_names,
    parameters,
    self_targets,
    split_lines,
    walk_statements,
)


@dataclass(eq=False)
class Definition:
    """A top-level statement of the file, with the text of its whole lines.

    `tree` keeps the line numbers it was parsed with; a line of the file is `node.lineno + shift`. `memo` holds what
    was read off the tree alone, and is shared by all indexes that the definition stands in. Where several files are
    read as one (`migrator.link`), `member` is the number of the one that it comes from.
    """

    name: str
    text: str
    tree: ast.stmt
    first_line: int
    shift: int
    memo: dict[Any, Any] = field(default_factory=dict)
    member: int = 0

    @property
    def nodes(self) -> list[ast.AST]:
        """All nodes of `tree`, walked once."""
        if "nodes" not in self.memo:
            self.memo["nodes"] = list(ast.walk(self.tree))
        return cast(list[ast.AST], self.memo["nodes"])

    @property
    def last_line(self) -> int:
        return self.first_line + len(split_lines(self.text)) - 1

    def line(self, node: ast.AST) -> int:
        """Line of `node` in the file."""
        line: int = getattr(node, "lineno", 1)
        return line + self.shift

    def line_in_text(self, node: ast.AST) -> int:
        """Line of `node` in `text`, from 1."""
        return self.line(node) - self.first_line + 1

    def source(self, node: ast.expr | ast.stmt) -> str:
        """The source of `node`, as it stands in the file."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        first, last = self.line_in_text(node) - 1, node.end_lineno + self.shift - self.first_line
        lines = [line.encode() for line in split_lines(self.text)[first : last + 1]]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode()

    def moved(self, lines: int, member: int | None = None) -> Definition:
        """The same definition, `lines` further down; what is known of it stays known."""
        member = self.member if member is None else member
        if not lines and member == self.member:
            return self
        first, shift = self.first_line + lines, self.shift + lines
        return Definition(self.name, self.text, self.tree, first, shift, self.memo, member)


@dataclass(eq=False)
class ClassInfo:
    """A top-level class: its methods and the attributes that `__init__` gives to `self`."""

    name: str
    node: ast.ClassDef
    definition: Definition
    index: FileIndex

    @cached_property
    def methods(self) -> dict[str, FunctionNode]:
        return {item.name: item for item in self.node.body if isinstance(item, FunctionNode)}

    @cached_property
    def bases(self) -> tuple[str, ...]:
        return tuple(self.index.resolve(base) or "" for base in self.node.bases)

    @property
    def is_module(self) -> bool:
        """Whether it is an `nn.Module`, as far as this file shows."""
        return self.derives_from("torch.nn.Module", "torch.nn.modules.module.Module")

    def derives_from(self, *names: str) -> bool:
        """Whether one of these dotted names is among the bases, or the bases of bases in this file."""
        return any(
            base in names
            or (base in self.index.classes and base != self.name and self.index.classes[base].derives_from(*names))
            for base in self.bases
        )

    @cached_property
    def lineage(self) -> list[ClassInfo]:
        """The class and the classes of this file that it derives from."""
        found = [self]
        for info in found:
            above = (self.index.classes[base] for base in info.bases if base in self.index.classes)
            found += [base for base in above if base not in found]
        return found

    @cached_property
    def init_parameters(self) -> dict[str, ast.expr | None]:
        """Parameters of `__init__` after `self`, in order, with their defaults."""
        init = self.methods.get("__init__")
        return parameters(init) if init else {}

    @cached_property
    def attributes(self) -> dict[str, list[Assignment]]:
        """Every `self.name = value` of `__init__`, by name, in order."""
        init = self.methods.get("__init__")
        found: dict[str, list[Assignment]] = {}
        for statement in walk_statements(init.body if init else []):
            for name, value in self_targets(statement, first_parameter(init)):
                found.setdefault(name, []).append(Assignment(name, value, statement))
        return found

    def attribute(self, name: str) -> ast.expr | None:
        """The value of an attribute that `__init__` assigns exactly once; `a.b` is item b of the nn.ModuleDict a."""
        assigned = self.attributes.get(name, [])
        if not assigned and "." in name:
            return self.items_of(name.partition(".")[0]).get(name.partition(".")[2])
        return assigned[0].value if len(assigned) == 1 else None

    def called(self, name: str) -> ast.expr | None:
        """What the attribute is wherever it can be called: `nn.Dropout(p)`, though a branch of `__init__` sets None."""
        values = [assigned.value for assigned in self.attributes.get(name, [])]
        made = [value for value in values if not (isinstance(value, ast.Constant) and value.value is None)]
        return made[0] if len(made) == 1 and len(values) > 1 else self.attribute(name)

    def items_of(self, name: str) -> dict[str, ast.expr]:
        """What the attribute `name` holds by name: `nn.ModuleDict(dict(h=...))` or `nn.ModuleDict({"h": ...})`."""
        value = self.attribute(name)
        if not isinstance(value, ast.Call) or self.index.resolve(value.func) != "torch.nn.ModuleDict":
            return {}
        inner = value.args[0] if len(value.args) == 1 else None
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "dict":
            return {k.arg: k.value for k in inner.keywords if k.arg and not inner.args}
        if isinstance(inner, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in inner.keys]
            return {key: item for key, item in zip(keys, inner.values, strict=True) if isinstance(key, str)}
        return {}

    @cached_property
    def stores_outside_init(self) -> set[str]:
        """Attributes of `self` that other methods assign."""
        names: set[str] = set()
        for method in self.methods.values():
            if method.name != "__init__":
                for statement in walk_statements(method.body):
                    names.update(name for name, _ in self_targets(statement, first_parameter(method)))
        return names


@dataclass(frozen=True, eq=False)
class Assignment:
    name: str
    value: ast.expr
    statement: ast.stmt


class FileIndex:
    """Index of one file. Raises SyntaxError, as `ast.parse` does, for text that is no Python."""

    def __init__(self, source: str, definitions: tuple[Definition, ...] | None = None) -> None:
        self.source = source
        self.definitions = definitions if definitions is not None else _definitions(source)
        self.memo: dict[Any, Any] = {}

    # --- names ------------------------------------------------------------------------------------------------

    @cached_property
    def imports(self) -> dict[str, str]:
        """Local name -> dotted name, for every import anywhere at module level, `try` and `if` included."""
        table: dict[str, str] = {}
        for definition in self.definitions:
            for node in import_nodes(definition):
                table.update(imported_names(node))
        return table

    def resolve(self, node: ast.expr) -> str | None:
        """Dotted name that an expression such as `F.relu` stands for, or None."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        root = node.id
        if root in self.shadowed:
            alias = self.constants.get(root)  # `nn = torch.nn`
            if names and isinstance(alias, ast.Attribute) and root not in self.imports:
                root = self.resolve(alias) or root
        else:
            root = self.imports.get(root, root)
        return canonical(".".join([root, *reversed(names)]))

    @cached_property
    def shadowed(self) -> set[str]:
        """Names that the file binds at module level by anything but an import."""
        return {name for definition in self.definitions for name in bound_at_top(definition)}

    # --- definitions ------------------------------------------------------------------------------------------

    @cached_property
    def classes(self) -> dict[str, ClassInfo]:
        """Top-level classes; of two with one name the last, which is what the name means once the file is loaded."""
        return {
            d.name: ClassInfo(d.name, d.tree, d, self) for d in self.definitions if isinstance(d.tree, ast.ClassDef)
        }

    @cached_property
    def modules(self) -> dict[str, ClassInfo]:
        return {name: info for name, info in self.classes.items() if info.is_module}

    @cached_property
    def functions(self) -> dict[str, Definition]:
        return {d.name: d for d in self.definitions if isinstance(d.tree, FunctionNode)}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Module-level names that are assigned exactly once, and by nothing else."""
        table: dict[str, list[ast.expr]] = {}
        bound = Counter(name for definition in self.definitions for name in bound_at_top(definition))
        bound.update(name for definition in self.definitions for name in globals_of(definition))
        for definition in self.definitions:
            if isinstance(definition.tree, ast.Assign):
                for target in definition.tree.targets:
                    if isinstance(target, ast.Name):
                        table.setdefault(target.id, []).append(definition.tree.value)
        return {name: values[0] for name, values in table.items() if len(values) == 1 and bound[name] == 1}

    @cached_property
    def subclasses(self) -> dict[str, list[str]]:
        """Class name -> names of the classes of this file that derive from it directly."""
        table: dict[str, list[str]] = {}
        for info in self.classes.values():
            for base in info.bases:
                table.setdefault(base, []).append(info.name)
        return table

    @cached_property
    def calls(self) -> dict[str, list[CallSite]]:
        """Calls by resolved name of the callee, for callees that are classes of this file."""
        table: dict[str, list[CallSite]] = {}
        for definition in self.definitions:
            for name, call, scope in calls_of(definition):
                if name in self.classes:
                    table.setdefault(name, []).append(CallSite(definition, call, scope))
        return table

    @cached_property
    def attribute_reads(self) -> Mapping[str, int]:
        """How often each attribute name is read anywhere in the file (`anything.name`)."""
        total: dict[str, int] = {}
        for definition in self.definitions:
            for name, count in attribute_reads(definition).items():
                total[name] = total.get(name, 0) + count
        return total

    # --- change -----------------------------------------------------------------------------------------------

    def replaced(self, texts: Mapping[int, str]) -> FileIndex:
        """The index after the definitions at these positions got new text."""
        lines = split_lines(self.source)
        pieces: list[str] = []
        definitions: list[Definition] = []
        cursor, moved = 0, 0
        for position, definition in enumerate(self.definitions):
            if position not in texts:
                definitions.append(definition.moved(moved))
                continue
            start, end = definition.first_line - 1, definition.last_line
            pieces += [*lines[cursor:start], texts[position]]
            definitions.extend(parsed(texts[position], definition.first_line + moved, definition.member))
            moved += len(split_lines(texts[position])) - (end - start)
            cursor = end
        pieces.extend(lines[cursor:])
        return FileIndex("".join(pieces), tuple(definitions))


@dataclass(frozen=True, eq=False)
class CallSite:
    """`call` stands in `definition`; `scope` are the functions around it, outermost first."""

    definition: Definition
    call: ast.Call
    scope: tuple[FunctionNode, ...]


_ALIASES = {
    "torch.nn.functional": "torch.nn.functional",
    "torch.special.softmax": "torch.softmax",
    "numpy.pi": "math.pi",
    "torch.pi": "math.pi",
    "numpy.sqrt": "math.sqrt",
}


def canonical(name: str) -> str:
    """One spelling for names that mean the same."""
    return _ALIASES.get(name, name)


def _definitions(source: str) -> tuple[Definition, ...]:
    tree = ast.parse(source)
    lines = split_lines(source)
    result: list[Definition] = []
    for node in tree.body:
        first, last = _first_line(node), node.end_lineno or node.lineno
        result.append(Definition(_name(node), "".join(lines[first - 1 : last]), node, first, 0))
    return tuple(result)


def parsed(text: str, first_line: int, member: int = 0) -> list[Definition]:
    """The definitions of a text that begins at `first_line` of the file."""
    tree = ast.parse(text)
    lines = split_lines(text)
    return [
        Definition(
            _name(node),
            "".join(lines[_first_line(node) - 1 : node.end_lineno]),
            node,
            first_line + _first_line(node) - 1,
            first_line - 1,
            member=member,
        )
        for node in tree.body
    ]


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _name(node: ast.stmt) -> str:
    return str(getattr(node, "name", ""))
