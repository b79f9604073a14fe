"""Inputs that a forward may take: guesses by name, annotation and use, in the order in which they are tried.

An input is described by a small JSON object, so that box and judge make the same kind of tensor, at any batch size and
length: `{"tokens": 29, "shape": ["B", "T"]}`, `{"float": ["B", "T", 32]}`, `{"bool": ["T", "T"]}`, `{"value": 4}`,
`{"side": true}`.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Spec = dict[str, Any]
_MASKS: tuple[list[str | int], ...] = (
    ["T", "T"], ["B", 1, "T", "T"], ["B", "T"], ["B", 1, 1, "T"], ["B", "T", "T"], [1, "T", "T"], [1, 1, "T", "T"],
)  # fmt: skip
_MASK = re.compile(r"mask|^pad(ding)?$|^future$|^visible$|^hidden_keys$")
_TOKENS = re.compile(r"token|^ids?$|_ids?$|idx|indices|^src|^tgt|^trg|input|^seq|prompt|^chars|^words|^text|^sentence")
_LABELS = re.compile(r"label|target|^y$|^ys$")
_ATTENDED = re.compile(r"^(q|k|v|query|key|value|queries|keys|values|scores)$")
_TIME = re.compile(r"^t$|^ts$|time")
_COUNTS = re.compile(r"^n_|^num_|steps|length$|^max_")
_STARTS = re.compile(r"offset|start")
_ROTATION = re.compile(r"^(cos|sin|freqs?\w*)$")
_SIDES = re.compile(r"^(h|w|height|width)$")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method that has to be given, or a mask that may be."""

    name: str
    annotation: str
    keyword_only: bool
    required: bool


def parameters_of(method: Any) -> list[Parameter]:
    """Parameters of a bound method; `*args` and `**kwargs` stay empty."""
    found = []
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = parameter.annotation
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        required = parameter.default is parameter.empty
        keyword = parameter.kind == parameter.KEYWORD_ONLY
        found.append(Parameter(parameter.name, "" if annotation is parameter.empty else text, keyword, required))
    return found


def candidates(parameter: Parameter, module: nn.Module, embedded: set[str]) -> list[Spec]:
    """What this parameter may be, most likely first. `embedded` are parameters that flow into an nn.Embedding."""
    name = parameter.name.lower()
    if parameter.annotation in ("int", "float", "bool"):
        return _scalars(parameter.annotation, name)
    tokens: list[Spec] = [{"tokens": size, "shape": ["B", "T"]} for size in _vocabularies(module)]
    widths = _widths(module)
    floats: list[Spec] = [{"float": ["B", "T", width]} for width in widths]
    flat: list[Spec] = [{"float": ["B", width]} for width in widths]
    if parameter.name in embedded:
        return tokens
    if is_mask(name):
        return masks(name)
    if name.startswith("qkv"):
        packed = [3 * width * 8 for width in widths[:2]]
        return [*floats, *({"float": shape} for size in packed for shape in (["B", size, "T"], ["B", "T", size]))]
    if "bias" in name:
        return [{"float": ["T", "T"]}, {"float": ["B", 1, "T", "T"]}, {"float": [1, 4, "T", "T"]}, {"value": None}]
    if _ATTENDED.search(name) and not widths_known(module):
        heads: list[Spec] = [{"float": ["B", 4, "T", 16]}, {"float": ["B", "T", 16]}]
        return heads
    if _LABELS.search(name):
        classes = [{"tokens": size, "shape": ["B"]} for size in _outputs(module)]
        return [*tokens, *classes, *floats]
    if _TIME.search(name):
        return [{"float": ["B", 1]}, {"float": ["B"]}, {"float": []}, {"tokens": 10, "shape": ["B"]}, *floats]
    if _STARTS.search(name) or (_COUNTS.search(name) and name != "n_tokens"):
        return _scalars("int", name)
    if tokens and (_TOKENS.search(name) or name in ("x", "xs")):
        return [*tokens, *floats, *flat]
    if _ROTATION.search(name):
        tables: list[Spec] = [{"float": ["T", width]} for width in widths]
        return [*tables, {"value": None}]
    if _SIDES.search(name):
        return [{"side": True}, *_scalars("int", name)]
    images: list[Spec] = (
        [{"float": ["B", 3, size, size]} for size in (32, 16)] if re.search("im(g|age)|pixel", name) else []
    )
    images += [{"float": ["B", channels, size, size]} for channels, size in _maps(module)]
    swapped: list[Spec] = [{"float": ["T", "B", width]} for width in widths[:3]]
    channels: list[Spec] = [{"float": ["B", width, "T"]} for width in widths[:3]]
    return [*images, *floats, *flat, *tokens, *swapped, *channels, {"value": None}]


