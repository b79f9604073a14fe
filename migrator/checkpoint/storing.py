"""Files <-> what they hold: torch's own format, of which only plain data is ever unpickled, and safetensors."""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from migrator.checkpoint.containers import dictionaries
from migrator.errors import MigrateError

_SAFE = (2, 6)
_NO_CODE = "run `state = torch.load(OLD, weights_only=False)` where you trust it, and save `state_dict()`s instead"


@dataclass
class Stored:
    """All that a checkpoint holds. `metadata` are the strings that a safetensors file carries."""

    tree: Any
    metadata: dict[str, str]


def read(path: Path) -> Stored:
    """Read a checkpoint of either format, whatever its name.

    Raises:
        MigrateError: no checkpoint, a damaged one, or one that would have to run code to be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise _damaged(path, error) from error
    if not head:
        raise MigrateError("empty", "the file is empty", "name a checkpoint", path=path)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
    elif len(head) == 9 and head[8:] == b"{" and (path.suffix == ".safetensors" or not head.startswith(b"\x80")):
        return _read_safetensors(path)
    elif path.suffix == ".safetensors" or not head.startswith(b"\x80"):
        cause = "this is neither a checkpoint of torch.save nor a safetensors file"
        raise MigrateError("not-a-checkpoint", cause, "name a checkpoint", path=path)
    return Stored(_with_values(path, _unpickled(path)), {})


def _check_archive(path: Path) -> None:
    """What torch.save writes is stored as it is; a compressed entry may be larger than any memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        remedy = "save the state_dict() of the model that it was made from"
        raise MigrateError("torchscript", "this is a TorchScript archive, which is code", remedy, path=path)
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        cause = "its entries claim to be larger than the file; torch.save does not compress"
        raise MigrateError("damaged", cause, "save the checkpoint anew", path=path)


def _unpickled(path: Path) -> Any:
    """What a pickle holds, of which torch only takes plain data; before 2.6 it could be led to take more than that."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE:
        cause = f"torch {torch.__version__} may run code when it reads this format (CVE-2025-32434)"
        raise MigrateError("old-torch", cause, "install torch 2.6 or later, or save it as safetensors", path=path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name is None:
            raise _damaged(path, error) from error
        what = "a whole module" if ".nn.modules." in name[1] or name[1].startswith("__main__.") else "an object"
        cause = f"it is, or holds, {what} that is pickled as code ({name[1]}), and code is never loaded"
        raise MigrateError("pickled-code", cause, _NO_CODE, path=path) from error


def _with_values(path: Path, tree: Any) -> Any:
    """The tree, unless its tensors are only names and shapes, as those of a model on the device `meta`."""
    for place in dictionaries(tree):
        for name, value in place.content.items():
            if isinstance(value, Tensor) and value.is_meta:
                cause = f"its tensor {name} has no values: it was saved from the device `meta`"
                raise MigrateError("no-weights", cause, "save the model after its weights were loaded", path=path)
    return tree


def _read_safetensors(path: Path) -> Stored:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return Stored({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> MigrateError:
    words = " ".join(str(error).split()) or type(error).__name__
    return MigrateError("damaged", f"it cannot be read: {words[:200]}", "get an undamaged copy", path=path)


# --- writing --------------------------------------------------------------------------------------------------------


def write(stored: Stored, path: Path, *, safetensors: bool) -> None:
    """Write to a file that is there already.

    Raises:
        MigrateError: safetensors files hold tensors by name and nothing else, or there is no room.
    """
    if safetensors:
        _check_flat(stored.tree)
    try:
        if safetensors:
            _write_safetensors(stored, path)
        else:
            torch.save(stored.tree, path)
    except (OSError, RuntimeError) as error:
        cause = f"it cannot be written: {' '.join(str(error).split())[:160]}"
        raise MigrateError("not-written", cause, "check the rights and the space of its directory") from error


def _check_flat(tree: Any) -> None:
    others = [key for key, value in tree.items() if not isinstance(value, Tensor)] if isinstance(tree, dict) else [""]
    if others:
        cause = f"a safetensors file holds nothing but tensors, and the checkpoint also has {others[0]!r}"
        raise MigrateError("not-flat", cause, "give NEW a name that ends in .pt")


def _write_safetensors(stored: Stored, path: Path) -> None:
    from safetensors import TensorSpec, serialize_file

    dense = {name: value.detach().contiguous() for name, value in stored.tree.items()}
    specs = {
        name: TensorSpec(
            dtype=str(value.dtype).removeprefix("torch."), shape=list(value.shape), data_ptr=value.data_ptr(),
            data_len=value.numel() * value.element_size(),
        )
        for name, value in dense.items()
    }  # fmt: skip
    serialize_file(specs, path, {"format": "pt", **stored.metadata})
