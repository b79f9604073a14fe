"""Parts of layers whose sums and norms stand in several classes, in words of the class that owns the stack."""

from __future__ import annotations

import ast

from migrator.recognise.blocks import NORMS, linears
from migrator.recognise.inlining import Frame, Seen, callee, settle
from migrator.recognise.layers import Layer, made_by
from migrator.recognise.noise import behind_noise
from migrator.recognise.residuals import last_of_sequential
from migrator.recognise.stacks import Stack
from migrator.recognise.syntax import bind, stored_names


def layer_norm_source(stack: Stack) -> str | None:
    """The norm of the last sum, built from what the owner's `__init__` knows once the stack stands."""
    layer = stack.layer
    assert layer is not None
    norm = layer.sums[-1].norm
    made = made_by(norm) if norm is not None else None
    if norm is None or made is None or layer.info.index.resolve(made.func) not in NORMS:
        return None
    words = [("", _text(stack, _width(arg), norm.frame)) for arg in made.args]
    words += [(f"{k.arg}=", _text(stack, k.value, norm.frame)) for k in made.keywords]
    if any(text is None for _, text in words):
        return None
    return f"{ast.unparse(made.func)}({', '.join(prefix + text for prefix, text in words if text)})"


def layer_outputs(layer: Layer) -> tuple[str, ...] | None:
    """Paths below a layer of the weights whose products are added to the residual; None if one cannot be told."""
    found = [_last_weight(one.branch) for one in layer.sums]
    known = tuple(path for path in found if path is not None)
    if any(one.optional for one in layer.sums):
        return None  # the module may not be there either
    return known if len(known) == len(found) == len(set(known)) else None


def keeps_more(stack: Stack) -> bool:
    """Whether the loop over pairs does anything with what one of them gives but hand it on."""
    loop, result = stack.statement, stack.result
    if not isinstance(loop, ast.For) or stack.layer is None or stack.layer.pairs is None:
        return False
    others = [v for v in stack.flow.of("looped") if v.statement is loop and v is not result and not v.dormant]
    plain = all(_stores_a_name(statement) for statement in loop.body)
    return bool(others) or not plain


def _stores_a_name(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets = [statement.target] if isinstance(statement, ast.AugAssign) else targets
    return bool(targets) and all(isinstance(target, ast.Name) for target in targets)


def _width(node: ast.expr) -> ast.expr:
    """`dim` of `dim`, `(dim,)` and `[dim]`."""
    return node.elts[0] if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 1 else node


# --- in words of the owner -------------------------------------------------------------------------------------


class _Handed(ast.NodeTransformer):
    """Puts arguments in place of parameters; `failed` where one is not known."""

    def __init__(self, stack: Stack, frame: Frame) -> None:
        self.stack, self.frame, self.failed = stack, frame, False

    def visit_Name(self, node: ast.Name) -> ast.expr:
        said = _named(self.stack, node.id, self.frame)
        self.failed = self.failed or said is None
        return said if said is not None else node


def _text(stack: Stack, node: ast.expr, frame: Frame) -> str | None:
    if not any(isinstance(inner, ast.Name) for inner in ast.walk(node)):
        return frame.flow.definition.source(node)
    said = _said(stack, node, frame)
    return ast.unparse(said) if said is not None else None


def _said(stack: Stack, node: ast.expr, frame: Frame) -> ast.expr | None:
    """An expression of some `__init__` below the owner, as the owner has to write it."""
    if any(isinstance(inner, ast.Lambda | ast.ListComp | ast.GeneratorExp) for inner in ast.walk(node)):
        return None
    change = _Handed(stack, frame)
    copy = ast.parse(ast.unparse(node), mode="eval").body
    changed: ast.expr = change.visit(copy)
    return None if change.failed else changed


def _named(stack: Stack, name: str, frame: Frame) -> ast.expr | None:
    layer = stack.layer
    assert layer is not None
    if frame.outer is not None:
        handed = frame.built.get(name)
        return _said(stack, *handed) if handed is not None else None
    if layer.pairs is not None:  # the frame is that of the owner
        bound = {inner.id for inner in ast.walk(layer.pairs.statement) if isinstance(inner, ast.Name)
                 and isinstance(inner.ctx, ast.Store)}  # fmt: skip
        return None if name in bound else ast.Name(name, ast.Load())
    given = bind(layer.info.init_parameters, stack.component.call) or {}
    init = layer.info.methods.get("__init__")
    if name not in given or name in stored_names(init.body if init is not None else []):
        return None
    looped = {inner.id for inner in ast.walk(stack.component.value) if isinstance(inner, ast.Name)
              and isinstance(inner.ctx, ast.Store)}  # fmt: skip
    read = {inner.id for inner in ast.walk(given[name]) if isinstance(inner, ast.Name)}
    return None if looped & read else given[name]


# --- residual outputs ------------------------------------------------------------------------------------------


def _last_weight(seen: Seen) -> str | None:
    seen = settle(seen)
    while (inner := behind_noise(seen.frame.owner, seen.value)) is not seen.value:
        seen = settle(Seen(inner, seen.frame))
    runs = callee(seen) if seen.value.op in ("module", "call_local") else None
    if runs is None or runs.made is None or seen.frame.handed or runs.frame not in seen.frame.callers:
        return None  # what was handed in may be the same in all blocks
    name = seen.frame.index.resolve(runs.made.func)
    owner = seen.frame.owner
    if name == "torch.nn.Linear" and owner is not None:
        return f"{runs.path}.weight" if seen.value.data in linears(owner) else None
    if name == "torch.nn.Sequential":
        inside = last_of_sequential(seen.frame.index, runs.made)
        return f"{runs.path}.{inside}" if inside is not None else None
    known = {"runtime.SwiGLU": "down.weight", "torch.nn.MultiheadAttention": "out_proj.weight"}
    return f"{runs.path}.{known[name]}" if name in known else None
