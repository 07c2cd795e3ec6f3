"""The loader: data sets of a configuration as an endless stream of batches, and held-out episodes as a finite one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pi05_progress.models.config import Pi05Config
from pi05_progress.normalize import NormStats
from pi05_progress.tokenizer import Encoder

from ..datasets.progress_meta import ProgressMeta
from ..datasets.reader import Dataset
from .batch import Batch
from .config import DataConfig


class TrainLoader:
    """An endless iterator of training batches; use it as a context, or call ``close``. Not thread-safe.

    The order is decided by the seed: neither the number of workers nor that of processes changes it. Row ``i`` of
    process ``p`` is row ``p * batch_size / process_count + i`` of the batch that one process alone would see.

    Args:
        config: which data.
        model: what it is made for: size of pictures, horizon, dimensions, length and form of prompts.
        encoder: the model's tokenizer.
        batch_size: rows of all processes together.
        seed: of the order and of negatives, in [0, 2**32).
        process_index: which process this is.
        process_count: of how many.

    Attributes:
        datasets: opened.
        progress_meta: per data set: outcomes and milestones of its episodes, and how its labels were made.
        held_out: per data set the episodes that are not trained on, in order.
        has_labels: whether any data set has progress labels.
        stats: statistics of ``state`` and ``actions`` that are used.
        asset_id: their name in checkpoints.
        action_dt_s: time between two rows of a chunk.
        fingerprint: of everything that decides what batches hold.
        notes: what should be said to whoever starts the run.

    Raises:
        DataConfigError, DatasetError, ConfigError: data or configuration do not fit; the message says what to do.
    """

    datasets: list[Dataset]
    progress_meta: list[ProgressMeta]
    held_out: list[list[int]]
    has_labels: bool
    stats: Mapping[str, NormStats]
    asset_id: str
    action_dt_s: float
    fingerprint: str
    notes: list[str]

    def __init__(
        self,
        config: DataConfig,
        model: Pi05Config,
        encoder: Encoder,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        raise NotImplementedError  # being written

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch: this process's ``batch_size / process_count`` rows."""
        raise NotImplementedError

    def state(self) -> bytes:
        """Where the loader is: after the last batch that ``next`` gave."""
        raise NotImplementedError

    def restore(self, state: bytes) -> None:
        """Go on exactly there; also with another number of workers or processes.

        Raises:
            DataConfigError: the state was saved with other data or another configuration; says what differs.
        """
        raise NotImplementedError

    def validation_batches(self, batch_size: int, *, stride: int = 1) -> Iterator[Batch]:
        """Held-out episodes in order, whole: data set after data set, episode after episode, frame after frame.

        All processes give the same number of batches. The last batch is filled up to its size with rows that do not
        count: ``origin`` -1, ``action_weight`` 0, ``progress_mask`` False. No negatives are among them.

        Args:
            batch_size: rows of all processes together.
            stride: of frames: every so many frames of an episode, the first in any case.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop worker processes and threads."""

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
