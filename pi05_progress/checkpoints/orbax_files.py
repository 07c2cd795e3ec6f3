"""Orbax folders of parameters, read and written leaf by leaf.

Orbax writes them. They are read from its list of arrays (``_METADATA``) and through TensorStore, a few chunks at a time
and cast on the way, because Orbax's own restore decodes all of a leaf's chunks beside the result.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import type_handlers

from ..files.json_file import read_json
from .checkpoint_error import CheckpointError
from .digests import check_digests, write_digests
from .parameter_source import Index, ParameterSource, Progress, aligned_empty, shape_of

CHUNK_BYTES = 64 * 2**20  # of what is written
IN_FLIGHT_BYTES = 256 * 2**20  # of chunks being decoded at once, unless a single one is larger
VALUE = "value"  # last part of every path in checkpoints written from an nnx.State
ITEM, METADATA = "params", "_METADATA"


def open_orbax(folder: Path) -> ParameterSource:
    """What is in an Orbax folder, openpi's or ours; ``value`` at the end of every path is taken off.

    Parameters are at ``params`` on the tree's top level; a tree without it is taken as a whole. What is missing
    or damaged is a ``CheckpointError``.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; the checkpoint is incomplete")
    names, driver = _listing(folder)
    if inside := {path.removeprefix(f"{ITEM}/"): at for path, at in names.items() if path.startswith(f"{ITEM}/")}:
        names = inside
    if not names:
        raise CheckpointError(f"{folder}: there are no parameters in it")
    if all(path.endswith(f"/{VALUE}") for path in names):
        names = {path.removesuffix(f"/{VALUE}"): name for path, name in names.items()}
    reader = _Reader(folder, names, driver)
    return ParameterSource(str(folder), reader.leaves, reader)


