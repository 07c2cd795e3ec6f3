"""Checkpoint folders written in the background, while training goes on; see ``checkpoint.py`` for what is in one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict
from jax.experimental import multihost_utils

from ..files import output_folder
from ..models.parameters import parameter_paths
from ..units.normalize import NormStats
from .checkpoint import MARKERS, Checkpoint
from .checkpoint_error import CheckpointError
from .description import PARAMS, CheckpointInfo, write_description
from .digests import write_digests
from .orbax_files import ITEM, save_args

TIMEOUT_S = 4 * 3600  # of a save in the background; a full-size model on a slow disk takes minutes
_NONE: Mapping[str, Any] = MappingProxyType({})


class CheckpointSaver:
    """Writes checkpoint folders in the background; use it as a context, or call ``close`` at the end.

    ``save`` returns as soon as the parameters are copied, so that training may go on and change them. One thread waits
    for Orbax, writes the rest and moves the folder into place; ``save`` and ``wait`` wait for it first. With several
    processes each calls ``save`` and ``wait`` and writes its own pieces, and the first one does the rest.
    """

    def __init__(self) -> None:
        self._checkpointers: dict[str, Any] = {}  # Orbax's, by the name of what they write; each writes one at a time
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[Path, Future[None]] | None = None  # the folder that is being written

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
            overwrite: whether a checkpoint that is there is replaced; other folders never are.
            trees: what else belongs into the folder: further folders of Orbax's by name, their arrays by path.
            files: and files by name, of this process alone: no two processes may write the same.
            then: called in the background, by the first process alone, when the folder is in place.

        Raises:
            CheckpointError: the folder is there already and overwriting was not asked for, or it is no checkpoint; or
                the one before failed.
        """
        self.wait()
        folder = Path(folder).absolute()
        try:
            partial, pending = output_folder.partial_of(folder), None
            if jax.process_index() == 0:
                pending = output_folder.start_writing(folder, replaces=MARKERS if overwrite else None)
        except output_folder.OutputFolderError as error:
            raise CheckpointError(str(error)) from error
        _meet(f"begin {folder}")
        try:
            for name, content in files.items():  # before Orbax, which waits for all processes
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            parts = {PARAMS: parameter_paths(checkpoint.model), **trees}
            for name, arrays in parts.items():  # Orbax copies them and starts writing
                if name not in self._checkpointers:
                    options = ocp.options.AsyncOptions(timeout_secs=TIMEOUT_S)
                    handler = ocp.PyTreeCheckpointHandler()
                    self._checkpointers[name] = ocp.AsyncCheckpointer(handler, async_options=options)
                tree = {ITEM: unflatten_dict(dict(arrays), sep="/")}
                args = ocp.args.PyTreeSave(tree, save_args=save_args(tree))
                self._checkpointers[name].save(partial / name, args=args)
        except Exception as error:  # whatever Orbax and TensorStore come upon
            if pending is not None:
                pending.release()
            raise CheckpointError(f"{folder}: cannot be written: {error}") from error
        given = (pending, tuple(parts), checkpoint.info, checkpoint.stats, then)  # not the model: its parameters may go
        self._saving = folder, self._threads.submit(self._complete, *given)

    def _complete(
        self,
        pending: output_folder.Pending | None,
        parts: tuple[str, ...],
        info: CheckpointInfo,
        stats: Mapping[str, NormStats],
        then: Callable[[], None] | None,
    ) -> None:
        """What is left to do; ``pending`` is the first process's."""
        try:
            with contextlib.ExitStack() as waiting:  # for all, also if one fails, which is raised then
                for checkpointer in self._checkpointers.values():
                    waiting.callback(checkpointer.wait_until_finished)
            if pending is not None:
                for part in parts:
                    write_digests(pending.path / part, pending.path)
                write_description(pending.path, info, stats)
                output_folder.finish(pending)
                if then is not None:
                    then()
        finally:
            if pending is not None:
                pending.release()

    @property
    def failed(self) -> bool:
        """Whether a folder could not be written; ``wait`` says why."""
        return self._saving is not None and self._saving[1].done() and self._saving[1].exception() is not None

    def wait(self) -> None:
        """Return once the folder is in place; a ``CheckpointError`` says why it could not be written."""
        if self._saving is None:
            return
        folder, saving = self._saving
        error = saving.exception()
        self._saving = None  # not before: who interrupts the waiting may wait again
        if error is not None:
            raise CheckpointError(f"{folder}: was not saved: {error}") from error
        _meet(f"finish {folder}")

    def close(self) -> None:
        """Wait, and release all threads."""
        try:
            self.wait()
        finally:
            self._threads.shutdown()
            for checkpointer in self._checkpointers.values():
                checkpointer.close()

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _meet(point: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a checkpoint folder, which appears when it is complete; raises as ``CheckpointSaver.save`` and ``wait``."""
    with CheckpointSaver() as saver:
        saver.save(folder, checkpoint, overwrite=overwrite)
