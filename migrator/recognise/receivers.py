"""Which class of the file a call runs: of `self(x)`, `model(x)`, `decoder.get_logits(x)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.composition import components
from migrator.recognise.index import ClassInfo, FileIndex
from migrator.recognise.syntax import FunctionNode, first_parameter, walk_statements

_DEPTH = 6


class Receivers:
    """The objects that a function knows by name, as far as annotations and assignments tell their classes."""

    def __init__(self, index: FileIndex, owner: ClassInfo | None, function: FunctionNode) -> None:
        self.index, self.owner, self.function = index, owner, function

    def called(self, call: ast.Call) -> tuple[ClassInfo | None, str]:
        """(class, method) of a call; `model(x)` runs `forward`."""
        info = self.of(call.func)
        if info is not None:
            return info, "forward"
        if isinstance(call.func, ast.Attribute):
            info = self.of(call.func.value)
            if info is not None and call.func.attr in info.methods:
                return info, call.func.attr
        return None, ""

    def of(self, node: ast.expr, depth: int = _DEPTH) -> ClassInfo | None:
        """The class of the object that an expression is."""
        if depth == 0:
            return None
        if isinstance(node, ast.Name):
            return self._named(node.id, depth)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self.index.modules.get(node.func.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            fluent = node.func.attr in ("to", "eval", "train", "cuda", "cpu", "half", "float", "double")
            return self.of(node.func.value, depth - 1) if fluent else None
        if isinstance(node, ast.Attribute):
            holder = self.of(node.value, depth - 1)
            held = [c for c in components(holder) if c.attribute == node.attr] if holder is not None else []
            single = len(held) == 1 and held[0].kind == "single"
            return self.index.modules.get(held[0].name) if single else None
        return None

    def _named(self, name: str, depth: int) -> ClassInfo | None:
        if self.owner is not None and name == first_parameter(self.function):
            return self.owner
        spec = self.function.args
        for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]:
            if arg.arg == name:
                return self._parameter(arg) if not self._assigned(name) else None
        assigned = self._assigned(name)
        if assigned:
            return self.of(assigned[0], depth - 1) if len(assigned) == 1 else None
        constant = self.index.constants.get(name)
        return self.of(constant, depth - 1) if constant is not None else None

    def _parameter(self, arg: ast.arg) -> ClassInfo | None:
        """By its annotation; without one, an argument that is called `model` is the one model of the file."""
        if arg.annotation is not None:
            return self._annotated(arg.annotation)
        models = top_models(self.index)
        if any(isinstance(given, ast.Lambda) or self._is_built(given) for given in self._handed_in(arg.arg)):
            return None
        return models[0] if len(models) == 1 and arg.arg in ("model", "net", "gpt", "lm", "transformer") else None

    def _is_built(self, node: ast.expr) -> bool:
        """Whether an expression makes something that is no class of the file: `nn.DataParallel(model)`."""
        return isinstance(node, ast.Call) and self.of(node) is None

    def _handed_in(self, name: str) -> Iterator[ast.expr]:
        """What the calls of the function in this file give to a parameter."""
        for definition in self.index.definitions if self.owner is None else ():
            for node in ast.walk(definition.tree) if self.function.name in definition.text else ():
                called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                if called and isinstance(node, ast.Call) and ast.unparse(node.func) == self.function.name:
                    spec = self.function.args
                    names = [arg.arg for arg in (*spec.posonlyargs, *spec.args)]
                    yield from (given for known, given in zip(names, node.args, strict=False) if known == name)
                    yield from (keyword.value for keyword in node.keywords if keyword.arg == name)

    def _annotated(self, node: ast.expr | None) -> ClassInfo | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.index.modules.get(node.value)
        return self.index.modules.get(node.id) if isinstance(node, ast.Name) else None

    def _assigned(self, name: str) -> list[ast.expr]:
        """What is assigned to a name anywhere in the function."""
        return [
            statement.value
            for statement in walk_statements(self.function.body)
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id == name
        ]


def top_models(index: FileIndex) -> list[ClassInfo]:
    """The modules of a file that no other class of it holds or derives from."""
    held = {component.name for info in index.modules.values() for component in components(info)}
    return [info for name, info in index.modules.items() if name not in held and not index.subclasses.get(name)]
