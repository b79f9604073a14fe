"""Functions of the file that hide later keys in place: `hide_(scores, float("-inf"))`, by the indices of a triangle."""

from __future__ import annotations

import ast

from migrator.recognise.index import FileIndex
from migrator.recognise.values import Value


def fill_of_hidden_future(index: FileIndex, call: Value) -> Value | None:
    """What a call writes over the scores of all later keys, if its function does that and nothing else."""
    helper = index.functions.get(str(call.data))
    tree = helper.tree if helper is not None else None
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list or not call.args or not tree.args.args:
        return None
    if sum(one.name == tree.name for one in index.definitions) > 1:
        return None
    given = _given(tree, call)
    return _Body(index, tree, given).fill() if given is not None else None


def _given(tree: ast.FunctionDef, call: Value) -> dict[str, Value] | None:
    """What each parameter stands for, as far as it is handed in or has a plain default."""
    spec = tree.args
    names = [arg.arg for arg in spec.args]
    if spec.vararg or spec.kwarg or spec.kwonlyargs or spec.posonlyargs or len(call.args) > len(names):
        return None
    defaults = zip(reversed(names), reversed(spec.defaults), strict=False)
    plain = {name: value for name, node in defaults if (value := _constant(node)) is not None}
    return {**plain, **dict(zip(names, call.args, strict=False)), **call.keywords}


def _constant(node: ast.expr) -> Value | None:
    """`1`, `True`, `-1e9` and `float("-inf")`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "float" and len(node.args) == 1:
        text = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        return Value("const", data=float(text)) if text in ("-inf", "inf") else None
    try:
        number = ast.literal_eval(node)
    except ValueError:
        return None
    return Value("const", data=number) if isinstance(number, bool | int | float) else None


class _Body:
    """`h, w = x.size(-2), x.size(-1); i = torch.triu_indices(h, w, offset=1); x[..., i[0], i[1]] = fill`."""

    def __init__(self, index: FileIndex, tree: ast.FunctionDef, given: dict[str, Value]) -> None:
        self.index, self.given = index, given
        self.scores = tree.args.args[0].arg
        self.body = [
            one for one in tree.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        ]

    def fill(self) -> Value | None:
        *before, store = self._without_return()
        assigned = [(ast.unparse(one.targets[0]), one.value) for one in before if isinstance(one, ast.Assign)]
        if len(assigned) != len(before) or not isinstance(store, ast.Assign) or not 0 < len(assigned) < 3:
            return None
        sizes = (
            self._sizes(*assigned[0]) if len(assigned) == 2 else [f"{self.scores}.size(-2)", f"{self.scores}.size(-1)"]
        )
        name, made = assigned[-1]
        hidden = f"{self.scores}[..., {name}[0], {name}[1]]"
        if not self._is_triangle(made, sizes) or ast.unparse(store.targets[0]) != hidden:
            return None
        return self.given.get(store.value.id) if isinstance(store.value, ast.Name) else _constant(store.value)

    def _without_return(self) -> list[ast.stmt]:
        last = self.body[-1]
        gives_back = isinstance(last, ast.Return) and last.value is not None and ast.unparse(last.value) == self.scores
        return self.body[:-1] if gives_back and len(self.body) > 1 else self.body

    def _sizes(self, names: str, made: ast.expr) -> list[str]:
        x = self.scores
        known = (
            f"({x}.size(-2), {x}.size(-1))",
            f"({x}.shape[-2], {x}.shape[-1])",
            f"{x}.shape[-2:]",
            f"{x}.size()[-2:]",
        )
        return names.strip("()").split(", ") if ast.unparse(made) in known else []

    def _is_triangle(self, made: ast.expr, sizes: list[str]) -> bool:
        if not isinstance(made, ast.Call) or self.index.resolve(made.func) != "torch.triu_indices":
            return False
        words = {keyword.arg: keyword.value for keyword in made.keywords}
        offset = made.args[2] if len(made.args) > 2 else words.pop("offset", None)
        plain = [ast.unparse(arg) for arg in made.args[:2]] == sizes and words.keys() <= {"device"}
        return plain and offset is not None and self._number(offset) == 1

    def _number(self, node: ast.expr) -> object:
        """A number of the source, one that is handed in, or the one that a flag chooses."""
        if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Name):
            flag = self.given.get(node.test.id)
            known = flag is not None and flag.op == "const"
            return self._number(node.body if flag is not None and flag.data else node.orelse) if known else None
        if isinstance(node, ast.Name) and node.id in self.given:
            return self.given[node.id].data if self.given[node.id].op == "const" else None
        return node.value if isinstance(node, ast.Constant) else None
