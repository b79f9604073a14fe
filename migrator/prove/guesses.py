"""Ways to construct a class, read off the text: call sites, defaults, configuration classes, parameter names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from migrator.recognise.index import CallSite, ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, walk_statements

Build = dict[str, Any]
_SMALL, _LARGE = 16, 500
_NOT_A_SIZE = re.compile(r"vocab|n_?tokens?$|num_emb|classes|pad|seed")
_CONFIGS = re.compile(r"^(config|configuration|cfg|conf|args|opts?|hparams|hps|params)$")
_HEADS, _WIDTH = 4, 32
_COUNTED = re.compile(r"(^|_)n?_?heads?$|nhead|layers?$|depth|n_layer|blocks?$")


class _Spelled(str):
    """Source that stands for itself among values."""

    def __repr__(self) -> str:
        return str(self)


# First match wins; several values are tried one after the other.
_ROLES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (r"drop|^p$", (0.0,)),
    (r"(^|_)eps$|epsilon", (1e-5,)),
    (r"^(output|return|give)_", (False, True)),
    (r"activation|act_?fn?$|afn$|_act$", ("relu", "gelu")),
    (r"init\w*_range|std$", (0.02,)),
    (r"(sizes|dims|widths|hiddens|channels)$", ([_WIDTH, _WIDTH], _WIDTH)),
    (r"vocab|ntoken|n_tokens?$|num_tokens|num_embeddings|_size_(src|tgt)", (19,)),
    (r"kv_?(heads?|groups?)$|^n_?groups?$|num_groups$", (2, 1)),
    (r"dtype", (_Spelled("torch.get_default_dtype()"),)),
    (r"model_?type|pretrained|checkpoint|ckpt", (None,)),
    (r"(^|_)n?_?heads?$|nhead|num_heads|nb_heads|^h$", (_HEADS, 2)),
    (r"layers?$|depth|n_layer|blocks?$|^n$|num_enc|num_dec", (2, (2, 2))),
    (r"d_?k$|d_?v$|dim_?(head|qk|keys?|v)|head_(dim|size)|key_(dim|size)|d_head", (_WIDTH // _HEADS, _WIDTH)),
    (r"hidden|d_?ff|ffn|feed_?forward|inner|mlp|expan", (40, _WIDTH, 2)),
    (r"max_?len|block_?size|context|seq_?len|max_?pos|window|^t$|length", (32, 10000)),
    (r"(fmap|feature_?map|feat|grid|map)_?(size|shape|hw)", (8, (8, 8))),
    (r"classes|labels", (5,)),
    (r"pad", (0,)),
    (r"bias|causal|mask|use_|is_", (False, True)),
    (r"base|theta", (10000.0,)),
    (r"scale|gain|alpha|beta|temperature", (0.5,)),
    (r"device", ("cpu",)),
    (r".", (_WIDTH, 3 * _SMALL, 2)),
)


@dataclass(frozen=True)
class Guess:
    """One way to construct a class, small where possible, and the same at the size that the file itself uses."""

    build: Build
    full: Build
    source: str


def guesses(index: FileIndex, name: str) -> Iterator[Guess]:
    """Ways to construct the class `name`, best first."""
    for site in index.calls.get(name, []):
        yield from _from_site(index, name, site)
    info = index.classes.get(name)
    if info is None:
        return
    yield from _from_config(index, info)
    yield from _from_keys(index, info)
    yield from _from_names(info)


# --- call sites -----------------------------------------------------------------------------------------------------


def _from_site(index: FileIndex, name: str, site: CallSite) -> Iterator[Guess]:
    source = f"the call in line {site.definition.line(site.call)}"
    full = _placed(site)
    for shrink in (_by_rank, _halved, None):
        numbers = sorted(_sizes(full))
        changed = {} if shrink is None else shrink(numbers)
        if shrink is None or changed:
            yield Guess(_build(name, full, changed), _build(name, full, {}), source)


def _placed(site: CallSite) -> tuple[list[ast.stmt], ast.Call]:
    """The call, and the assignments of the scopes around it that its arguments need, in order."""
    assigned: dict[str, ast.stmt] = {}
    tree = site.definition.tree
    bodies = [] if isinstance(tree, FunctionNode | ast.ClassDef) else [[tree]]
    for function in site.scope:
        for parameter, default in _defaults(function):
            assigned[parameter] = ast.Assign([ast.Name(parameter, ast.Store())], default, lineno=function.lineno)
        bodies.append(function.body)
    for body in bodies:
        for statement in walk_statements(body):
            if statement.lineno < site.call.lineno:
                for target in _targets(statement):
                    assigned[target] = statement
    needed: list[ast.stmt] = []
    _require(site.call, assigned, needed)
    return needed, site.call


def _defaults(function: FunctionNode) -> Iterator[tuple[str, ast.expr]]:
    spec = function.args
    names = [*spec.posonlyargs, *spec.args]
    yield from zip((arg.arg for arg in names[len(names) - len(spec.defaults) :]), spec.defaults, strict=True)
    yield from ((arg.arg, value) for arg, value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if value)


def _targets(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif (
        isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name)
    ):
        yield statement.target.id


def _require(node: ast.AST, assigned: dict[str, ast.stmt], needed: list[ast.stmt]) -> None:
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load) and child.id in assigned:
            statement = assigned[child.id]
            if statement not in needed and statement is not node:
                rest = {name: other for name, other in assigned.items() if other is not statement}
                _require(statement, rest, needed)
                if statement not in needed:
                    needed.append(statement)


def _sizes(placed: tuple[list[ast.stmt], ast.Call]) -> set[int]:
    found: set[int] = set()
    for node in (*placed[0], placed[1]):
        for child, _ in _literals(node):
            found.add(child.value)  # type: ignore[arg-type]
    return found


def _literals(node: ast.AST, name: str = "") -> Iterator[tuple[ast.Constant, str]]:
    """Integers that may be sizes, with the name that they are given to."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
    elif isinstance(node, ast.keyword):
        name = node.arg or ""
    if isinstance(node, ast.Constant) and type(node.value) is int and _is_size(name, node.value):
        yield node, name
    for child in ast.iter_child_nodes(node):
        yield from _literals(child, name)


