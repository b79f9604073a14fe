"""How to say the width of a head in `__init__`."""

from __future__ import annotations

import ast

from migrator.recognise.anatomy import Attention
from migrator.recognise.index import ClassInfo
from migrator.recognise.shapes import Einsum, einsum_of, rank
from migrator.recognise.syntax import FunctionNode
from migrator.recognise.values import Value, strip

_FACTORIES = {f"torch.{name}" for name in ("randn", "rand", "zeros", "ones", "empty", "Tensor", "FloatTensor")}


def head_dim(found: Attention) -> ast.expr | None:
    """An expression of the owner's `__init__` for the last dimension of the queries."""
    return _dim(found.owner, found.q, -1) if found.owner is not None else None


def num_heads(found: Attention) -> ast.expr | None:
    """An expression of the owner's `__init__` for the number of heads, the third dimension from the end."""
    return _dim(found.owner, found.q, -3) if found.owner is not None else None


def _dim(owner: ClassInfo, value: Value, axis: int, depth: int = 8) -> ast.expr | None:
    """How `__init__` can say the size of a (negative) axis."""
    value = strip(value)
    if depth == 0:
        return None
    letters = einsum_of(value)
    if letters is not None:
        return _of_letter(owner, letters[0], letters[1], letters[0].output[axis : axis + 1 or None])
    if value.op in ("view", "reshape") and len(value.args) > -axis:
        rest = axis == -1 and value.args[-1].is_const(-1)
        return _rest(owner, value) if rest else _sayable(owner, value.args[axis])
    if value.op in ("transpose", "permute"):
        source = _source_axis(value, axis)
        return _dim(owner, value.args[0], source, depth - 1) if source is not None else None
    if value.op in ("mul", "div"):
        return _dim(owner, value.args[0], axis, depth - 1)
    if value.op == "module" and axis == -1:
        return _width_of(owner, value.data, "out_features", 1)
    parts = _taken_apart(value)
    if parts is not None:
        whole, removed = parts
        return _dim(owner, whole, axis if axis > removed else axis - 1, depth - 1)
    return None


def _rest(owner: ClassInfo, view: Value) -> ast.expr | None:
    """What -1 stands for in `self.query(x).view(B, T, self.num_heads, -1)`: the layer's width by the heads."""
    layer, *leading, heads, _ = view.args
    layer = strip(layer)
    if layer.op != "module" or not layer.args or len(leading) != 2:
        return None
    if not all(_is_size(size, layer.args[0], axis) for axis, size in enumerate(leading)):
        return None
    width, divisor = _width_of(owner, layer.data, "out_features", 1), _sayable(owner, heads)
    return ast.BinOp(width, ast.FloorDiv(), divisor) if width is not None and divisor is not None else None


def _is_size(size: Value, tensor: Value, axis: int) -> bool:
    """Whether a value is the size of this axis: T of `B, T, C = x.shape`, `x.size(1)`, `x.shape[1]`."""
    if size.op == "unpack" and size.args[0].op in ("shape", "size") and len(size.args[0].args) == 1:
        return size.data == axis and strip(size.args[0].args[0]) is strip(tensor)
    if size.op == "size" and (named := size.argument(1, "dim")) is not None:
        return named.is_const(axis) and strip(size.args[0]) is strip(tensor)
    item = size.data.value if size.op == "getitem" and isinstance(size.data, ast.Constant) else None
    return item == axis and size.args[0].op in ("shape", "size") and strip(size.args[0].args[0]) is strip(tensor)


def _taken_apart(value: Value) -> tuple[Value, int] | None:
    """(tensor, its (negative) axis that is gone) of `q` in `q, k, v = qkv.unbind(0)`, `qkv[0]`, or `q, k, v = qkv`."""
    if value.op == "getitem":
        single = isinstance(value.data, ast.Constant) and isinstance(value.data.value, int)
        whole, axis = (value.args[0], 0) if single else (None, 0)
    elif value.op == "unpack" and value.args[0].op == "unbind":
        given = value.args[0].argument(1, "dim")
        whole, axis = value.args[0].args[0], 0 if given is None else given.data
    else:
        whole, axis = (value.args[0], 0) if value.op == "unpack" else (None, 0)
    dims = rank(whole) if whole is not None else None
    if whole is None or dims is None or not isinstance(axis, int):
        return None
    return whole, axis - dims if axis >= 0 else axis


def _of_letter(owner: ClassInfo, equation: Einsum, operands: tuple[Value, ...], letter: str) -> ast.expr | None:
    for term, operand in zip(equation.operands, operands, strict=True):
        if letter and letter in term and operand.op == "attr":
            shape = parameter_shape(owner, operand.data)
            if shape is not None and len(shape) == len(term):
                return shape[term.index(letter)]
    return None


