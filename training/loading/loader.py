"""The loader: data sets of a configuration as an endless stream of batches, and held-out episodes as a finite one.

    rows of data sets ── shuffled, mixed, shared (mixture) ── samples ── batches of grain's iterator ── Batch

Grain shuffles, shares rows among processes, loads in threads or worker processes, and keeps the position.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import absl.flags
import grain
import numpy as np
from jaxtyping import Float, Int32, Int64

from pi05_progress.files.fingerprint import fingerprint
from pi05_progress.models.config import Pi05Config
from pi05_progress.units.normalize import NormStats
from pi05_progress.units.tokenizer import Encoder

from ..datasets.instructions import Instructions
from ..datasets.reader import Dataset
from .batch import Batch, to_batch
from .cache import cached_pictures
from .config import DataConfig, DataConfigError
from .data import Data, read_data, written
from .features import Tower, cached_features
from .mirror import MirroredPictures, check_instructions, mirrored_rows
from .mixture import Choices, Order, shard_count, stacked, stripes_per_period, training_order
from .negatives import negatives
from .pictures import DecodedPictures, Pictures
from .samples import Sample, SampleMaker, Source
from .split import SetSplit

STATE_FORMAT = 1
DIGITS = 16  # of fingerprints, which checkpoints hold
AHEAD = 2  # batches that every worker process keeps ready


class TrainLoader:
    """An endless iterator of training batches; use it as a context, or call ``close``. Not thread-safe.

    The order is decided by the seed: neither the number of workers nor that of processes changes it. Row ``i`` of
    process ``p`` is row ``p * batch_size / process_count + i`` of the batch that one process alone would see (up to
    eight processes and a batch size that is a multiple of eight, see ``mixture.py``).

    Args:
        batch_size: rows of all processes together.
        seed: of the order and of negatives, in [0, 2**32).
        before: what the run did with its data whose checkpoint this one starts from, or that it goes on with.
        goes_on: whether it goes on: the same run, whose split stays as it is.
    """

    # ``datasets``, ``progress_meta``, ``held_out``, ``label_columns`` and ``stats`` are those of ``Data``.
    splits: list[SetSplit]  # what is held out as it is written down, after what ``before`` says of other runs
    asset_id: str  # name of the statistics in checkpoints
    action_size: int  # numbers of a row of actions, before padding
    fingerprint: str  # of everything that decides what batches hold, pictures' contents aside
    notes: list[str]  # what should be said to whoever starts the run

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
        before: Sequence[SetSplit] = (),
        goes_on: bool = False,
    ) -> None:
        _check_arguments(config, model, encoder, seed, process_index, process_count)
        self._config, self._process, self._processes = config, process_index, process_count
        self._views = model.views
        data = read_data(config, model, before, goes_on)
        self._training, weights = data.training * (1 + config.mirror), config.weights * (1 + config.mirror)
        lengths = [len(of) for of in self._training]
        shards = shard_count(batch_size, process_count, len(lengths))
        counts = stripes_per_period(lengths, weights, shards)
        self.datasets, self.progress_meta, self.held_out = data.datasets, data.metas, data.held_out
        self.has_labels, self.stats, self.action_size = any(data.label_columns), data.stats, data.robot.action_size
        self.has_positions = any(of.positions is not None for of in data.rows)
        self.asset_id = config.asset_id or "+".join(dataset.root.resolve().name for dataset in data.datasets)
        self.label_columns, self.action_dt_s = data.label_columns, 1 / data.datasets[0].fps
        self.train_frames = sum(map(len, data.training))
        self.notes = data.notes(config)
        own = [written(*of) for of in zip(data.datasets, data.rows, data.held_out, strict=True)]
        self.splits = [*(before[: -len(own)] if goes_on else before), *own]
        self._made_from = _made_from(config, model, data, batch_size, seed, shards)
        self.fingerprint = fingerprint(self._made_from, DIGITS)
        self._validation = data.validation
        self._folder = tempfile.TemporaryDirectory(prefix="pi05_progress_rows_") if config.workers else None
        self._samples = self._sample_maker(data, model, encoder, seed)
        self._features = data.features
        if config.resident:
            self._iterator = Choices(lengths, weights, batch_size, seed)
            return
        order = Order(counts, shards, batch_size, process_count)
        rows = training_order(self._training, order, shards, seed)
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()  # worker processes of grain read its flags, which nobody gives here
        self._iterator = iter(
            grain.experimental.ElasticIterator(
                rows.map_with_index(partial(_training_sample, order, self._samples)),
                batch_size,
                grain.sharding.ShardOptions(process_index, process_count),
                read_options=self._read_options(),
                multiprocessing_options=grain.MultiprocessingOptions(config.workers, AHEAD) if config.workers else None,
            )
        )

    def _sample_maker(self, data: Data, model: Pi05Config, encoder: Encoder, seed: int) -> SampleMaker:
        pictures = [self._pictures(*pair) for pair in zip(data.datasets, data.features, strict=True)]
        tasks, rows, metas, imitated = [of.tasks for of in data.datasets], data.rows, data.metas, data.imitated
        if self._config.mirror:  # behind all data sets come all of them again
            check_instructions(instruction for of in tasks for instruction in of)
            pictures = pictures + [MirroredPictures(of) for of in pictures]
            rows = rows + [mirrored_rows(of, data.robot) for of in rows]
            tasks, metas, imitated = tasks * 2, metas * 2, imitated * 2
        changes = negatives(self._config, seed, tasks, rows, metas)
        if self._folder is not None:  # worker processes share them so, instead of having copies
            rows = [of.moved_to(Path(self._folder.name) / str(index)) for index, of in enumerate(rows)]
        sources = [Source(*of) for of in zip(rows, pictures, tasks, imitated, strict=True)]
        samples = SampleMaker(sources, model, encoder, data.stats, data.robot, self._config, changes)
        samples.check_prompts()
        return samples

    def _pictures(self, dataset: Dataset, features: Mapping[str, str]) -> Pictures:
        if self._config.cache is None:
            return DecodedPictures(dataset, features, self._views)
        return cached_pictures(Path(self._config.cache).expanduser(), dataset, features, self._views)

    def use_features(self, tower: Tower) -> None:
        """Load what a vision tower makes of pictures, instead of these; before the first batch."""
        samples, folder = self._samples, Path(self._config.features).expanduser()
        times = 1 + self._config.mirror
        features = [
            cached_features(folder, dataset, of, self._views, source.pictures, tower, self._config.threads)
            for dataset, of, source in zip(self.datasets * times, self._features * times, samples.sources, strict=True)
        ]
        samples.use_features(features, np.zeros(tower.shape, tower.dtype))

    def _read_options(self) -> grain.ReadOptions:
        return grain.ReadOptions(num_threads=self._config.threads, prefetch_buffer_size=self._config.threads)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch: this process's ``batch_size / process_count`` rows."""
        sample = next(self._iterator)
        if self._config.workers:  # arrays in shared memory, which grain takes back when they are no longer used
            sample = {name: np.array(values, subok=False) for name, values in sample.items()}
        return to_batch(sample)

    def angle_scale(self) -> Float[np.ndarray, "horizon a"]:
        """How many rad are 1 in normalised actions, by row of a chunk and number of an action; 0 for grippers."""
        return self._samples.angle_scale()

    def choose(self, batches: int) -> Int32[np.ndarray, "n b"]:
        """With ``resident`` data, which of ``all_samples`` make the next batches."""
        return np.stack([next(self._iterator) for _ in range(batches)])

    def all_samples(self) -> Batch:
        """Every sample that is trained on, data set after data set."""
        draws = [(data_set, int(row)) for data_set, rows in enumerate(self._training) for row in rows]
        make = self._samples.training_sample
        return to_batch(stacked(len(draws), lambda number: make(number, *draws[number]), self._config.threads))

    def state(self) -> bytes:
        """Where the loader is: after the last batch that ``next`` gave."""
        state = {"format": STATE_FORMAT, "made_from": self._made_from, "position": self._iterator.get_state()}
        return json.dumps(state).encode()

    def restore(self, state: bytes) -> None:
        """Go on exactly there, also with other workers or processes; other data or settings are refused by name."""
        try:
            saved = json.loads(state)
            made_from, position, found = saved["made_from"], saved["position"], saved["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataConfigError(f"the loader's saved position cannot be read: {error!r}") from error
        if found != STATE_FORMAT:
            raise DataConfigError(f"the loader's saved position has format {found}, not {STATE_FORMAT}")
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
        """
        if batch_size < 1 or batch_size % self._processes or stride < 1:
            raise DataConfigError(
                f"validation: batch size {batch_size} and stride {stride}; expected at least 1, and a batch size that "
                f"is a multiple of {self._processes} processes"
            )
        own = self._samples.sources[: len(self._validation)]  # nothing is validated in a mirror
        pairs = [
            (data_set, row, True)
            for data_set, (of, source) in enumerate(zip(self._validation, own, strict=True))
            for row in of[(of - source.rows.starts[source.rows.episodes(of)]) % stride == 0]
        ]
        if not pairs:
            return
        pairs += [(*pairs[0][:2], False)] * (-len(pairs) % batch_size)
        shared = np.array(pairs).reshape(-1, self._processes, batch_size // self._processes, 3)[:, self._process]
        batches = grain.MapDataset.source(shared.reshape(-1, 3)).map(self._validation_sample)
        for rows in batches.batch(shared.shape[1]).to_iter_dataset(self._read_options()):
            yield to_batch(rows)

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


def _training_sample(order: Order, samples: SampleMaker, index: int, pair: Int64[np.ndarray, " 2"]) -> Sample:
    """The sample of an element of the training order."""
    return samples.training_sample(order.draw(index)[-1], *map(int, pair))


def _check_arguments(
    config: DataConfig, model: Pi05Config, encoder: Encoder, seed: int, process_index: int, process_count: int
) -> None:
    if not 0 <= seed < 2**32:
        raise DataConfigError(f"seed is {seed}; expected 0 to 2**32 - 1")
    if not 0 <= process_index < process_count:
        raise DataConfigError(f"process {process_index} of {process_count}: expected 0 to {process_count - 1}")
    if config.resident and (process_count > 1 or config.workers or config.reversed_clip):
        raise DataConfigError(
            "data.resident keeps the samples of one process as they are: it goes neither with several processes nor "
            "with data.workers or data.reversed_clip"
        )
    if config.features is not None and process_count > 1:
        raise DataConfigError("data.features is made and read by one process: leave it out, or train in one")
    if config.workers < 0 or config.threads < 1:
        raise DataConfigError(f"workers is {config.workers}, threads {config.threads}; at least 0 and 1 are needed")
    if encoder.vocabulary > model.vocabulary:
        raise DataConfigError(f"the tokenizer has {encoder.vocabulary} tokens, the model {model.vocabulary}")


def _made_from(
    config: DataConfig, model: Pi05Config, data: Data, batch_size: int, seed: int, shards: int
) -> dict[str, Any]:
    """All that decides what batches hold, by name, as JSON gives it back."""
    made_from = {
        "data sets": [of.digest() for of in data.rows],
        "instructions": [dataset.tasks for dataset in data.datasets],
        "held-out episodes": data.held_out,
        "episodes whose actions do not count": [np.flatnonzero(~np.array(of)).tolist() for of in data.imitated],
        "cameras": data.features,
        "statistics": fingerprint({key: _numbers(of) for key, of in data.stats.items()}, DIGITS),
        "seen": model.views,
        "model": [model.action_horizon, model.action_dim, model.max_token_len],
        "discrete_state": model.discrete_state,
        "quantiles": config.quantiles,
        "delta_actions": config.delta_actions,
        **({"actions_per_row": True} if config.actions_per_row else {}),
        "wrong_instruction": config.wrong_instruction,
        "reversed_clip": config.reversed_clip,
        "weights": config.weights,
        "batch_size": batch_size,
        "seed": seed,
        "shards": shards,
        **({"resident": True} if config.resident else {}),
        **({"mirror": True} if config.mirror else {}),
        **({"other wordings": Instructions.load(config.instructions).model_dump()} if config.instructions else {}),
    }
    return json.loads(json.dumps(made_from))


def _numbers(stats: NormStats) -> list[list[float] | None]:
    return [None if part is None else np.asarray(part).tolist() for part in vars(stats).values()]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