def _is_size(name: str, value: int) -> bool:
    """Whether a number may be made smaller. A small vocabulary may be that of a table in the file."""
    return value >= _SMALL and (not _NOT_A_SIZE.search(name) or value >= _LARGE)


def _by_rank(numbers: list[int]) -> dict[int, int]:
    """Small sizes that stay different from each other: 16, 32, 48, ..."""
    return {n: min(n, _SMALL * (rank + 1)) for rank, n in enumerate(numbers) if n > _SMALL * (rank + 1)}


def _halved(numbers: list[int]) -> dict[int, int]:
    """Small sizes that divide the old ones."""
    changed: dict[int, int] = {}
    for number in numbers:
        small = number
        while small > 2 * _SMALL and small % 2 == 0:
            small //= 2
        if small != number:
            changed[number] = small
    return changed


def _build(name: str, placed: tuple[list[ast.stmt], ast.Call], changed: dict[int, int]) -> Build:
    setup = [_spelled(statement, changed) for statement in placed[0]]
    return {"cls": name, "setup": setup, "call": _spelled(placed[1], changed)}


def _spelled(node: ast.stmt | ast.expr, changed: dict[int, int]) -> str:
    if not changed:
        return ast.unparse(node)
    copy = ast.parse(ast.unparse(node))
    for literal, _ in list(_literals(copy)):
        assert isinstance(literal.value, int)
        literal.value = changed.get(literal.value, literal.value)
    return ast.unparse(copy)


# --- configuration classes, and names -------------------------------------------------------------------------------


