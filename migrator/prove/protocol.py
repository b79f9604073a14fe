"""How judge and boxes talk: a JSON header and the raw bytes of tensors. Nothing that is received is ever executed."""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MAX_HEADER = 1 << 28
_MAX_TENSORS = 1 << 33
_TOGETHER = 1 << 20
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip


class ProtocolError(Exception):
    """The other side ended, or said something that is no message."""


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    return _DTYPES[name]


def send(connection: socket.socket, message: Any, tensors: Sequence[Tensor] = ()) -> None:
    """Send one message. Tensors may live anywhere and be strided; they arrive contiguous, on the CPU."""
    dense = [tensor.detach().resolve_conj().resolve_neg().cpu().contiguous() for tensor in tensors]
    shapes = [[dtype_name(tensor.dtype), list(tensor.shape)] for tensor in dense]
    header = json.dumps([message, shapes]).encode()
    waiting = [struct.pack("<Q", len(header)), header]
    for tensor in dense:
        size = tensor.numel() * tensor.element_size()
        if size:
            waiting.append(bytes((ctypes.c_char * size).from_address(tensor.data_ptr())))
        if size > _TOGETHER:
            connection.sendall(b"".join(waiting))
            waiting.clear()
    connection.sendall(b"".join(waiting))


def receive(connection: socket.socket) -> tuple[Any, list[Tensor]]:
    """The next message and its tensors."""
    (length,) = struct.unpack("<Q", _exactly(connection, 8))
    if length > _MAX_HEADER:
        raise ProtocolError("a message that is too long")
    try:
        message, shapes = json.loads(_exactly(connection, length))
        plans = [(_DTYPES[name], [int(size) for size in shape]) for name, shape in shapes]
        sizes = [_bytes_of(dtype, shape) for dtype, shape in plans]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError("something that is no message") from error
    if sum(sizes) > _MAX_TENSORS:
        raise ProtocolError("more tensors than there is room for")
    return message, [_tensor(connection, *plan, size) for plan, size in zip(plans, sizes, strict=True)]


def _bytes_of(dtype: torch.dtype, shape: list[int]) -> int:
    total = torch.empty((), dtype=dtype).element_size()
    for size in shape:
        if size < 0:
            raise ValueError(size)
        total *= size
    return total


def _tensor(connection: socket.socket, dtype: torch.dtype, shape: list[int], size: int) -> Tensor:
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(_exactly(connection, size), dtype=dtype).reshape(shape)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if not count:
            raise ProtocolError("the connection ended")
        done += count
    return data