def _listing(folder: Path) -> tuple[dict[str, str], str]:
    """Names of the arrays by path, and TensorStore's driver for their format, from Orbax's own list."""
    path = folder / METADATA
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {METADATA}: not a folder of Orbax's, or incomplete")
    try:
        listed = read_json(path)
        keys = [[str(key["key"]) for key in leaf["key_metadata"]] for leaf in listed["tree_metadata"].values()]
        zarr3 = bool(listed.get("use_zarr3", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {_brief(error)}") from error
    return {"/".join(parts): ".".join(parts) for parts in keys}, "zarr3" if zarr3 else "zarr"


class _Reader:
    """Reads pieces of the arrays of one folder, whose files are compared with their digests before the first one."""

    _checked = False

    def __init__(self, folder: Path, names: Mapping[str, str], driver: str) -> None:
        self._folder = folder
        context = ts.Context({"cache_pool#nodes": {"total_bytes_limit": 10_000_000}})
        shared = (folder / "manifest.ocdbt").exists()  # all arrays in one database, else a folder for each

        def open_array(name: str) -> ts.Future:
            files = {"driver": "file", "path": f"{folder}/" if shared else f"{folder}/{name}/"}
            database = {"driver": "ocdbt", "base": files, "path": f"{name}/", "cache_pool": "cache_pool#nodes"}
            spec = {
                "driver": driver,
                "kvstore": database if shared else files,
                "fill_missing_data_reads": False,  # a lost chunk is an error, not zeros
            }
            return ts.open(spec, open=True, read=True, context=context)

        opening = {path: open_array(name) for path, name in names.items()}
        self._stores: dict[str, ts.TensorStore] = {}
        self.leaves: dict[str, jax.ShapeDtypeStruct] = {}
        for path, future in opening.items():
            try:
                self._stores[path] = store = future.result()
            except Exception as error:  # TensorStore raises ValueError and others
                raise self._damaged(path, error) from error
            self.leaves[path] = jax.ShapeDtypeStruct(tuple(store.shape), store.dtype.numpy_dtype)

    def _damaged(self, path: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: {path} cannot be read, the checkpoint is damaged or incomplete: {_brief(error)}"
        )

    def __call__(self, path: str, dtype: np.dtype, index: Index) -> np.ndarray:
        if not self._checked:
            check_digests(self._folder)
            self._checked = True
        try:
            store = self._stores[path]
            chunk = store.chunk_layout.read_chunk.shape or ()  # a single number has none
            chunk_bytes = int(np.prod(chunk, dtype=np.int64)) * store.dtype.numpy_dtype.itemsize
            out = aligned_empty(shape_of(index), dtype)
            target, source = ts.array(out), ts.cast(store, ts.dtype(dtype))
            pending: deque[ts.WriteFutures] = deque()
            for piece in _chunks(index, chunk):
                if len(pending) * chunk_bytes >= IN_FLIGHT_BYTES:
                    pending.popleft().result()
                local = tuple(slice(p.start - i.start, p.stop - i.start) for p, i in zip(piece, index, strict=True))
                pending.append(target[local].write(source[piece]))
            for write in pending:
                write.result()
        except Exception as error:
            raise self._damaged(path, error) from error
        return out


def _chunks(index: Index, chunk: Sequence[int]) -> Iterator[Index]:
    """The parts of an index that lie in one chunk each."""
    axes = []
    for part, size in zip(index, chunk, strict=True):
        starts = range(part.start // size * size, part.stop, size)
        axes.append([slice(max(start, part.start), min(start + size, part.stop)) for start in starts])
    return itertools.product(*axes)


class _Leaf:
    """A leaf that is read when its turn to be written comes; Orbax wants only to know its shape and dtype."""

    def __init__(self, source: ParameterSource, path: str, dtype: Any) -> None:
        self.source, self.path = source, path
        self.shape, self.dtype = source.leaves[path].shape, source.dtype_of(path, dtype)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * self.dtype.itemsize


class _LeafHandler(type_handlers.NumpyHandler):
    """Writes leaves one after the other, small ones together, so that only a little is in memory."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._progress = progress

    async def serialize(
        self,
        values: Sequence[_Leaf],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> list:
        for batch in _batches(list(zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True))):
            leaves, of_infos, of_args = zip(*batch, strict=True)
            arrays = [leaf.source.read(leaf.path, leaf.dtype) for leaf in leaves]
            for future in await super().serialize(arrays, of_infos, of_args):
                future.result()
            del arrays  # before the next are read
            if self._progress is not None:
                for leaf in leaves:
                    self._progress(leaf.path, leaf.nbytes)
        return []


def _batches(given: list[tuple]) -> Iterator[list[tuple]]:
    """Consecutive leaves of together at most a chunk; each commit takes time, however small the leaf."""
    batch: list[tuple] = []
    for entry in given:
        if batch and sum(leaf.nbytes for leaf, *_ in [*batch, entry]) > CHUNK_BYTES:
            yield batch
            batch = []
        batch.append(entry)
    yield batch


def write_orbax(
    folder: Path,
    source: ParameterSource,
    *,
    dtype: Any = None,
    suffix: str = "",
    chunk_bytes: int | None = CHUNK_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write parameters into a new folder, ``{"params": tree}``, one leaf in memory at a time.

    Args:
        folder: must not exist; appears when it is complete, and then its digests beside it.
        dtype: to store them in; the progress head keeps its own. None keeps what they have.
        suffix: further last part of every path; openpi's own checkpoints have ``value``.
        chunk_bytes: largest piece of a leaf that can only be read as a whole; None leaves it to Orbax, up to 2 GiB.
    """
    leaves = {f"{path}/{suffix}" if suffix else path: _Leaf(source, path, dtype) for path in source.leaves}
    tree = {ITEM: unflatten_dict(leaves, sep="/")}
    registry = type_handlers.create_type_handler_registry(
        (jax.Array, type_handlers.ArrayHandler()), (_Leaf, _LeafHandler(progress))
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as checkpointer:
            args = ocp.args.PyTreeSave(tree, save_args=save_args(tree, chunk_bytes))
            checkpointer.save(Path(folder).absolute(), args)
        write_digests(Path(folder), Path(folder).parent)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot be written: {_brief(error)}") from error


def save_args(tree: Any, chunk_bytes: int | None = CHUNK_BYTES) -> Any:
    """How Orbax shall store each leaf: in chunks small enough to be read a few at a time."""
    return jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk_bytes), tree)


def _brief(error: BaseException) -> str:
    """The first line of what another library says, without the page that follows."""
    text = str(error).strip() or repr(error)
    return text.splitlines()[0][:300]
