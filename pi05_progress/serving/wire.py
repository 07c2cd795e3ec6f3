"""Dictionaries with NumPy arrays as bytes: MessagePack with openpi's extension, byte for byte.

An array is a map ``{b"__ndarray__": True, b"data": bytes in C order, b"dtype": "<f4", b"shape": [2, 3]}``, a NumPy
scalar ``{b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}``. The keys of these maps are bytes, which no JSON-like
dictionary has. Everything else is plain MessagePack: tuples come back as lists, NumPy's float64 scalar as a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

REFUSED = {"V": "structured, or of a type that NumPy does not know", "O": "Python objects", "c": "complex"}


class WireError(ValueError):
    """A value cannot be sent or bytes cannot be read; the message says which and why."""


def pack(value: Any) -> bytes:
    """Bytes of a value.

    Args:
        value: dictionaries, lists, tuples, strings, bytes, numbers, booleans, None, NumPy arrays and scalars.

    Raises:
        WireError: something else is in it, or an array of objects, of complex numbers or a structured one; the
            message says where.
    """
    try:
        return msgpack.packb(value, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"
        raise WireError(f"{_where(value) or 'the message'} cannot be sent: {reason}") from error


def unpack(data: bytes) -> Any:
    """The value that bytes stand for; its arrays are read-only views of the bytes.

    Raises:
        WireError: truncated, followed by something, or not of this format.
    """
    try:
        return msgpack.unpackb(data, object_hook=_decode)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"{len(data)} bytes are not one complete message: {error or type(error).__name__}") from error


def _encode(value: Any) -> Any:
    """What MessagePack should write for a value it does not know."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in REFUSED:
        raise WireError(f"dtype {value.dtype} ({REFUSED[value.dtype.kind]}) has no form on the wire; convert it first")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    if isinstance(value, int):
        raise WireError(f"{value} has more than 64 bits")
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise WireError(f"{kind} has no form on the wire; arrays of other libraries: numpy.asarray")


def _decode(fields: dict) -> Any:
    """The array or scalar that a map stands for; other maps as they are."""
    if b"__ndarray__" not in fields and b"__npgeneric__" not in fields:
        return fields
    try:
        if not isinstance(fields[b"dtype"], str):  # other values describe structured types
            raise WireError(f"an array's dtype is {fields[b'dtype']!r}, expected text such as '<f4'")
        dtype = np.dtype(fields[b"dtype"])
        if dtype.kind in REFUSED:
            raise WireError(f"an array of dtype {dtype} ({REFUSED[dtype.kind]}) is refused")
        if b"__npgeneric__" in fields:
            return dtype.type(fields[b"data"])
        shape, data = tuple(fields[b"shape"]), fields[b"data"]
        if any(size < 0 for size in shape) or int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data):
            raise WireError(f"an array {dtype}{list(shape)} comes with {len(data)} bytes")
        return np.ndarray(shape, dtype, data)
    except (KeyError, TypeError, SyntaxError, OverflowError) as error:
        raise WireError(f"a malformed array: it has {sorted(map(repr, fields))}: {error}") from error


def _where(value: Any, path: str = "") -> str:
    """The path of the first thing in a value that cannot be sent; empty if it is the value itself."""
    if isinstance(value, Mapping):
        items = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return path
    for item_path, item in items:
        try:
            msgpack.packb(item, default=_encode)
        except (TypeError, ValueError, OverflowError):
            return _where(item, item_path)
    return path
