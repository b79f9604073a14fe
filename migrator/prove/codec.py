"""Values as JSON beside a list of tensors: constructor arguments, inputs and outputs of user code.

Both directions are closed: what cannot be said in these few forms is `Unportable` as an input, and appears by the name
of its type alone as an output.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
from typing import Any

import torch
from torch import Tensor, distributions

from migrator.prove.protocol import dtype_name, dtype_of


class Unportable(Exception):
    """A value that cannot be handed from one process to another without trusting either."""


def encode(value: Any, tensors: list[Tensor], space: types.ModuleType | None = None, *, strict: bool = True) -> Any:
    """JSON for `value`; its tensors are appended to `tensors`.

    Args:
        space: the user's module, whose classes and functions can be named.
        strict: raise `Unportable` for a value without a form, instead of naming its type.
    """
    if type(value) is float and not strict:  # an output: compared like a tensor, not to the last bit
        tensors.append(torch.tensor(value, dtype=torch.float64))
        return {"tensor": len(tensors) - 1, "float": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value if type(value) in (type(None), bool, int, float, str) else _plain(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}

    def nested(item: Any) -> Any:
        return encode(item, tensors, space, strict=strict)

    if isinstance(value, list):
        return [nested(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [nested(item) for item in value], "type": type(value).__name__}
    if isinstance(value, dict):
        return {"dict": [[nested(key), nested(item)] for key, item in value.items()], "type": type(value).__name__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {"dataclass": type(value).__name__, "fields": {name: nested(getattr(value, name)) for name in names}}
    return _special(value, nested, space, strict)


def _plain(value: Any) -> Any:
    """Subclasses of int and str, such as enumerations, by their value."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise AssertionError(value)


def _special(value: Any, nested: Any, space: types.ModuleType | None, strict: bool) -> Any:
    if isinstance(value, torch.dtype):
        return {"dtype": "default" if value == torch.get_default_dtype() else dtype_name(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, distributions.Distribution) and not strict:
        return {"distribution": type(value).__name__, "fields": _distribution(value, nested)}
    name = getattr(value, "__qualname__", None)
    module = getattr(value, "__module__", None)
    if isinstance(name, str) and isinstance(module, str):
        if space is not None and getattr(space, name, None) is value:
            return {"name": name}
        if module.split(".")[0] in ("torch", "math") and _imported(module, name) is value:
            return {"import": [module, name]}
    if strict:
        raise Unportable(f"a value of type {type(value).__name__}")
    fields = {
        key: nested(item) for key, item in sorted(getattr(value, "__dict__", {}).items()) if isinstance(item, Tensor)
    }
    return {"object": type(value).__name__, "fields": fields}


def _distribution(value: distributions.Distribution, nested: Any) -> dict[str, Any]:
    """What a distribution was given: its parameters, and the distributions it is made of."""
    known = {*value.arg_constraints, "base_dist", "_component_distribution", "_mixture_distribution"}
    known |= {"reinterpreted_batch_ndims"}
    return {name: nested(item) for name, item in sorted(vars(value).items()) if name in known}


def _imported(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def decode(data: Any, tensors: list[Tensor], space: types.ModuleType) -> Any:
    """The value that `encode` described, with classes and functions looked up in the user's module."""
    if isinstance(data, list):
        return [decode(item, tensors, space) for item in data]
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]]
    if "tuple" in data:
        return tuple(decode(item, tensors, space) for item in data["tuple"])
    if "dict" in data:
        return {decode(key, tensors, space): decode(item, tensors, space) for key, item in data["dict"]}
    if "dataclass" in data:
        fields = {name: decode(item, tensors, space) for name, item in data["fields"].items()}
        return _dataclass(getattr(space, data["dataclass"]), fields)
    if "dtype" in data:
        return torch.get_default_dtype() if data["dtype"] == "default" else dtype_of(data["dtype"])
    if "device" in data:
        return torch.device("cpu")
    if "import" in data:
        return _imported(*data["import"])
    if "name" in data:
        return getattr(space, data["name"])
    raise Unportable(str(data))


def _dataclass(cls: Any, fields: dict[str, Any]) -> Any:
    given = {field.name: fields[field.name] for field in dataclasses.fields(cls) if field.init and field.name in fields}
    return cls(**given)


def shape_of(data: Any) -> Any:
    """The form of an encoded value with its tensors left out, so that two can be compared."""
    if isinstance(data, list):
        return [shape_of(item) for item in data]
    if isinstance(data, dict):
        if "tensor" in data:
            return "float" if "float" in data else "tensor"
        return {key: shape_of(item) for key, item in data.items()}
    return data


def renumbered(data: Any, by: int) -> Any:
    """The same encoded value, for a list of tensors that has `by` others before its own."""
    if isinstance(data, list):
        return [renumbered(item, by) for item in data]
    if isinstance(data, dict):
        return {"tensor": data["tensor"] + by} if "tensor" in data else {k: renumbered(v, by) for k, v in data.items()}
    return data
