"""A checkpoint folder: parameters, statistics and a description of what they belong to, complete or not there at all.

params/                          Orbax, openpi's tree names
assets/<asset id>/norm_stats.json
config.json                      model, robot profile, tokenizer, data and code version; written last

Other formats are imported and exported by ``convert_checkpoint``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..files import output_folder
from ..models.abstract import abstract_model, parameter_shapes
from ..models.config import Pi05Config
from ..models.parameters import ParameterMismatchError, check_parameters, load_parameters, parameter_paths
from ..models.pi05 import Pi05
from ..observation import UNTRAINED
from ..units.normalize import NormStats
from .description import ASSETS, CONFIG, NORM_STATS, PARAMS, CheckpointInfo, read_info, read_stats, write_description
from .parameter_source import CheckpointError, ParameterSource, Progress, Shardings, load_arrays

MARKERS = (CONFIG, PARAMS)  # what has them is a checkpoint, which may be overwritten
_NONE: Mapping[str, Any] = MappingProxyType({})
TIMEOUT_S = 4 * 3600  # of a save in the background; a full-size model on a slow disk takes minutes

__all__ = ["Checkpoint", "CheckpointError", "CheckpointInfo", "CheckpointSaver", "load_checkpoint", "save_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model with what it needs to be used; ``stats`` may be empty, then nothing is normalised."""

    info: CheckpointInfo
    model: Pi05
    stats: Mapping[str, NormStats]


