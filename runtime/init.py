"""Initial values that depend on the depth of the stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class _Fingerprint:
    """What tells new values from those seen before. The values themselves would take the memory of the weights twice.

    The checksum is of the bits, so that neither the device nor the number of threads changes it; after a cast, where
    bits say nothing, the size of the values has to do.
    """

    dtype: torch.dtype
    checksum: int
    size: float
    sharded: bool

    @classmethod
    def of(cls, weight: Tensor) -> _Fingerprint | None:
        """The fingerprint, or None where there are no values."""
        sharded = _is_sharded(weight)
        local = weight.to_local() if sharded else weight  # type: ignore[attr-defined]
        if local.is_meta or not local.numel():
            return None
        rows = local.detach().reshape(local.size(0) if local.ndim else 1, -1).contiguous()
        sums = rows.view(_INTEGERS[rows.element_size()]).sum(-1, dtype=torch.int64)
        place = torch.arange(1, len(sums) + 1, device=sums.device)
        size = torch.linalg.vector_norm(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
        return cls(local.dtype, int((sums * (2 * place + 1)).sum()), float(size), sharded)

    def same_values(self, other: _Fingerprint | None) -> bool:
        if other is None:
            return False
        if self.dtype == other.dtype:
            return self.checksum == other.checksum
        return math.isclose(self.size, other.size, rel_tol=1e-2)


def _is_sharded(weight: Tensor) -> bool:
    """Whether it is a distributed tensor, of which each process has a part."""
    return hasattr(weight, "to_local")


class DepthScaledInit(nn.Module):
    """Scales the initial values of the residual outputs of `N` blocks by `1 / sqrt(2 N)`, now and after `apply`.

    Each block adds two branches to the residual. With their last matrices scaled so, the variance of the residual
    after `2 N` branches is that of one, whatever the depth.

    `model.apply(init_fn)` would undo the scaling. This module is a child of the model too, and comes after the stack,
    so the `apply` of any ancestor reaches it once `init_fn` has been through the blocks: whatever residual output has
    changed since it was last seen is scaled again. So it is if an initialiser calls the `reset_parameters` of all
    modules in turn. That ends for good when values stop being initial ones: with the first gradient of any residual
    output, or when a state dict is loaded through this module's owner or an ancestor.

    Sharding puts new parameters into the place of those that were seen, and then nobody can tell drawn values from
    trained ones. So it ends that too, unless there were no values yet: build on the meta device, shard, `to_empty`,
    and initialise then, or initialise first and shard after it.

    Args:
        blocks: `nn.Sequential` or `nn.ModuleList` of `N` blocks, or one single block. It stays its owner's child and
            must be assigned before this module is; here it is only referred to.
        outputs: dotted paths, below each block, of the matrices whose product is added to the residual, such as
            `("attention.w_o", "feed_forward.fc2.weight")`.

    Shape: no forward. The owner writes, at the end of its `__init__`,
        `self.depth_init = DepthScaledInit(self.blocks, outputs=("out.weight", "feed_forward.down.weight"))`.

    State dict: empty; nor are there parameters, buffers or further modules.

    Parity: random numbers are not drawn and forwards are not touched; a loaded checkpoint stays as it is. Values that
    an `init_fn` sets when it gets the owner or an ancestor itself, rather than a module inside a block, come too late
    to be scaled.

    Raises:
        ValueError: if the stack is empty, `outputs` is empty, or a path leads to no parameter of some block.

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3.
    """

    def __init__(self, blocks: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        if not outputs:
            raise ValueError("outputs must name at least one path, got none")
        self.outputs = tuple(outputs)
        self.armed = True
        self._blocks = (blocks,)  # a tuple hides it from `nn.Module`, which would register it a second time
        self._seen: dict[tuple[int, str], _Fingerprint | None] = {}
        self._hooks: list[RemovableHandle] = []
        self._scale_changed()

    @property
    def factor(self) -> float:
        """`1 / sqrt(2 N)`."""
        return 1 / math.sqrt(2 * len(_members(self._blocks[0])))

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Applies `fn` to this module, as any other, and scales what it has initialised anew before."""
        super().apply(fn)
        self.reset_parameters()
        return self

    def reset_parameters(self) -> None:
        """Scales what has been initialised anew before."""
        if self._out_of_sight() or any(weight.grad is not None for _, weight in self._weights()):
            self._disarm()
        if self.armed:
            self._scale_changed()

    def _out_of_sight(self) -> bool:
        """Whether weights were sharded after they were seen."""
        seen = ((self._seen.get(place), weight) for place, weight in self._weights())
        return any(before is not None and not before.sharded and _is_sharded(weight) for before, weight in seen)

    def _weights(self) -> Iterator[tuple[tuple[int, str], nn.Parameter]]:
        """Residual outputs with their places; one that several blocks share comes once."""
        known: set[int] = set()
        for number, block in enumerate(_members(self._blocks[0])):
            for path in self.outputs:
                weight = _parameter(block, path)
                if id(weight) not in known:
                    known.add(id(weight))
                    yield (number, path), weight

    @torch.no_grad()
    def _scale_changed(self) -> None:
        factor = self.factor
        for place, weight in list(self._weights()):  # all paths are known to be good before the first value changes
            values, seen = _Fingerprint.of(weight), self._seen.get(place)
            if values is None or not values.same_values(seen):
                weight.mul_(factor)
                values = _Fingerprint.of(weight)
            self._seen[place] = values
        self._watch()

    def _watch(self) -> None:
        """Has the first gradient of each residual output disarm this module, wherever `apply` may come later."""
        self._unwatch()  # a change of device may have put new parameters into the place of those watched
        for _, weight in self._weights():
            if weight.requires_grad:
                hooked: Any = weight
                self._hooks.append(hooked.register_post_accumulate_grad_hook(self._disarm))

    def _unwatch(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _disarm(self, _: Tensor | None = None) -> None:
        self.armed = False
        self._seen = {}
        self._unwatch()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._disarm()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        module: Any = super()
        module._apply(fn, recurse)
        if self._out_of_sight():
            self._disarm()
        if self.armed:  # a cast has rounded the weights, which is no new initial value
            self._seen = {place: _Fingerprint.of(weight) for place, weight in self._weights()}
            self._watch()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hooks": []}  # hooks belong to the weights at hand, not to copies of them

    def __setstate__(self, state: dict[str, Any]) -> None:
        module: Any = super()
        module.__setstate__(state)
        if self.armed:
            self._watch()

    def extra_repr(self) -> str:
        return f"outputs={self.outputs}, factor={self.factor:.4g}"


def magneto_gain(num_layers: int) -> float:
    """Gain `sqrt(log(2 N))` of MAGNETO for an encoder-only or decoder-only stack of `N` layers.

    Args:
        num_layers: positive.

    Raises:
        ValueError: if `num_layers` is not positive.

    Reference: Wang et al. 2022, "Foundation Transformers" (MAGNETO), figure 2, arXiv 2210.06423.
    """
    if num_layers <= 0:
        raise ValueError(f"num_layers must be positive, got {num_layers}")
    return math.sqrt(math.log(2 * num_layers))


@torch.no_grad()
def magneto_init_(
    blocks: nn.Module, scaled: tuple[str, ...], plain: tuple[str, ...] = (), fused: tuple[str, ...] = ()
) -> None:
    """Draws the matrices of a stack anew, the way MAGNETO does: Xavier normal, std `gain * sqrt(2 / (in + out))`.

    This is the initial half of MAGNETO. Its other half, Sub-LN, is a second norm inside each branch, before the output
    projection and before the last matrix of the feed-forward; the blocks have to bring it themselves.

    Args:
        blocks: `nn.Sequential` or `nn.ModuleList` of `N` blocks, or one single block.
        scaled: dotted paths, below each block, of the value and output projections and of the feed-forward matrices;
            drawn with gain `sqrt(log(2 N))`.
        plain: paths of the query and key projections; drawn with gain 1.
        fused: paths of projections with the rows of queries, keys and values in this order, a third each: drawn as
            three matrices with gains 1, 1 and `sqrt(log(2 N))`.

    Shape: matrices `(out, in)` or, one per head, `(num_heads, head_dim, in)`, which counts as
    `(num_heads * head_dim, in)`. For `PreNormBlock` this is `magneto_init_(encoder.blocks, scaled=("out.weight",
    "feed_forward.gate.weight", "feed_forward.up.weight", "feed_forward.down.weight"), fused=("qkv.weight",))`.

    Raises:
        ValueError: if the stack is empty, a path leads to no parameter of some block, a parameter has fewer than two
            axes, or the rows of a fused one are no multiple of three.

    Reference: Wang et al. 2022, "Foundation Transformers" (MAGNETO), arXiv 2210.06423.
    """
    members = _members(blocks)
    gain = magneto_gain(len(members))
    for block in members:
        for path in plain:
            _draw(_parameter(block, path), 1.0, path)
        for path in scaled:
            _draw(_parameter(block, path), gain, path)
        for path in fused:
            weight = _parameter(block, path)
            if weight.size(0) % 3:
                raise ValueError(f"{path}: {weight.size(0)} rows cannot be queries, keys and values, a third each")
            for third, third_gain in zip(weight.chunk(3), (1.0, 1.0, gain), strict=True):
                _draw(third, third_gain, path)


def _draw(weight: Tensor, gain: float, path: str) -> None:
    if weight.ndim < 2:
        raise ValueError(f"{path}: a matrix is needed, got shape {tuple(weight.shape)}")
    fan_in, fan_out = weight.size(-1), weight[..., 0].numel()
    weight.normal_(0.0, gain * math.sqrt(2 / (fan_in + fan_out)))


def _members(blocks: nn.Module) -> list[nn.Module]:
    members = list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else [blocks]
    if not members:
        raise ValueError("blocks must hold at least one block, got an empty stack")
    return members


def _parameter(block: nn.Module, path: str) -> nn.Parameter:
    found: object = block
    for name in path.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, nn.Parameter):
        seen = "nothing" if found is None else f"a {type(found).__name__}"
        raise ValueError(f"{path!r} must be a parameter of each block, got {seen} in {type(block).__name__}")
    return found
