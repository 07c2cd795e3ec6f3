"""In which order frames are trained on: by data set, by share of a process, and shuffled.

Every data set's frames are cut into *shards* of the same size, episode after episode, and each shard is shuffled by
itself, anew in every epoch (by grain). A *stripe* is one frame of each shard of one data set. Stripes of the data sets
follow one another in proportion to their weights, evenly spread, and a batch is a fixed number of stripes. A process
reads a contiguous share of the shards: its own episodes. So what is in a batch does not depend on how many there are.

Of small data all samples may lie in the device's memory, which are made faster on a GPU than the host could load them:
then the host only says which rows make the next batches (``Choices``), in an order of the same properties.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np
from jaxtyping import Int32, Int64

from pi05_progress.files.progress_bar import progress_bar

from .config import DataConfigError

SHARDS = 8  # if the batch allows: up to as many processes give the same batches
BLOCK = 256  # samples for the device's memory that a thread makes at a time
PERIOD = 4096  # stripes, after which the order of data sets with given weights repeats itself


def shard_count(batch_size: int, process_count: int, data_sets: int) -> int:
    """Shards of each data set: a divisor of the batch size and a multiple of the number of processes.

    With several data sets at least four stripes make a batch, if that leaves two shards: else batches would hold one
    data set each.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise DataConfigError(
            f"batch_size is {batch_size}, which {process_count} processes cannot share; choose a multiple of it"
        )
    most = SHARDS if data_sets == 1 else max(2, min(SHARDS, batch_size // 4))
    return math.lcm(math.gcd(batch_size, most), process_count)


def shards(rows: Int64[np.ndarray, " n"], count: int) -> list[Int64[np.ndarray, " m"]]:
    """Rows cut into ``count`` parts, whose sizes differ by one at most; parts share rows if there are not enough."""
    n = len(rows)
    if n < count:
        return [rows[[part % n]] for part in range(count)]
    return [rows[part * n // count : (part + 1) * n // count] for part in range(count)]


def stripes_per_period(lengths: Sequence[int], weights: Sequence[float], shard_count: int) -> list[int]:
    """How many stripes of each data set are in a period of the mixture.

    Args:
        lengths: frames of each data set that are trained on.
        weights: positive, one of each data set; if there are none, a period is an epoch of all.
    """
    if not weights:
        return [-(-length // shard_count) for length in lengths]
    if len(weights) != len(lengths) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise DataConfigError(
            f"weights are {', '.join(f'{w:g}' for w in weights)}; expected a positive number for each of the "
            f"{len(lengths)} data sets (leave a data set out to give it none)"
        )
    exact = np.array(weights) / sum(weights) * PERIOD
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]:
        counts[index] += 1
    return [max(1, int(count)) for count in counts]


class Order:
    """Which row comes when. Grain selects with it: element ``i`` is row ``i // p`` of process ``i % p`` of ``p``."""

    def __init__(self, counts: Sequence[int], shard_count: int, batch_size: int, process_count: int) -> None:
        self._counts, self._shards = list(counts), shard_count
        self._batch, self._processes = batch_size, process_count
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.argsort(times, kind="stable")
        sets = np.repeat(np.arange(len(counts)), counts)
        ranks = np.concatenate([np.arange(count) for count in counts])
        self._set, self._rank = sets[order].astype(np.int32), ranks[order].astype(np.int32)

    def draw(self, index: int) -> tuple[int, int, int, int]:
        """Of element ``index`` the data set, the shard, how many rows of that shard came before, the draw's number."""
        batch, slot = divmod(index, self._batch)
        within, process = divmod(slot, self._processes)
        row = process * (self._batch // self._processes) + within  # of the batch
        per_shard = self._batch // self._shards
        shard, stripe = divmod(row, per_shard)
        period, at = divmod(batch * per_shard + stripe, len(self._set))
        data_set = int(self._set[at])
        return data_set, shard, period * self._counts[data_set] + int(self._rank[at]), batch * self._batch + row

    def positions(self, numbers: Int64[np.ndarray, " n"]) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Of draws, where there is one shard: the data set, and how many of its rows came before."""
        periods, at = np.divmod(numbers, len(self._set))
        sets = self._set[at]
        return sets, periods * np.array(self._counts)[sets] + self._rank[at]

    def __len__(self) -> int:
        return sys.maxsize  # endless

    def __getitem__(self, index: int) -> tuple[int, int]:
        data_set, shard, position, _ = self.draw(index)
        return data_set * self._shards + shard, position


def training_order(
    rows: Sequence[Int64[np.ndarray, " n"]], order: Order, shard_count: int, seed: int
) -> grain.MapDataset:
    """Endless rows to train on, each (data set, row), in grain's terms."""
    streams = []
    for data_set, own in enumerate(rows):
        for number, part in enumerate(shards(own, shard_count)):
            pairs = np.stack([np.full(len(part), data_set), part], axis=1)
            shuffle_seed = hashlib.sha256(f"{seed} {data_set} {number}".encode()).digest()
            stream = grain.MapDataset.source(pairs).shuffle(seed=int.from_bytes(shuffle_seed[:4], "little"))
            streams.append(stream.repeat())
    return grain.MapDataset.select_from_datasets(streams, order)


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