def is_mask(name: str) -> bool:
    return _MASK.search(name.lower()) is not None


def widths_known(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def masks(name: str) -> list[Spec]:
    """Masks that are neither full nor triangular, by shape, of both polarities."""
    shapes = sorted(_MASKS, key=lambda shape: shape != ["B", "T"]) if "pad" in name else list(_MASKS)
    found: list[Spec] = [{"bool": shape, "inverted": inverted} for shape in shapes for inverted in (False, True)]
    return [*found, *({"additive": shape} for shape in shapes), {"value": None}]


def _scalars(annotation: str, name: str) -> list[Spec]:
    if annotation == "bool":
        return [{"value": False}, {"value": True}]
    if annotation == "float":
        return [{"value": 0.5}, {"value": 1.0}]
    return [{"value": 0}, {"value": 4}] if _STARTS.search(name) else [{"value": 4}, {"value": 1}]


def _vocabularies(module: nn.Module) -> list[int]:
    return sorted({child.num_embeddings for child in module.modules() if isinstance(child, nn.Embedding)})[:2]


def _outputs(module: nn.Module) -> list[int]:
    return [child.out_features for child in module.modules() if isinstance(child, nn.Linear)][-1:]


def _widths(module: nn.Module) -> list[int]:
    """Sizes that the last axis of an input may have, those of the first layers first."""
    found: list[int] = []
    noted: list[int] = []
    for child in module.modules():
        if isinstance(child, nn.Linear):
            found.append(child.in_features)
        elif isinstance(child, nn.LayerNorm):
            found.append(child.normalized_shape[-1])
        elif isinstance(child, nn.Conv1d):
            found.append(child.in_channels)
        for parameter in child._parameters.values():
            if parameter is not None and parameter.ndim > 1:
                found += [*reversed(parameter.shape)]
        noted += [value for value in vars(child).values() if type(value) is int and 1 < value <= 4096]
    return list(dict.fromkeys([*found, *noted]))[:8] or [16]


def _maps(module: nn.Module) -> list[tuple[int, int]]:
    """Channels and side of square maps for a module that convolves; a size that it knows, such as a window, twice."""
    first = next((child for child in module.modules() if isinstance(child, nn.Conv2d)), None)
    if first is None:
        return []
    known = [value for value in vars(module).values() if type(value) is int and 2 <= value <= 16]
    sides = dict.fromkeys([*(2 * value for value in known), 8, 16, 32, 64])
    return [(first.in_channels, side) for side in sides]


def calls(parameters: list[Parameter], module: nn.Module, embedded: set[str]) -> Iterator[list[Spec]]:
    """Ways to give all required parameters at once, in order of likelihood.

    Parameters that may be the same things, as query, key and value may, are the same at first.
    """
    options = [candidates(parameter, module, embedded) for parameter in parameters if parameter.required]
    depth = max(2, int(20_000 ** (1 / max(len(options), 1))))
    options = [choices[: min(depth, 16)] for choices in options]
    groups = [options.index(choices) for choices in options]

    def unlikeliness(ranks: tuple[int, ...]) -> int:
        return sum(rank for _, rank in {*zip(groups, ranks, strict=True)})

    ranked = sorted(itertools.product(*(range(len(choices)) for choices in options)), key=unlikeliness)
    for ranks in itertools.islice(ranked, 200):
        yield [choices[rank] for choices, rank in zip(options, ranks, strict=True)]


def make(spec: Spec, batch: int, length: int, generator: torch.Generator) -> Any:
    """The input that a spec describes, at this batch size and length."""
    if "value" in spec:
        return spec["value"]
    if "side" in spec:
        return math.isqrt(length)  # height or width of the square that a sequence of this length is
    named = {"B": batch, "T": length}
    shape = [named[size] if isinstance(size, str) else size for size in spec.get("shape") or next(iter(spec.values()))]
    if "tokens" in spec:
        return torch.randint(0, spec["tokens"], shape, generator=generator)
    if "float" in spec:
        return torch.randn(shape, generator=generator)
    visible = random_mask(shape, generator)
    if "constant" in spec:
        return torch.full(shape, spec["constant"])
    if "bool" in spec:
        return ~visible if spec["inverted"] else visible
    return torch.zeros(shape).masked_fill(~visible, float("-inf"))


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two calls gave the same, but for rounding."""
    pairs = zip(first, second, strict=True)
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs
    )


def random_mask(shape: list[int], generator: torch.Generator) -> Tensor:
    """True at random; in each row the first entry is True and the last is not, where there is more than one."""
    mask = torch.rand(shape, generator=generator) < 0.6
    if shape and shape[-1] > 1:
        mask[..., -1] = False
    mask[..., 0] = True
    return mask
