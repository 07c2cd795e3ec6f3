"""The loader: data sets of a configuration as an endless stream of batches, and held-out episodes as a finite one.

    rows of data sets ── shuffled, mixed, shared (mixture) ── samples ── batches of grain's iterator ── Batch

Grain shuffles, shares rows among processes, loads in threads or worker processes, and keeps the position.
"""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import absl.flags
import grain
import numpy as np
from jaxtyping import Int64

from pi05_progress.models.config import Pi05Config
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.tokenizer import Encoder

from ..datasets.progress_meta import ProgressMeta, load_progress_meta
from ..datasets.reader import Dataset
from .batch import Batch
from .cache import cached_pictures
from .config import DataConfig, DataConfigError
from .data_sets import asset_name, open_data_sets
from .mixture import Order, shard_count, stripes_per_period, training_order
from .negatives import negatives
from .pictures import DecodedPictures, Pictures, camera_features
from .rows import load_rows
from .samples import Sample, SampleMaker, Source, to_batch
from .split import held_out
from .statistics import statistics

STATE_FORMAT = 1
AHEAD = 2  # batches that every worker process keeps ready


class TrainLoader:
    """An endless iterator of training batches; use it as a context, or call ``close``. Not thread-safe.

    The order is decided by the seed: neither the number of workers nor that of processes changes it. Row ``i`` of
    process ``p`` is row ``p * batch_size / process_count + i`` of the batch that one process alone would see (up to
    eight processes and a batch size that is a multiple of eight, see ``mixture.py``).

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
        train_frames: frames that are trained on; ``validation_frames`` those that are held out.
        fingerprint: of everything that decides what batches hold, pictures' contents aside.
        notes: what should be said to whoever starts the run.

    Raises:
        DataConfigError, DatasetError, PictureError, ConfigError: data or configuration do not fit; the message says
            what to do.
    """

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
        _check_arguments(config, model, encoder, seed, process_index, process_count)
        self._config, self._batch_size = config, batch_size
        self._process, self._processes = process_index, process_count
        profile = RobotProfile.load(config.robot)
        self.datasets: list[Dataset] = open_data_sets(config, profile)
        self.progress_meta: list[ProgressMeta] = [load_progress_meta(dataset.root) for dataset in self.datasets]
        self.asset_id, self.action_dt_s = asset_name(config, self.datasets), 1 / self.datasets[0].fps
        shards = shard_count(batch_size, process_count, len(self.datasets))
        self.held_out: list[list[int]] = [
            held_out(len(dataset.episodes), config.validation_fraction, config.seed_split) for dataset in self.datasets
        ]
        features = [camera_features(dataset, profile, config.cameras) for dataset in self.datasets]
        rows = [load_rows(dataset, profile, config.progress_column) for dataset in self.datasets]
        self.has_labels = any(of.progress is not None for of in rows)
        self.stats, where = statistics(config, self.datasets, rows, profile, model.action_horizon)
        changes = negatives(config, seed, [dataset.tasks for dataset in self.datasets], rows, self.progress_meta)
        own = [_split(of.starts, out) for of, out in zip(rows, self.held_out, strict=True)]
        training, self._validation = [train for train, _ in own], [out for _, out in own]
        self.train_frames = sum(len(of) for of in training)
        self.validation_frames = sum(len(of) for of in self._validation)
        counts = stripes_per_period([len(of) for of in training], config.weights, shards)
        made_from = {
            "data sets": [of.digest() for of in rows],
            "instructions": [dataset.tasks for dataset in self.datasets],
            "held-out episodes": self.held_out,
            "cameras": features,
            "statistics": _digest({key: [of.mean.tolist(), of.std.tolist()] for key, of in self.stats.items()}),
            "model": [model.image_size, model.action_horizon, model.action_dim, model.max_token_len],
            "discrete_state": model.discrete_state,
            "quantiles": config.quantiles,
            "delta_actions": config.delta_actions,
            "wrong_instruction": config.wrong_instruction,
            "reversed_clip": config.reversed_clip,
            "weights": counts if config.weights else None,
            "batch_size": batch_size,
            "seed": seed,
            "shards": shards,
        }
        self._made_from: dict[str, Any] = json.loads(json.dumps(made_from))
        self.fingerprint = _digest(self._made_from)
        self._folder = tempfile.TemporaryDirectory(prefix="pi05_progress_rows_") if config.workers else None
        if self._folder is not None:
            rows = [of.moved_to(Path(self._folder.name) / str(index)) for index, of in enumerate(rows)]
        pictures = [self._pictures(*pair, model.image_size) for pair in zip(self.datasets, features, strict=True)]
        sources = [Source(*of) for of in zip(rows, pictures, [d.tasks for d in self.datasets], strict=True)]
        self._samples = SampleMaker(
            sources,
            model,
            encoder,
            self.stats,
            quantiles=config.quantiles,
            relative=config.delta_actions,
            negatives=changes,
        )
        self._samples.check_prompts()
        order = Order(counts, shards, batch_size, process_count)
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()  # worker processes of grain read its flags, which nobody gives here
        make = _TrainingSample(order, self._samples)
        self._iterator = iter(
            grain.experimental.ElasticIterator(
                training_order(training, order, shards, seed).map_with_index(make),
                batch_size,
                grain.sharding.ShardOptions(process_index, process_count),
                read_options=self._read_options(),
                multiprocessing_options=grain.MultiprocessingOptions(config.workers, AHEAD) if config.workers else None,
            )
        )
        self.notes = self._notes(where, [of.valid for of in rows])

    def _pictures(self, dataset: Dataset, features: Mapping[str, str], size: tuple[int, int]) -> Pictures:
        if self._config.cache is None:
            return DecodedPictures(dataset, features, size)
        return cached_pictures(Path(self._config.cache).expanduser(), dataset, features, size)

    def _read_options(self) -> grain.ReadOptions:
        return grain.ReadOptions(num_threads=self._config.threads, prefetch_buffer_size=self._config.threads)

    def _notes(self, where: str, valid: list[np.ndarray | None]) -> list[str]:
        episodes = [len(dataset.episodes) for dataset in self.datasets]
        out = sum(len(of) for of in self.held_out)
        labelled = sum(int(of.sum()) for of in valid if of is not None)
        total = self.train_frames + self.validation_frames
        labels = (
            f"progress labels: {labelled} of {total} frames"
            if self.has_labels
            else "no progress labels are used: actions alone are trained"
        )
        return [
            f"data: {total} frames of {sum(episodes)} episodes in {len(episodes)} data set"
            f"{'s' * (len(episodes) > 1)}, {out} episodes ({self.validation_frames} frames) held out",
            labels,
            f"statistics: {where}",
        ]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch: this process's ``batch_size / process_count`` rows."""
        sample = next(self._iterator)
        if self._config.workers:  # arrays in shared memory, which grain takes back when they are no longer used
            sample = {name: np.array(values, subok=False) for name, values in sample.items()}
        return to_batch(sample)

    def state(self) -> bytes:
        """Where the loader is: after the last batch that ``next`` gave."""
        state = {"format": STATE_FORMAT, "made_from": self._made_from, "position": self._iterator.get_state()}
        return json.dumps(state).encode()

    def restore(self, state: bytes) -> None:
        """Go on exactly there; also with another number of workers or processes.

        Raises:
            DataConfigError: the state was saved with other data or another configuration; says what differs.
        """
        try:
            saved = json.loads(state)
            made_from, position = saved["made_from"], saved["position"]
            if saved["format"] != STATE_FORMAT:
                raise DataConfigError(f"the loader's saved position has format {saved['format']}, not {STATE_FORMAT}")
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataConfigError):
                raise
            raise DataConfigError(f"the loader's saved position cannot be read: {error!r}") from error
        if differs := [name for name, value in self._made_from.items() if made_from.get(name) != value]:
            told = "; ".join(
                f"{name} was {_short(made_from.get(name))}, is {_short(self._made_from[name])}" for name in differs
            )
            raise DataConfigError(f"batches would not be those of the run that is resumed: {told}")
        self._iterator.set_state(position)

    def validation_batches(self, batch_size: int, *, stride: int = 1) -> Iterator[Batch]:
        """Held-out episodes in order, whole: data set after data set, episode after episode, frame after frame.

        All processes give the same number of batches. The last batch is filled up to its size with rows that do not
        count: ``origin`` -1, ``action_weight`` 0, ``progress_mask`` False. No negatives are among them.

        Args:
            batch_size: rows of all processes together.
            stride: of frames: every so many frames of an episode, the first in any case.

        Raises:
            DataConfigError: the batch cannot be shared by the processes, or the stride is less than 1.
        """
        if batch_size < 1 or batch_size % self._processes or stride < 1:
            raise DataConfigError(
                f"validation: batch size {batch_size} and stride {stride}; expected at least 1, and a batch size that "
                f"is a multiple of {self._processes} processes"
            )
        pairs = [
            (data_set, row, True)
            for data_set, (of, source) in enumerate(zip(self._validation, self._samples.sources, strict=True))
            for row in of[(of - source.rows.starts[source.rows.episodes(of)]) % stride == 0]
        ]
        if not pairs:
            return
        pairs += [(*pairs[0][:2], False)] * (-len(pairs) % batch_size)
        own = np.array(pairs).reshape(-1, self._processes, batch_size // self._processes, 3)[:, self._process]
        batches = grain.MapDataset.source(own.reshape(-1, 3)).map(self._validation_sample)
        for stacked in batches.batch(own.shape[1]).to_iter_dataset(self._read_options()):
            yield to_batch(stacked)

    def _validation_sample(self, what: Int64[np.ndarray, " 3"]) -> Sample:
        data_set, row, counts = map(int, what)
        return self._samples.sample(data_set, row) if counts else self._samples.filler(data_set, row)

    def close(self) -> None:
        """Stop worker processes and threads; no batches come afterwards."""
        if not hasattr(self._iterator, "close"):
            return
        self._iterator.close()
        self._iterator = iter(())  # grain's would complain if it outlived its modules at the end of the program
        gc.collect()
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _TrainingSample:
    """Makes the sample of an element of the training order; goes to worker processes by pickling."""

    def __init__(self, order: Order, samples: SampleMaker) -> None:
        self._order, self._samples = order, samples

    def __call__(self, index: int, pair: Int64[np.ndarray, " 2"]) -> Sample:
        return self._samples.training_sample(self._order.draw(index).number, *map(int, pair))


def _check_arguments(
    config: DataConfig, model: Pi05Config, encoder: Encoder, seed: int, process_index: int, process_count: int
) -> None:
    if not 0 <= seed < 2**32:
        raise DataConfigError(f"seed is {seed}; expected 0 to 2**32 - 1")
    if not 0 <= process_index < process_count:
        raise DataConfigError(f"process {process_index} of {process_count}: expected 0 to {process_count - 1}")
    if config.workers < 0 or config.threads < 1:
        raise DataConfigError(f"workers is {config.workers}, threads {config.threads}; at least 0 and 1 are needed")
    if encoder.vocabulary > model.vocabulary:
        raise DataConfigError(f"the tokenizer has {encoder.vocabulary} tokens, the model {model.vocabulary}")


def _split(starts: Int64[np.ndarray, " e"], out: list[int]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Rows that are trained on, and rows of the episodes that are held out."""
    is_out = np.zeros(len(starts) - 1, bool)
    is_out[out] = True
    of_row = np.repeat(is_out, np.diff(starts))
    return np.flatnonzero(~of_row), np.flatnonzero(of_row)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
