"""What gets longer, or is filled, while a loop runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.recognise.index import FileIndex
from migrator.recognise.slices import called_name, concatenated, crop_of, cropped_under_if, is_everything
from migrator.recognise.syntax import FunctionNode, stored_names, walk_statements

_CHANGES_A_MODEL = frozenset(
    {"backward", "step", "train", "parameters", "named_parameters", "load_state_dict", "requires_grad_", "apply"}
)


class Growth:
    """One loop: `body` are all statements in it, `steps` those that each step runs."""

    def __init__(self, index: FileIndex, loop: ast.For | ast.While) -> None:
        self.index, self.loop = index, loop
        self.body = list(walk_statements(loop.body))
        self.steps = list(_unconditional(loop.body))

    def appended(self) -> dict[str, ast.Assign]:
        """Names that get longer: `idx = torch.cat((idx, new), dim=1)`."""
        found: dict[str, ast.Assign] = {}
        for statement in self.body:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                name = statement.targets[0]
                parts = concatenated(self.index, statement.value)
                if isinstance(name, ast.Name) and parts and ast.unparse(parts[0]) == name.id:
                    found[name.id] = statement
        return found

    def filled(self) -> dict[str, ast.Assign]:
        """Names that are written into: `tokens[:, t] = new`, with the number of the loop."""
        found: dict[str, ast.Assign] = {}
        for statement in self.body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if not isinstance(target, ast.Subscript) or self.column(target) is None:
                continue
            if isinstance(target.value, ast.Name) and isinstance(statement, ast.Assign):
                found[target.value.id] = statement
        return found

    def crops(self, grown: dict[str, ast.Assign]) -> dict[str, tuple[str, ast.expr]]:
        """Names for the last part of what grows: {name: (what grows, length of the part)}."""
        found: dict[str, tuple[str, ast.expr]] = {}
        for statement in self.steps:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                crop = crop_of(statement.value)
                if crop is not None and crop[0] in grown and crop[0] != statement.targets[0].id:
                    found[statement.targets[0].id] = crop
            chosen = cropped_under_if(statement)
            crop = crop_of(chosen[1]) if chosen is not None else None
            if chosen is not None and crop is not None and crop[0] in grown and crop[0] != chosen[0]:
                found[chosen[0]] = crop
        return found

    def column(self, node: ast.expr) -> int | None:
        """k of `x[:, t + k]` and `x[:, t + k, :]`, where t is the number of the loop."""
        items = node.slice.elts if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) else []
        if len(items) not in (2, 3) or not all(is_everything(item) for item in (items[0], *items[2:])):
            return None
        return self.ahead(items[1])

    def ahead(self, node: ast.expr | None) -> int | None:
        """k of `t + k`."""
        target = self.loop.target if isinstance(self.loop, ast.For) else None
        number = target.id if isinstance(target, ast.Name) else ""
        if isinstance(node, ast.Name) and node.id == number:
            return 0
        if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Name) and node.left.id == number:
            step = node.right.value if isinstance(node.right, ast.Constant) else None
            if isinstance(step, int) and isinstance(node.op, ast.Add | ast.Sub):
                return step if isinstance(node.op, ast.Add) else -step
        return None

    # --- what else goes on ------------------------------------------------------------------------------------

    def are_read(self, function: FunctionNode, names: set[str]) -> bool:
        """Whether one of the names is read in the loop or after it."""
        return any(
            isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load)
            for node in ast.walk(function)
            if getattr(node, "lineno", 0) >= self.loop.lineno
        )

    def change_of_model(self, call: ast.Call) -> ast.AST | None:
        """A statement of the loop after which the model may compute something else."""
        root = call.func
        while isinstance(root, ast.Attribute):
            root = root.value
        for statement in self.body:
            if isinstance(root, ast.Name) and root.id in stored_names([statement]) and not hasattr(statement, "body"):
                return statement
            changing = [n for n in ast.walk(statement) if called_name(n) in _CHANGES_A_MODEL]
            if changing:
                return changing[0]
        return None

    def recounts(self) -> bool:
        """Whether the loop assigns its own number."""
        target = self.loop.target if isinstance(self.loop, ast.For) else None
        return isinstance(target, ast.Name) and target.id != "_" and target.id in stored_names(self.loop.body)

    def shared_names(self, function: FunctionNode, name: str) -> set[str]:
        """Names that a view of `name`, or the whole of it, was given before the loop: `first = tokens[:, :2]`."""
        return {
            target.id
            for statement in walk_statements(function.body)
            if isinstance(statement, ast.Assign) and statement.lineno < self.loop.lineno
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id != name and _viewed(statement.value) == name
        }


def _viewed(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _unconditional(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that each step runs; `with torch.no_grad():` around some of them makes no difference."""
    for statement in body:
        if isinstance(statement, ast.With):
            yield from _unconditional(statement.body)
        else:
            yield statement
