"""Parameters that are still on disk: what there is, a way to read it leaf by leaf, and a model that has them.

Every format this package reads becomes a ``ParameterSource``, so that loading, converting and casting are written
once, and nothing but the leaf at hand is in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..models.config import Pi05Config
from ..models.parameters import (
    HEAD,
    ParameterMismatchError,
    abstract_model,
    check_parameters,
    load_parameters,
    parameter_shapes,
)
from ..models.pi05 import Pi05
from .checkpoint_error import CheckpointError

Index = tuple[slice, ...]
Read = Callable[[str, np.dtype, Index], np.ndarray]
Shardings = Callable[[str, jax.ShapeDtypeStruct], jax.sharding.Sharding]
Progress = Callable[[str, int], None]  # called after each leaf with its path and bytes

ALIGNMENT = 64  # bytes; JAX takes such arrays on the CPU as they are instead of copying them


@dataclass(frozen=True)
class ParameterSource:
    """Parameters by openpi's path."""

    where: str  # folder or file, for messages
    leaves: Mapping[str, jax.ShapeDtypeStruct]  # shape and stored dtype of each
    read_piece: Read  # reads a piece of a leaf in a dtype: path, dtype, one slice with start and stop per axis

    def dtype_of(self, path: str, dtype: Any = None) -> np.dtype:
        """The dtype a leaf is read in: the one asked for, but the progress head's own, or its own if none is asked."""
        return jnp.dtype(self.leaves[path].dtype if dtype is None or path.startswith(HEAD) else dtype)

    def read(self, path: str, dtype: Any = None) -> np.ndarray:
        """A whole leaf, in an array nothing else holds; a ``CheckpointError`` if it is damaged or cannot be read."""
        whole = tuple(slice(0, size) for size in self.leaves[path].shape)
        return self.read_piece(path, self.dtype_of(path, dtype), whole)

    def without(self, prefix: str) -> ParameterSource:
        """The same without the leaves whose path starts with ``prefix``."""
        kept = {path: leaf for path, leaf in self.leaves.items() if not path.startswith(prefix)}
        return ParameterSource(self.where, kept, self.read_piece)

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> ParameterSource:
        """The same with further leaves that are in memory already."""

        def read_piece(path: str, dtype: np.dtype, index: Index) -> np.ndarray:
            return arrays[path][index].astype(dtype) if path in arrays else self.read_piece(path, dtype, index)

        more = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in arrays.items()}
        return ParameterSource(self.where, {**self.leaves, **more}, read_piece)


def shape_of(index: Index) -> tuple[int, ...]:
    """The shape an index cuts out."""
    return tuple(part.stop - part.start for part in index)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that JAX can take over without a copy."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def load_model(
    config: Pi05Config, source: ParameterSource, *, dtype: Any = None, shardings: Shardings | None = None
) -> Pi05:
    """A model with a source's parameters, as of ``load_arrays``; raises as ``check_fit``, or if one is damaged."""
    model = abstract_model(config)
    check_fit(config, source)
    load_parameters(model, load_arrays(source, dtype=dtype, shardings=shardings))
    return model


def check_fit(config: Pi05Config, source: ParameterSource) -> None:
    """Raise a ``CheckpointError`` that lists what differs, unless a source has a model's parameters; none is read."""
    try:
        check_parameters(parameter_shapes(config), source.leaves)
    except ParameterMismatchError as error:
        raise CheckpointError(
            f"{source.where} does not fit the model configuration {config.name!r}: {error}"
        ) from error


def load_arrays(
    source: ParameterSource, *, dtype: Any = None, shardings: Shardings | None = None
) -> dict[str, jax.Array]:
    """All parameters on the device, the largest first, while there is most room for what reading needs besides.

    They are cast while they are read (see ``dtype_of``). ``shardings`` decides from path, shape and dtype where a leaf
    lies, of which each process reads only its pieces; without it everything is on the default device.
    """
    arrays: dict[str, jax.Array] = {}
    for path in sorted(source.leaves, key=lambda path: -size_in_bytes(source.leaves[path])):
        shape, kind = source.leaves[path].shape, source.dtype_of(path, dtype)
        if shardings is None:
            arrays[path] = jax.device_put(source.read(path, kind))
        else:
            sharding = shardings(path, jax.ShapeDtypeStruct(shape, kind))
            arrays[path] = _sharded(source, path, kind, sharding)
    return {path: arrays[path] for path in source.leaves}


def size_in_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Of an array of this shape and dtype."""
    return int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize


def _sharded(source: ParameterSource, path: str, dtype: np.dtype, sharding: jax.sharding.Sharding) -> jax.Array:
    shape = source.leaves[path].shape
    pieces: dict[tuple, np.ndarray] = {}  # replicas of a piece are read once

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        full = tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))
        key = tuple((part.start, part.stop) for part in full)
        if key not in pieces:
            pieces[key] = source.read_piece(path, dtype, full)
        return pieces[key]

    return jax.make_array_from_callback(shape, sharding, piece, dtype=dtype)
