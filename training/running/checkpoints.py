"""Checkpoints of a run: what the policy loads and what training goes on from, in one folder, written while it goes on.

The thread that waits for Orbax moves a folder into place, turns the links and removes what is not kept; all it needs
is given to it when it starts. A process that is killed at any moment leaves the checkpoints that were complete.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from pi05_progress.checkpoints.checkpoint import Checkpoint, CheckpointError
from pi05_progress.checkpoints.description import PARAMS
from pi05_progress.checkpoints.orbax_files import open_orbax
from pi05_progress.checkpoints.parameter_source import ParameterSource, load_arrays
from pi05_progress.checkpoints.saver import CheckpointSaver
from pi05_progress.files.json_file import read_json
from pi05_progress.files.output_file import write_file
from pi05_progress.files.output_folder import partial_of
from pi05_progress.models.parameters import ParameterMismatchError, check_parameters

from ..engine.state import TrainState
from .run_folder import BEST, LAST, RunFolder

TRAIN_STATE, POSITION, RUN = "train_state", "position.bin", "run.json"
RAW, FROZEN, AVERAGE = "params/", "frozen/", "ema_params/"  # of a train state's paths
HIGHER_IS_BETTER = ("spearman", "success", "milestones")


@dataclass(frozen=True)
class Best:
    """The lowest number of validation so far, and at which step; the negative of one that is better the higher."""

    step: int
    loss: float

    @staticmethod
    def of(before: Best | None, step: int, loss: float) -> Best | None:
        """The best after one more validation; a number that is not finite never is."""
        if not math.isfinite(loss):
            return before
        beaten = before is None or not math.isfinite(before.loss) or loss < before.loss
        return Best(step, loss) if beaten else before


@dataclass(frozen=True)
class RunState:
    """What a run goes on from beside parameters, optimiser and the loader's position."""

    step: int  # number of steps done
    key: list[int]  # data of the random key that every step folds its number into
    best: Best | None  # the best validation, if there was any
    window: list[dict[str, float]] = field(default_factory=list)  # metrics of the steps that no row of the logs has yet
    validation_owed: bool = False  # whether validation was due after this step, but a signal came first

    def to_json(self) -> bytes:
        """As a file."""
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> RunState:
        """From a file."""
        try:
            data = read_json(path)
            best = data.pop("best")
            return cls(best=None if best is None else Best(**best), **data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path}: cannot be read, training cannot go on from there: {error}") from error


class RunCheckpoints:
    """Saves checkpoints of a run; use it as a context. All processes call all methods, at the same steps."""

    def __init__(self, folder: RunFolder, keep_period: int | None) -> None:
        self._folder, self._keep_period = folder, keep_period
        self._saver = CheckpointSaver()
        self._saving: int | None = None

    def save(
        self,
        checkpoint: Checkpoint,
        train_state: Mapping[str, jax.Array],
        state: RunState,
        others: Mapping[str, bytes],
    ) -> None:
        """Copy everything off the devices and start writing it; waits for the checkpoint before, and raises where that
        could not be written. What is there already stays as it was."""
        self.wait()
        files = {RUN: state.to_json(), **others} if jax.process_index() == 0 else {}
        best = state.best.step if state.best is not None else None
        self._saving = state.step
        with _told_how_to_go_on():
            self._saver.save(
                self._folder.step(state.step),
                checkpoint,
                overwrite=True,
                trees={TRAIN_STATE: train_state},
                files=files,
                then=lambda: self._finished(state.step, best),
            )

    def _finished(self, step: int, best: int | None) -> None:
        """In the background, when a folder is in place."""
        self._folder.link(LAST, step)
        steps = self._folder.steps()
        if best in steps:
            self._folder.link(BEST, best)
        for old in to_remove(steps, step, self._folder.linked(BEST), self._keep_period):
            self._folder.remove(old)

    def validated(self, state: RunState) -> None:
        """Write into a checkpoint that is there already that the validation it owed is done; else it stays owed."""
        if jax.process_index() != 0:
            return
        path = self._folder.step(state.step) / RUN
        try:
            write_file(path, state.to_json(), durable=True)
            self._finished(state.step, state.best.step if state.best is not None else None)
        except OSError as error:
            with _told_how_to_go_on():
                raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error

    def wait(self) -> None:
        """Return when everything is in place; a ``CheckpointError`` says what could not be written."""
        with _told_how_to_go_on():
            self._saver.wait()
        self._saving = None

    def raise_if_failed(self) -> None:
        """Notice soon that a checkpoint could not be written; does not wait for one that is being written."""
        if self._saver.failed:
            self.wait()

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._saver.close()
        except CheckpointError:
            if error is None:
                raise
        finally:
            if self._saving is not None and jax.process_index() == 0:  # what is half written only takes up space
                shutil.rmtree(partial_of(self._folder.step(self._saving)), ignore_errors=True)


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Checkpoints before it are complete: make room or mend what is wrong, then go on with --resume"
        ) from error


def to_remove(steps: Iterable[int], last: int, best: int | None, keep_period: int | None) -> list[int]:
    """Checkpoints that are not kept: neither the last nor the best, and no multiple of ``keep_period``."""
    return [s for s in steps if s not in (last, best) and not (keep_period and s % keep_period == 0)]


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by path, parts joined with "/"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def beside_parameters(state: TrainState) -> dict[str, jax.Array]:
    """What of a state ``params/`` does not hold, by path: step, optimiser, and raw parameters if those are averaged."""
    leaves = by_path(state)
    averaged = state.ema_params is not None
    return {path: leaf for path, leaf in leaves.items() if not _in_params(path, averaged)}


def _in_params(path: str, averaged: bool) -> bool:
    return path.startswith((FROZEN, AVERAGE if averaged else RAW))


def restore_state(folder: Path, shapes: TrainState) -> TrainState:
    """A state from a checkpoint of a run, bit for bit, each leaf read to where it lies."""
    wanted = by_path(shapes)
    averaged = shapes.ema_params is not None
    params, beside = open_orbax(folder / PARAMS), open_orbax(folder / TRAIN_STATE)
    where = {path: (params, path.split("/", 1)[1]) if _in_params(path, averaged) else (beside, path) for path in wanted}
    try:
        check_parameters(wanted, {path: at.leaves[name] for path, (at, name) in where.items() if name in at.leaves})
    except ParameterMismatchError as error:
        raise CheckpointError(f"{folder}: training cannot go on from this checkpoint: {error}") from error
    source = ParameterSource(
        str(folder),
        {path: at.leaves[name] for path, (at, name) in where.items()},
        lambda path, dtype, index: where[path][0].read_piece(where[path][1], dtype, index),
    )
    arrays = load_arrays(source, shardings=lambda path, leaf: wanted[path].sharding)
    return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[path] for path in wanted])