class CheckpointSaver:
    """Writes checkpoint folders in the background; use it as a context, or call ``close`` at the end.

    ``save`` returns as soon as the parameters are copied, so that training may go on and change them. One thread waits
    for Orbax, writes the rest and moves the folder into place; it is given all it needs when it starts, and ``save``
    and ``wait`` join it first. With several processes each calls ``save`` and ``wait`` and writes its own pieces, and
    the first one does the rest.
    """

    def __init__(self) -> None:
        self._checkpointers: dict[str, Any] = {}  # Orbax's, by the name of what they write; each writes one at a time
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None
        self._error: Exception | None = None  # written by the thread, read after it is joined

    def save(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        *,
        overwrite: bool = False,
        trees: Mapping[str, Mapping[str, jax.Array]] = _NONE,
        files: Mapping[str, bytes] = _NONE,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Start writing a folder; waits for the one before.

        Args:
            folder: appears when it is complete.
            checkpoint: what is saved.
            overwrite: whether a checkpoint that is there is replaced; other folders never are.
            trees: what else belongs into the folder: further folders of Orbax's by name, their arrays by path.
            files: and files by name, of this process alone: no two processes may write the same.
            then: called in the background, by the first process alone, when the folder is in place.

        Raises:
            CheckpointError: the folder is there already and overwriting was not asked for, or it is no checkpoint; or
                the one before failed.
        """
        from .orbax_files import ITEM, nested

        self.wait()
        folder = Path(folder).absolute()
        try:
            partial, pending = output_folder.partial_of(folder), None
            if jax.process_index() == 0:
                pending = output_folder.begin(folder, replaces=MARKERS if overwrite else None)
        except output_folder.OutputFolderError as error:
            raise CheckpointError(str(error)) from error
        _meet(f"begin {folder}")
        try:
            for name, content in files.items():  # before Orbax, which waits for all processes
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            for name, arrays in {PARAMS: parameter_paths(checkpoint.model), **trees}.items():
                self._write(partial / name, {ITEM: nested(arrays)})
        except Exception as error:  # whatever Orbax and TensorStore come upon
            if pending is not None:
                pending.release()
            raise CheckpointError(f"{folder}: cannot be written: {error}") from error
        self._folder = folder
        given = (pending, checkpoint.info, checkpoint.stats, then)  # not the model: its parameters may go
        self._thread = threading.Thread(target=self._complete, args=given, name="checkpoint")
        self._thread.start()

    def _write(self, folder: Path, tree: Mapping[str, Any]) -> None:
        """Have Orbax copy a tree and start writing it."""
        import orbax.checkpoint as ocp

        from .orbax_files import save_args

        if folder.name not in self._checkpointers:
            options = ocp.options.AsyncOptions(timeout_secs=TIMEOUT_S)
            checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), async_options=options)
            self._checkpointers[folder.name] = checkpointer
        args = ocp.args.PyTreeSave(tree, save_args=save_args(tree))
        self._checkpointers[folder.name].save(folder, args=args)

    def _complete(
        self,
        pending: output_folder.Pending | None,
        info: CheckpointInfo,
        stats: Mapping[str, NormStats],
        then: Callable[[], None] | None,
    ) -> None:
        """What is left to do; ``pending`` is the first process's."""
        try:
            self._wait_for_orbax()
            if pending is not None:
                write_description(pending.path, info, stats)
                output_folder.finish(pending)
                if then is not None:
                    then()
        except Exception as error:
            self._error = error
        finally:
            if pending is not None:
                pending.release()

    def _wait_for_orbax(self) -> None:
        """Wait for all, also if one fails; the first error is raised."""
        errors = []
        for checkpointer in self._checkpointers.values():
            try:
                checkpointer.wait_until_finished()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    @property
    def failed(self) -> bool:
        """Whether a folder could not be written; ``wait`` says why."""
        return self._thread is not None and not self._thread.is_alive() and self._error is not None

    def wait(self) -> None:
        """Return once the folder is in place.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._thread is None:
            return
        self._thread.join()
        folder, error = self._folder, self._error
        self._thread = self._folder = self._error = None
        if error is not None:
            raise CheckpointError(f"{folder}: was not saved: {error}") from error
        _meet(f"finish {folder}")

    def close(self) -> None:
        """Wait, and release Orbax's threads."""
        try:
            self.wait()
        finally:
            for checkpointer in self._checkpointers.values():
                checkpointer.close()

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _meet(point: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(point)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a checkpoint folder; it appears when it is complete.

    Raises:
        CheckpointError: the folder is already there and overwriting was not asked for, or it cannot be written.
    """
    with CheckpointSaver() as saver:
        saver.save(folder, checkpoint, overwrite=overwrite)


def load_checkpoint(
    folder: Path,
    *,
    dtype: str | None = None,
    shardings: Shardings | None = None,
    need_stats: bool = True,
    progress: Progress | None = None,
) -> Checkpoint:
    """Read a checkpoint folder, leaf by leaf, straight into the dtype and onto the devices asked for.

    Args:
        folder: of the checkpoint.
        dtype: ``bfloat16`` or ``float32``; the progress head keeps what is stored. None keeps everything so.
        shardings: from a leaf's path, shape and dtype to where it lies; each process reads only its pieces. None puts
            everything on the default device.
        need_stats: whether a trained model without statistics is an error: on a robot its actions would be wrong.
        progress: called with path and bytes of every leaf that was read.

    Raises:
        CheckpointError: missing, incomplete or damaged; what is missing, extra or of another shape is listed.
    """
    from .orbax_files import open_orbax

    folder = Path(folder)
    info = read_info(folder)
    stats = read_stats(folder, info)
    if not stats and need_stats and info.model_id != UNTRAINED:
        raise CheckpointError(f"{folder}: {ASSETS}/{info.asset_id}/{NORM_STATS} is missing")
    source = open_orbax(folder / PARAMS)
    model = load_model(info.model, source, dtype=dtype, shardings=shardings, progress=progress)
    return Checkpoint(info, model, stats)


def load_model(
    config: Pi05Config,
    source: ParameterSource,
    *,
    dtype: str | None = None,
    shardings: Shardings | None = None,
    progress: Progress | None = None,
) -> Pi05:
    """A model with a source's parameters; arguments as in ``load_checkpoint``.

    Raises:
        CheckpointError: they do not fit the model, or cannot be read.
    """
    model = abstract_model(config)
    check_fit(config, source)
    wanted = None if dtype is None else jnp.dtype(dtype)
    load_parameters(model, load_arrays(source, dtype=wanted, shardings=shardings, progress=progress))
    return model


def check_fit(config: Pi05Config, source: ParameterSource) -> None:
    """Raise unless a source has exactly a model's parameters; nothing is read.

    Raises:
        CheckpointError: what is missing, extra or of another shape is listed.
    """
    try:
        check_parameters(parameter_shapes(config), source.leaves)
    except ParameterMismatchError as error:
        raise CheckpointError(
            f"{source.where} does not fit the model configuration {config.name!r}: {error}"
        ) from error


def untrained(config: Pi05Config, robot: str, seed: int = 0) -> Checkpoint:
    """Random parameters: something to run before anything was learnt. Its estimates mean nothing and are marked so."""
    return Checkpoint(CheckpointInfo(config, robot=robot), Pi05(config, nnx.Rngs(seed)), {})
