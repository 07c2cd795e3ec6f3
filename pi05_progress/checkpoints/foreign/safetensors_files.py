"""Safetensors files, read and written tensor by tensor.

The library maps a file into memory or writes from memory at once; here reading uses its plain reads, so that a file is
not resident beside the parameters, and writing streams.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from ...files.json_file import read_json
from ..checkpoint_error import CheckpointError
from ..parameter_source import size_in_bytes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
ALIGNMENT = 8  # bytes, of the header


@dataclass(frozen=True)
class TensorFile:
    """Tensors that are still on disk."""

    where: str  # file or folder, for messages
    tensors: Mapping[str, jax.ShapeDtypeStruct]  # shape and dtype by name
    files: Mapping[str, Path]  # where each tensor is

    def read(self, name: str) -> np.ndarray:
        """One tensor; a ``CheckpointError`` if it cannot be read."""
        try:
            with safe_open(self.files[name], framework="numpy", backend="pread") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.files[name]}: {name} cannot be read, the file is damaged: {error}") from error


def is_safetensors(path: Path) -> bool:
    """Whether a path is a safetensors file, or a folder with a model in such files."""
    if path.is_dir():
        return (path / SINGLE).is_file() or (path / INDEX).is_file()
    return path.suffix == ".safetensors" and path.is_file()


def open_safetensors(path: Path) -> TensorFile:
    """A file, or a folder with one, or with several and their index; a ``CheckpointError`` if one is damaged."""
    if path.is_dir() and not (path / SINGLE).is_file() and (path / INDEX).is_file():
        return _open_several(path)
    file = path / SINGLE if path.is_dir() else path
    tensors = _header(file)
    return TensorFile(str(file), tensors, dict.fromkeys(tensors, file))


def _open_several(folder: Path) -> TensorFile:
    try:
        listed = read_json(folder / INDEX)["weight_map"]
        paths = {name: folder / file for name, file in listed.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / INDEX}: not an index of safetensors files: {error!r}") from error
    headers = {path: _header(path) for path in sorted(set(paths.values()))}
    if absent := [name for name, path in paths.items() if name not in headers[path]]:
        raise CheckpointError(f"{folder / INDEX} lists {len(absent)} tensors that its files lack, as {absent[0]}")
    return TensorFile(str(folder), {name: headers[path][name] for name, path in paths.items()}, paths)


def _header(file: Path) -> dict[str, jax.ShapeDtypeStruct]:
    try:
        with safe_open(file, framework="numpy", backend="pread") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file, truncated or damaged: {error}") from error
    if strange := sorted({dtype for _, dtype in found.values() if dtype not in NAMES}):
        raise CheckpointError(f"{file}: numbers stored as {', '.join(strange)} are not known; {', '.join(NAMES)} are")
    return {name: jax.ShapeDtypeStruct(shape, jnp.dtype(NAMES[dtype])) for name, (shape, dtype) in found.items()}


def write_safetensors(
    file: Path, layout: Mapping[str, jax.ShapeDtypeStruct], tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a file, holding one tensor at a time; all of them come once, in any order.

    ``layout`` has shape and dtype of every tensor by name, in the order they lie in the file. A ``CheckpointError``: a
    tensor is missing or differs from it, or the file cannot be written.
    """
    codes = {name: code for code, name in NAMES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name, leaf in layout.items():
        starts[name], end = end, end + size_in_bytes(leaf)
        code = codes[jnp.dtype(leaf.dtype).name]
        header[name] = {"dtype": code, "shape": list(leaf.shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    try:
        with file.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            data = out.tell()
            for name, array in tensors:
                if array.shape != tuple(layout[name].shape) or array.dtype != layout[name].dtype:
                    raise CheckpointError(f"{name} is {array.dtype}{array.shape}, announced was {layout[name]}")
                out.seek(data + starts.pop(name))
                # as bytes: NumPy writes no other view of bfloat16
                out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if starts:
                raise CheckpointError(f"{file}: {len(starts)} tensors were announced and not written: {sorted(starts)}")
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written: {error.strerror}") from error
