"""Looking into a model without changing it: the attention weights of a layer, and how gradients reach its blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import attention_weights

_FUSED = "scaled_dot_product_attention"  # by name: somebody may have put a function of his own before torch's
_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class AttentionRecorder(TorchFunctionMode):
    """Notes the weights of every attention that runs inside of `with AttentionRecorder() as recorder:`.

    Fused calls are left as they are; their weights are computed a second time from the queries and keys that the call
    received. Of hand-written attention, what its softmax gives is noted as it is.

    Args:
        limit: how many attentions are noted, the first ones; None for all.

    Attributes: `weights`, the weights in the order of the calls, detached.

    Shape: each `(..., num_heads, query_len, key_len)`; without the axis of heads where the model has none.

    State dict: none.

    Parity: `weights[i] @ v` is what the i-th call gives without dropout. A softmax over the last axis of three or
    more axes is taken for attention; inside `nn.MultiheadAttention` nothing is seen.

    Raises: nothing of its own.

    Reference: Vaswani et al. 2017, section 3.2.1, arXiv 1706.03762.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.limit is None or len(self.weights) < self.limit:
            if getattr(func, "__name__", "") == _FUSED:
                self.weights.append(_recomputed(*args, **kwargs))
            elif func in _SOFTMAX and _is_attention(result, *args, **kwargs):
                self.weights.append(result.detach())
        return result


