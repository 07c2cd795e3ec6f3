"""Keeps the batch that a loss or gradient came from that was not finite, and says what stands out in it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import output_file

from ..loading.batch import Batch
from .checkpoints import by_path
from .metrics import Arrived


def keep(folder: Path, arrived: Arrived, datasets: list[Path]) -> UserError:
    """Write this process's rows of the batch as a file of arrays, if that can be; returns the error to raise."""
    batch: Batch = arrived.batch()
    process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = folder / f"bad_batch_{arrived.step}{process}.npz"
    try:
        with output_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays(batch))
        kept = f"The batch is in {path}"
    except OSError as error:  # the number that is not finite matters more
        kept = (
            f"The batch could not be kept, {path}: {error.strerror or error}; when that is mended, --resume repeats it"
        )
    bad = ", ".join(f"{name} is {value}" for name, value in arrived.metrics.items() if not np.isfinite(value))
    roots = ", ".join(f"{number}: {root}" for number, root in enumerate(datasets))
    return UserError(
        f"step {arrived.step}: {bad}. {_suspects(batch)} {kept} (`origin`: data set, episode, frame; "
        f"data sets: {roots}). No checkpoint of it was saved; --resume goes on from the last one. If the data are "
        "right, start a new run with a lower --optimizer.peak_learning_rate or a longer --optimizer.warmup_steps"
    )


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    """A batch's arrays by name, such as ``observation.images.base_0_rgb``."""
    return {path.replace("/", "."): np.asarray(leaf) for path, leaf in by_path(batch).items()}


def _suspects(batch: Batch) -> str:
    """Rows with numbers that are not finite, or the largest number."""
    numbers = {name: array for name, array in arrays(batch).items() if np.issubdtype(array.dtype, np.floating)}
    for name, array in numbers.items():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if len(rows):
            where = ", ".join(str(tuple(batch.origin[row].tolist())) for row in rows[:5])
            return f"{name} is not finite in {len(rows)} samples, the first are {where}."
    name, array = max(numbers.items(), key=lambda item: np.abs(item[1]).max())
    row = int(np.abs(array.reshape(len(array), -1)).max(axis=1).argmax())
    largest = np.abs(array).max()
    return f"All inputs are finite, the largest is {largest:.3g} in {name} of {tuple(batch.origin[row].tolist())}."
