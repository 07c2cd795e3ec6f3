"""A data set whose samples all lie in the device's memory: the host only says which rows make the next batches.

For small data, whose samples are made faster on a GPU than the host could load them. The order has the same properties
as the loader's own (``mixture.py``): every frame once an epoch, shuffled anew in each, data sets in their shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int32

from pi05_progress.files.progress_bar import progress_bar

from .mixture import Order, stripes_per_period

BLOCK = 256  # samples that a thread makes at a time


class Choices:
    """Which rows come when: an endless iterator of batches of row numbers, whose position can be kept.

    Rows of all data sets are counted through, in the order of ``lengths``.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = np.array(lengths), batch_size, seed
        self._first = np.cumsum([0, *lengths[:-1]])
        self._order = Order(stripes_per_period(lengths, weights, 1), 1, batch_size, 1)
        self._shuffled: dict[tuple[int, int], np.ndarray] = {}  # by data set and epoch, the last few
        self._next = 0

    def __next__(self) -> Int32[np.ndarray, " b"]:
        numbers = self._next * self._batch_size + np.arange(self._batch_size)
        self._next += 1
        sets, positions = self._order.positions(numbers)
        epochs, places = np.divmod(positions, self._lengths[sets])
        rows = np.empty(self._batch_size, np.int32)
        for data_set, epoch in np.unique(np.stack([sets, epochs], axis=1), axis=0):
            here = (sets == data_set) & (epochs == epoch)
            rows[here] = self._first[data_set] + self._permutation(int(data_set), int(epoch))[places[here]]
        return rows

    def _permutation(self, data_set: int, epoch: int) -> np.ndarray:
        key = data_set, epoch
        if key not in self._shuffled:
            self._shuffled = {(of, at): rows for (of, at), rows in self._shuffled.items() if of != data_set}
            self._shuffled[key] = np.random.default_rng([self._seed, *key]).permutation(self._lengths[data_set])
        return self._shuffled[key]

    def get_state(self) -> dict[str, int]:
        """Where it is."""
        return {"batches": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on there."""
        self._next = state["batches"]


def stacked(count: int, sample: Callable[[int], Mapping[str, Any]], threads: int) -> dict[str, np.ndarray]:
    """Samples ``0`` to ``count - 1`` side by side."""
    arrays = {name: np.empty((count, *np.shape(of)), np.asarray(of).dtype) for name, of in sample(0).items()}

    def make(first: int) -> int:
        last = min(first + BLOCK, count)
        for number in range(first, last):
            for name, value in sample(number).items():
                arrays[name][number] = value
        return last - first

    with ThreadPoolExecutor(threads) as pool, progress_bar("samples", count, "frames") as advance:
        for done in pool.map(make, range(0, count, BLOCK)):
            advance(done)
    return arrays