def _recomputed(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    with torch.no_grad():
        if enable_gqa:
            key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        boolean = attn_mask is not None and attn_mask.dtype == torch.bool
        if is_causal and query.size(-2) != key.size(-2):  # torch aligns its triangle at the upper left
            attn_mask = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
            boolean, is_causal = True, False
        mask, bias = (attn_mask, None) if boolean else (None, attn_mask)
        return attention_weights(query.detach(), key.detach(), mask=mask, bias=bias, causal=is_causal, scale=scale)


def _is_attention(result: Tensor, scores: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> bool:
    return bool(result.ndim >= 3 and dim in (-1, result.ndim - 1) and result.size(-2) > 1)


def visualize_attention_patterns(model: nn.Module, inputs: Any, layer_idx: int = 0) -> Tensor:
    """The attention weights of one layer for `inputs`, ready for a heatmap; the model is left as it was.

    It runs a copy of the model in evaluation mode, and its fused kernels run as they always do: see
    `AttentionRecorder`.

    Args:
        model: any module that is called with `inputs`.
        inputs: what the model is called with; a tuple stands for several arguments.
        layer_idx: which attention, in the order in which they run; negative ones count from the last.

    Shape:
        - output: `(batch, num_heads, query_len, key_len)`, or as the model's own attention has it; rows sum to 1

    State dict: none.

    Parity: as `AttentionRecorder` has it.

    Raises:
        ValueError: if no attention was seen at work.
        IndexError: if there are not so many.

    Reference: Vaswani et al. 2017, section 3.2.1, arXiv 1706.03762.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.random.fork_rng(), torch.no_grad(), AttentionRecorder() as recorder:
        copy.deepcopy(model).eval()(*arguments)
    seen: list[Tensor] = recorder.weights
    if not seen:
        raise ValueError(f"no attention was seen in {type(model).__name__}: neither a fused call nor a softmax")
    if not -len(seen) <= layer_idx < len(seen):
        raise IndexError(f"layer_idx is {layer_idx}, and {type(model).__name__} ran {len(seen)} attentions")
    return seen[layer_idx]


@dataclass(frozen=True)
class GradientFlow:
    """How a gradient reached the parts of a model.

    Args:
        norms: the norm of all gradients of a block together, by the path of the block, first to last.
        missing: parameters that got no gradient, or nothing but zeros.
        nonfinite: parameters whose gradient has an infinity or a NaN.

    Shape: plain numbers and names, no tensors.

    State dict: none.

    Parity: norms are summed in float64, whatever the model computes in.

    Raises: nothing of its own.

    Reference: Xiong et al. 2020, arXiv 2002.04745.
    """

    norms: dict[str, float]
    missing: tuple[str, ...]
    nonfinite: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The norm of the first block by that of the last: near 1 where depth costs nothing, NaN without two blocks."""
        first, last = next(iter(self.norms.values()), math.nan), next(reversed(self.norms.values()), math.nan)
        return math.nan if len(self.norms) < 2 else first / last if last else math.inf if first else math.nan

    @property
    def healthy(self) -> bool:
        """Whether every parameter got a gradient and all of them are finite."""
        return not self.missing and not self.nonfinite

    @classmethod
    def of(cls, model: nn.Module, grads: Iterable[tuple[str, Tensor | None]]) -> GradientFlow:
        """From gradients by the names of their parameters."""
        known = dict(grads)
        blocks = blocks_of(model)
        squares: dict[str, float] = dict.fromkeys(blocks, 0.0)
        for name, grad in known.items():
            block = next((path for path in blocks if name.startswith(path + ".")), None)
            if block is not None and grad is not None:
                squares[block] += float(grad.detach().double().square().sum())
        return cls(
            {path: math.sqrt(square) for path, square in squares.items()},
            tuple(name for name, grad in known.items() if grad is None or not bool((grad != 0).any())),
            tuple(name for name, grad in known.items() if grad is not None and not bool(grad.isfinite().all())),
        )


def blocks_of(model: nn.Module) -> list[str]:
    """Paths of the blocks of the longest stack: of a `ModuleList` or `Sequential` of modules of one class."""
    stacks = [
        [f"{path}.{number}" if path else str(number) for number in range(len(stack))]
        for path, stack in model.named_modules()
        if isinstance(stack, nn.ModuleList | nn.Sequential)
        and len({type(block) for block in stack}) == 1
        and any(True for _ in stack.parameters())
    ]
    return max(stacks, key=len, default=[])


class TransformerTester:
    """Measurements of a model on random inputs of its own; the model is left as it was.

    Args:
        batch: number of sequences.
        length: number of tokens of each.
        seed: what inputs, and whatever the model draws, come from.

    Shape: inputs of its own are `(batch, length)`.

    State dict: none.

    Parity: the gradients are those of a plain `backward()` on a copy of the model.

    Raises:
        ValueError: as `test_gradient_flow` does.

    Reference: the gradient of the first block as a measure of depth: Xiong et al. 2020, arXiv 2002.04745.
    """

    def __init__(self, batch: int = 2, length: int = 16, seed: int = 0) -> None:
        self.batch, self.length, self.seed = batch, length, seed

    def test_gradient_flow(self, model: nn.Module, inputs: Any = None) -> GradientFlow:
        """Gradients of the sum of squares of all outputs, or of the loss if the model gives a single number.

        Args:
            inputs: what the model is called with, a tuple for several arguments; None for random tokens below the
                size of its smallest embedding.

        Raises:
            ValueError: if there is no embedding to make tokens for, or no output that can be differentiated.
        """
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            copied = copy.deepcopy(model)
            copied.zero_grad()
            arguments = inputs if isinstance(inputs, tuple) else (self._tokens(model) if inputs is None else inputs,)
            self._loss(copied(*arguments)).backward()  # type: ignore[no-untyped-call]
        return GradientFlow.of(copied, ((name, p.grad) for name, p in copied.named_parameters() if p.requires_grad))

    def _tokens(self, model: nn.Module) -> Tensor:
        sizes = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
        if not sizes:
            raise ValueError(f"{type(model).__name__} has no nn.Embedding to make tokens for: give `inputs`")
        return torch.randint(min(sizes), (self.batch, self.length))

    @staticmethod
    def _loss(result: Any) -> Tensor:
        outputs = [value for value in _tensors(result) if value.requires_grad]
        if not outputs:
            raise ValueError("the model gives no output that can be differentiated")
        scalar = next((output for output in outputs if not output.ndim), None)
        return torch.stack([output.square().sum() for output in outputs]).sum() if scalar is None else scalar


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
