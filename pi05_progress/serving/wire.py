"""Dictionaries with NumPy arrays as bytes: MessagePack with openpi's extension, byte for byte.

An array is a map ``{b"__ndarray__": True, b"data": bytes in C order, b"dtype": "<f4", b"shape": [2, 3]}``, a NumPy
scalar ``{b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}``. The keys of these maps are bytes, which no JSON-like
dictionary has. Everything else is plain MessagePack: tuples come back as lists, NumPy's float64 scalar as a float.

Bytes come from strangers: nothing is computed, made or told that is larger than the bytes themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

REFUSED = {"V": "structured, or of a type that NumPy does not know", "O": "Python objects", "c": "complex"}
MOST_VALUES = 10_000  # in the lists and maps of one message; a request has about a hundred
MOST_KEYS = 1_000  # in one map; they are counted when it is read, so maps in maps add up before that
MOST_AXES = 32
LONGEST_DTYPE = 32  # characters


class WireError(ValueError):
    """A value cannot be sent or bytes cannot be read; the message says which and why."""


class RequestError(ValueError):
    """A request cannot be answered as it is; the message names the key, what was found and what was expected."""


class AnswerError(RuntimeError):
    """A request was fine, but its answer cannot be passed on; the message says why."""


def pack(value: Any) -> bytes:
    """Bytes of dictionaries, lists, tuples, strings, bytes, numbers, booleans, None, NumPy arrays and scalars.

    A ``WireError`` says where something else is, or an array of objects, of complex numbers or a structured one.
    """
    try:
        return msgpack.packb(value, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"
        raise WireError(f"{_where(value) or 'the message'} cannot be sent: {reason}") from error


def unpack(data: bytes) -> Any:
    """The value that bytes stand for; its arrays are read-only views of the bytes.

    A ``WireError``: truncated, followed by something, not of this format, or of more values than anybody sends.
    """
    values = 0

    def count(container: list | dict) -> None:
        nonlocal values
        values += 1 + len(container)
        if values > MOST_VALUES:
            raise WireError(f"the message has more than {MOST_VALUES} values; send numbers as NumPy arrays")

    def on_list(items: list) -> list:
        count(items)
        return items

    def on_map(fields: dict) -> Any:
        count(fields)
        return _decode(fields)

    try:
        return msgpack.unpackb(
            data, object_hook=on_map, list_hook=on_list,
            max_array_len=MOST_VALUES, max_map_len=MOST_KEYS, max_ext_len=0,
        )  # fmt: skip
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"{len(data)} bytes are not one complete message: {error or type(error).__name__}") from error


def _encode(value: Any) -> Any:
    """What MessagePack should write for a value it does not know."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in REFUSED:
        raise WireError(f"dtype {value.dtype} ({REFUSED[value.dtype.kind]}) has no form on the wire; convert it first")
    if isinstance(value, np.ndarray):
        # Numbers are read where they are: a copy of three pictures would cost more than all the rest of packing.
        plain = value.flags.c_contiguous and value.dtype.kind in "biuf"
        data = value.data if plain else value.tobytes()
        return {b"__ndarray__": True, b"data": data, b"dtype": value.dtype.str, b"shape": value.shape}
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
    if missing := {b"data", b"dtype"} - fields.keys():
        raise WireError(f"a malformed array: it has no {' and no '.join(sorted(map(repr, missing)))}")
    name, data = fields[b"dtype"], fields[b"data"]
    if not isinstance(name, str) or len(name) > LONGEST_DTYPE:  # other values describe structured types
        raise WireError(f"an array's dtype is {form(name)}, expected text such as '<f4'")
    try:
        dtype = np.dtype(name)
        if dtype.kind in REFUSED:
            raise WireError(f"an array of dtype {dtype} ({REFUSED[dtype.kind]}) is refused")
        return _scalar(dtype, data) if b"__npgeneric__" in fields else _array(dtype, data, fields.get(b"shape"))
    except WireError:
        raise
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:  # of NumPy, about dtype and shape
        raise WireError(f"a malformed array of dtype {name!r}: {error}") from error


def _array(dtype: np.dtype, data: Any, shape: Any) -> np.ndarray:
    # First of all: the product of a long list of integers takes minutes, and no other thread runs meanwhile.
    axes = shape if isinstance(shape, list) and len(shape) <= MOST_AXES else [None]
    if not all(type(size) is int and size >= 0 for size in axes):
        raise WireError(f"an array's shape is {form(shape)}, expected at most {MOST_AXES} integers from 0")
    if not isinstance(data, bytes) or not dtype.itemsize or math.prod(axes) * dtype.itemsize != len(data):
        raise WireError(f"an array {dtype}{axes} comes with {form(data)}")
    return np.ndarray(axes, dtype, data)


def _scalar(dtype: np.dtype, data: Any) -> np.generic:
    """A number of a number, a text of a text: an integer would tell NumPy how many bytes to make."""
    kinds = {"b": bool | int, "i": bool | int, "u": bool | int, "f": bool | int | float, "U": str, "S": bytes}
    if not isinstance(data, kinds.get(dtype.kind, ())):
        raise WireError(f"a scalar of dtype {dtype} comes with {form(data)}")
    return dtype.type(data)


def form(value: Any) -> str:
    """What a value is, in a few printable words whatever its size."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, str):
        return repr(value) if len(value) <= LONGEST_DTYPE else f"a text of {len(value)} characters"
    if isinstance(value, list):
        return str(value) if len(value) <= 8 and all(type(v) in (int, float) for v in value) else f"list[{len(value)}]"
    return "nil" if value is None else type(value).__name__


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