def _source_axis(value: Value, axis: int) -> int | None:
    """The (negative) axis of the operand that `axis` of a transpose or permute comes from."""
    axes = [arg.data for arg in value.args[1:]]
    if not all(isinstance(a, int) for a in axes):
        return None
    if value.op == "permute":
        dims = len(axes)
        return int(axes[axis % dims]) % dims - dims
    inner = strip(value.args[0])
    known = len(inner.args) - 1 if inner.op in ("view", "reshape") else None
    if known is None and any(a >= 0 for a in axes):
        return None
    one, other = (a - known if a >= 0 and known is not None else a for a in axes)
    return int({one: other, other: one}.get(axis, axis))


def parameter_shape(owner: ClassInfo, attribute: str) -> list[ast.expr] | None:
    """The shape of `self.attribute = nn.Parameter(torch.randn(...) ...)`, through a local helper if there is one."""
    value = owner.attribute(attribute)
    if not isinstance(value, ast.Call):
        return None
    if isinstance(value.func, ast.Name):
        helper = _local_function(owner, value.func.id)
        if helper is not None and helper.args.vararg is not None and _passes_shape(owner, helper):
            return value.args if not value.keywords else None
    if owner.index.resolve(value.func) == "torch.nn.Parameter" and value.args:
        return _factory_shape(owner, value.args[0])
    return None


def _factory_shape(owner: ClassInfo, node: ast.expr) -> list[ast.expr] | None:
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and owner.index.resolve(n.func) in _FACTORIES]
    return calls[0].args if len(calls) == 1 and calls[0].args else None


def _local_function(owner: ClassInfo, name: str) -> FunctionNode | None:
    init = owner.methods.get("__init__")
    body = init.body if init is not None else []
    return next((item for item in body if isinstance(item, FunctionNode) and item.name == name), None)


def _passes_shape(owner: ClassInfo, helper: FunctionNode) -> bool:
    """Whether the helper makes a tensor of just the shape it is given: `torch.randn(*d)`."""
    assert helper.args.vararg is not None
    for node in ast.walk(helper):
        if isinstance(node, ast.Call) and owner.index.resolve(node.func) in _FACTORIES and len(node.args) == 1:
            star = node.args[0]
            if isinstance(star, ast.Starred) and isinstance(star.value, ast.Name):
                return star.value.id == helper.args.vararg.arg
    return False


def _sayable(owner: ClassInfo, value: Value) -> ast.expr | None:
    """`self.head_dim` can be said in `__init__`, once it is assigned there; `C // self.heads` too, if C can be."""
    if value.op == "attr" and owner.attribute(value.data) is not None:
        return value.node
    if value.op == "const" and isinstance(value.data, int) and value.data > 0:
        return value.node
    if value.op == "floordiv":
        left, right = (_sayable(owner, side) for side in value.args)
        return ast.BinOp(left, ast.FloorDiv(), right) if left is not None and right is not None else None
    whole = _last_size_of(value)
    return _features(owner, whole) if whole is not None else None


def _last_size_of(value: Value) -> Value | None:
    """x, if the value is the size of its last axis: C of `B, T, C = x.shape`, `x.size(-1)`."""
    if value.op == "unpack" and value.args[0].op in ("shape", "size") and len(value.args[0].args) == 1:
        places = [user.data for user in value.args[0].users if user.op == "unpack"]
        return strip(value.args[0].args[0]) if len(places) > 1 and value.data == max(places) else None
    named = value.argument(1, "dim") if value.op == "size" else None
    return strip(value.args[0]) if named is not None and named.is_const(-1) else None


def _features(owner: ClassInfo, value: Value) -> ast.expr | None:
    """The width that a linear layer takes, as `__init__` says it, if `value` is put into one."""
    for user in value.users:
        width = _width_of(owner, user.data, "in_features", 0) if user.op == "module" else None
        if width is not None:
            return width
    return None


def _width_of(owner: ClassInfo, attribute: str, name: str, place: int) -> ast.expr | None:
    """A width of the linear layer `self.attribute`, where its expression still means the same at the end."""
    made = owner.attribute(attribute)
    if not isinstance(made, ast.Call) or owner.index.resolve(made.func) != "torch.nn.Linear":
        return None
    given = made.args[place] if len(made.args) > place else None
    width = next((k.value for k in made.keywords if k.arg == name), given)
    return width if width is not None and _stays(owner, width) else None


def _stays(owner: ClassInfo, expression: ast.expr) -> bool:
    """Whether an expression of `__init__` means the same at its end: made of parameters that are not assigned anew."""
    init = owner.methods["__init__"]
    stored = {node.id for node in ast.walk(init) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    plain = all(
        isinstance(node, ast.Name | ast.Attribute | ast.Constant | ast.BinOp | ast.operator | ast.expr_context)
        for node in ast.walk(expression)
    )
    parameters = {arg.arg for arg in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)}
    return plain and names <= parameters - stored