def _from_config(index: FileIndex, info: ClassInfo) -> Iterator[Guess]:
    """`Model(Config())`, with the fields made small."""
    required = [(name, note) for name, default, note in _signature(info) if default is None]
    if len(required) != 1:
        return
    name, annotation = required[0]
    configs = [c for c in index.classes.values() if c.name == annotation or (_CONFIGS.match(name) and _is_dataclass(c))]
    for config in sorted(configs, key=lambda c: c.name != annotation):
        fields = {
            item.target.id: item.value
            for item in config.node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        numbers = {
            key: value.value for key, value in fields.items()
            if isinstance(value, ast.Constant) and type(value.value) is int and _is_size(key, value.value)
        }  # fmt: skip
        missing = [f"{key}={_role(key)[0]!r}" for key, value in fields.items() if value is None]
        full = {"cls": info.name, "setup": [], "call": f"{info.name}({config.name}({', '.join(missing)}))"}
        for shrink in (_by_rank, _halved):
            changed = shrink(sorted(set(numbers.values())))
            words = [f"{key}={changed.get(value, value)}" for key, value in numbers.items()]
            call = f"{info.name}({config.name}({', '.join([*missing, *words])}))"
            yield Guess({"cls": info.name, "setup": [], "call": call}, full, f"{config.name}'s defaults")
        yield Guess(full, full, f"{config.name}'s defaults")


def _from_keys(index: FileIndex, info: ClassInfo) -> Iterator[Guess]:
    """`Model({...})` and `Model(Namespace(...))`, with the keys and attributes that the file reads from it."""
    required = [(name, note) for name, default, note in _signature(info) if default is None]
    configs = [name for name, _ in required if _CONFIGS.match(name)]
    if len(configs) != 1:
        return
    nodes = [node for definition in index.definitions for node in ast.walk(definition.tree)]
    keys = {
        node.slice.value for node in nodes
        if isinstance(node, ast.Subscript) and _is_config(node.value)
        and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    }  # fmt: skip
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_config(node.value)} - {"get"}
    names = {name for name in names if not name.startswith("__")}
    inner = _nested(nodes)
    for found, spelled in ((keys, "dict"), (names, "types.SimpleNamespace")):
        for choice in _choices({name: inner.get(name) or _role(name) for name in sorted(found)}) if found else ():
            words = ", ".join(f"{key!r}: {value!r}" for key, value in choice.items())
            given = {name: repr(_role(name, note)[0]) for name, note in required}
            given[configs[0]] = f"{spelled}(**{{{words}}})"
            call = ", ".join(f"{name}={value}" for name, value in given.items())
            build = {"cls": info.name, "setup": ["import types"], "call": f"{info.name}({call})"}
            yield Guess(build, build, "what it reads from its configuration")


def _nested(nodes: list[ast.AST]) -> dict[str, tuple[Any, ...]]:
    """Parts of a configuration with keys or fields of their own: `config.decoder["heads"]`, `cfg["rope"]["base"]`."""
    keys: dict[str, set[str]] = {}
    fields: dict[str, set[str]] = {}
    for node in nodes:
        part = _part_of_config(node.value) if isinstance(node, ast.Subscript | ast.Attribute) else ""
        if part and isinstance(node, ast.Attribute):
            fields.setdefault(part, set()).add(node.attr)
        elif part and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            keys.setdefault(part, set()).add(str(node.slice.value))
    fields = {name: found for name, found in fields.items() if name not in keys and not found & {*dir(dict), *dir(str)}}
    spelled = [(name, "dict", found) for name, found in keys.items()]
    spelled += [(name, "types.SimpleNamespace", found) for name, found in fields.items()]
    return {
        name: (_Spelled(f"{kind}(**{{{', '.join(f'{key!r}: {_role(key)[0]!r}' for key in sorted(found))}}})"),)
        for name, kind, found in spelled
    }


