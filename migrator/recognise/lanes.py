"""Which modules and methods keep the positions of a sequence apart."""

from __future__ import annotations

import ast

from migrator.recognise.axes import Axes, Lane, Mixed, Track
from migrator.recognise.dataflow import method_flow
from migrator.recognise.index import ClassInfo
from migrator.recognise.syntax import walk_statements
from migrator.recognise.values import Flow, Value, made_by

_ROW_MODULES = frozenset(f"torch.nn.{name}" for name in ("Linear", "LayerNorm", "RMSNorm")) | {"runtime.SwiGLU"}
_PLAIN_MODULES = frozenset(
    f"torch.nn.{name}"
    for name in ("Identity", "Dropout", "ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "ELU", "LeakyReLU", "Mish")
)


class Lanes(Axes):
    """Follows positions through calls too: of modules, of classes of the file, and of the owner's own methods."""

    def _module(self, value: Value) -> Track:
        tracks = [self.of(operand) for operand in value.operands()]
        if all(track is None for track in tracks):
            return None
        owner = self.flow.owner
        made = owner.attribute(value.data) if owner is not None else None
        return self._made(value, made, tracks)

    def _made(self, value: Value, made: ast.expr | None, tracks: list[Track]) -> Track:
        """What a module that `made` constructs does to its first argument's positions."""
        lane = tracks[0] if tracks else None
        owner = self.flow.owner
        if isinstance(made, ast.Lambda) and isinstance(lane, Lane):
            return self._through_lambda(value, made, lane)
        if owner is None or not isinstance(made, ast.Call) or not isinstance(lane, Lane):
            raise Mixed(value)
        kind = owner.index.resolve(made.func) or ""
        if kind in _PLAIN_MODULES:
            return lane
        if kind in _ROW_MODULES and lane.axis != -1 and not _spans_axes(made):
            return lane
        if kind == "torch.nn.Embedding":
            return Lane(lane.axis - 1, lane.rank + 1)
        if kind == "torch.nn.Sequential" and not made.keywords:
            for element in made.args:
                lane = self._made(value, element, [lane])
            return lane
        if kind == "runtime.RotaryEmbedding" and lane.axis == -2 and all(t == lane for t in tracks[:2]):
            return lane
        if kind in self.passing and lane == Lane(-2, 3):
            return lane
        info = owner.index.modules.get(kind)
        if info is not None and self.depth and len([t for t in tracks if t is not None]) == 1:
            return self._through(value, method_flow(info), lane)
        raise Mixed(value)

    def _through_lambda(self, value: Value, made: ast.Lambda, lane: Lane) -> Track:
        """`m = self.mlp; self.mlpf = lambda x: m.c_proj(m.act(m.c_fc(x)))`."""
        called, inner = [], made.body
        while isinstance(inner, ast.Call) and len(inner.args) == 1 and not inner.keywords:
            called.append(inner.func)
            inner = inner.args[0]
        parameters = [arg.arg for arg in made.args.args]
        if not isinstance(inner, ast.Name) or parameters != [inner.id] or self.flow.owner is None:
            raise Mixed(value)
        track: Track = lane
        for func in reversed(called):
            track = self._made(value, _module_of(self.flow.owner, func), [track])
        return track

    def _unpack(self, value: Value) -> Track:
        inner = value.args[0]
        if inner.op == "module" and made_by(self.flow, inner) == "runtime.FusedProjection":
            return self._projected(inner, value.data)
        return super()._unpack(value)

    def _projected(self, value: Value, position: object) -> Track:
        """One of the results of `q, k, v = self.qkv(x, self.w_q, self.w_k, self.w_v)`."""
        lane, owner = self.of(value.args[0]), self.flow.owner
        if not isinstance(lane, Lane) or owner is None or not isinstance(position, int) or lane.axis != -2:
            raise Mixed(value)
        weight = value.args[position + 1]
        made = owner.attribute(weight.data) if weight.op == "attr" else None
        linear = isinstance(made, ast.Call) and owner.index.resolve(made.func) == "torch.nn.Linear"
        return lane if linear else Lane(-2, lane.rank + 1)  # a weight for each head gives an axis of heads

    def _self_call(self, value: Value) -> Track:
        """`self.split_heads(x)`."""
        tracks = [self.of(operand) for operand in value.operands()]
        if all(track is None for track in tracks):
            return None
        owner = self.flow.owner
        lane = tracks[0]
        if owner is None or not self.depth or not isinstance(lane, Lane) or any(t is not None for t in tracks[1:]):
            raise Mixed(value)
        return self._through(value, method_flow(owner, value.data), lane)

    def _through(self, value: Value, flow: Flow | None, lane: Lane) -> Track:
        """The lane of what a function of one sequence gives back."""
        entry = next((v for v in flow.values if v.op == "param"), None) if flow is not None else None
        if flow is None or entry is None or len(flow.returns) != 1:
            raise Mixed(value)
        inner = Lanes(flow, {entry: lane}, self.passing, depth=self.depth - 1)
        return inner.of(flow.returns[0][0])


def _spans_axes(made: ast.Call) -> bool:
    """Whether a norm is over more than the last axis: `nn.LayerNorm((seq_len, dim))`."""
    first = made.args[0] if made.args else None
    return isinstance(first, ast.Tuple | ast.List) and len(first.elts) != 1


def _module_of(owner: ClassInfo, func: ast.expr) -> ast.expr | None:
    """What constructs the module `self.a.b`, or `m.b` where `__init__` says `m = self.a`."""
    path = ast.unparse(func)
    root, _, rest = path.partition(".")
    init = owner.methods.get("__init__")
    for statement in walk_statements(init.body if init is not None else []):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == root:
            path = f"{ast.unparse(statement.value)}.{rest}"
    return owner.attribute(path.removeprefix("self.")) if path.startswith("self.") else None


def position_by_position(info: ClassInfo, passing: frozenset[str] = frozenset()) -> Value | None:
    """What lets positions of the first argument `(batch, seq_len, width)` of `forward` meet; None if nothing does."""
    flow = method_flow(info)
    entry = next((v for v in flow.values if v.op == "param"), None) if flow is not None else None
    if flow is None or entry is None or not flow.returns:
        return Value("opaque")
    try:
        lanes = Lanes(flow, {entry: Lane(-2, 3)}, passing)
        for value, _ in flow.returns:
            if lanes.of(value) != Lane(-2, 3):
                return value
    except Mixed as mixed:
        return mixed.value
    return None