def _part_of_config(node: ast.expr) -> str:
    """`decoder` of `config.decoder` and `config["decoder"]`."""
    if not isinstance(node, ast.Attribute | ast.Subscript) or not _is_config(node.value):
        return ""
    if isinstance(node, ast.Attribute):
        return node.attr
    return str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""


def _is_config(node: ast.expr) -> bool:
    """`config`, and `self.config`."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return _CONFIGS.match(name) is not None


def _is_dataclass(info: ClassInfo) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in info.node.decorator_list)


def _from_names(info: ClassInfo, depth: int = 3) -> Iterator[Guess]:
    """Values by the names of parameters: first small ones for all, then those for the required alone."""
    signature = _signature(info)
    options = {
        name: (() if _COUNTED.search(name) else _modules(info.index, name, note, depth)) or _role(name, note)
        for name, default, note in signature if default is None
    }  # fmt: skip
    shrunk = {
        name: _role(name, note) for name, default, note in signature
        if isinstance(default, ast.Constant) and type(default.value) is int
        and (default.value > 2 * _SMALL or (_COUNTED.search(name.lower()) and default.value > _HEADS))
    }  # fmt: skip
    absent = {
        name: _role(name, note) for name, default, note in signature
        if isinstance(default, ast.Constant) and default.value is None and type(_role(name, note)[0]) is int
    }  # fmt: skip
    tables = [table for table in ({**options, **shrunk}, options, {**options, **absent}) if table or not options]
    full = _named(info.name, {name: values[0] for name, values in options.items()})
    seen: set[str] = set()
    for table in tables:
        for choice in _choices(table):
            build = _named(info.name, choice)
            if build["call"] not in seen:
                seen.add(build["call"])
                yield Guess(build, full, "names of its parameters" if choice else "its defaults")


def _modules(index: FileIndex, name: str, annotation: str, depth: int) -> tuple[Any, ...]:
    """`BERT(...)` for a parameter `bert: BERT`, or one whose name is that of a class of the file."""
    plain = name.replace("_", "").lower()
    known = [info for cls, info in index.modules.items() if annotation == cls or plain == cls.replace("_", "").lower()]
    if depth == 0 or not known:
        return ()
    made = next(_from_names(known[0], depth - 1), None)
    return (_Spelled(made.build["call"]),) if made is not None else ()


def _choices(table: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """All first choices, then one second choice at a time, then all widths alike."""
    first = {name: values[0] for name, values in table.items()}
    yield first
    for name, values in table.items():
        for other in values[1:]:
            yield {**first, name: other}
    yield {
        name: _WIDTH if type(value) is int and value in (40, _WIDTH // _HEADS) else value
        for name, value in first.items()
    }


def _named(name: str, given: dict[str, Any]) -> Build:
    words = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return {"cls": name, "setup": [], "call": f"{name}({words})"}


def _signature(info: ClassInfo) -> list[tuple[str, ast.expr | None, str]]:
    """Name, default and annotation of each parameter of the constructor, the inherited one if there is no own."""
    seen: set[str] = set()
    found: ClassInfo | None = info
    while found is not None and "__init__" not in found.methods and found.name not in seen:
        seen.add(found.name)
        found = next((found.index.classes[base] for base in found.bases if base in found.index.classes), None)
    if found is None or "__init__" not in found.methods:
        return []
    spec = found.methods["__init__"].args
    notes = {
        arg.arg: ast.unparse(arg.annotation)
        for arg in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)
        if arg.annotation
    }
    return [(name, default, notes.get(name, "")) for name, default in found.init_parameters.items()]


def _role(name: str, annotation: str = "") -> tuple[Any, ...]:
    values = next(values for pattern, values in _ROLES if re.search(pattern, name.lower()))
    if annotation == "float" and type(values[0]) is int:
        return (float(values[0]), 10000.0)
    if annotation == "bool":
        return (False, True)
    return values
