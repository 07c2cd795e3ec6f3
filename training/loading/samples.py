"""A row of a data set as the model reads it in training: the policy's own functions, plus what is to be learnt.

For the same frame, ``Pi05Policy.observe`` gives the same pictures, state and tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float

from pi05_progress.models.config import Pi05Config
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.robots.layout import Layout
from pi05_progress.units.normalize import PROPRIOCEPTION, NormStats, chunk_stats, normalize, unnormalize
from pi05_progress.units.tokenizer import Encoder, PromptError, PromptTokenizer
from pi05_progress.units.transforms import delta_actions, pad_to

from .config import DataConfig, DataConfigError
from .negatives import Negatives
from .pictures import Pictures
from .rows import Rows

LABELS = ("progress", "progress_mask", "positions_mask")
Sample = dict[str, Any]  # arrays of one row by name; of a batch after grain has stacked them


@dataclass(frozen=True)
class Source:
    """A data set as samples are made of it."""

    rows: Rows  # its numbers
    pictures: Pictures  # its pictures
    tasks: tuple[str, ...]  # instructions by task index
    imitated: tuple[bool, ...]  # per episode, whether its actions count


class SampleMaker:
    """Makes samples. Thread-safe, and goes to other processes by pickling."""

    def __init__(
        self,
        sources: Sequence[Source],
        model: Pi05Config,
        encoder: Encoder,
        stats: Mapping[str, NormStats],
        robot: Layout,
        config: DataConfig,
        negatives: Negatives,
    ) -> None:
        self.sources, self._model, self._stats = tuple(sources), model, dict(stats)
        self._action_stats = chunk_stats(stats, config.actions_per_row, model.action_horizon)
        self._quantiles, self._relative = config.quantiles, config.delta_actions
        self._robot, self._negatives = robot, negatives
        self._tokenize = PromptTokenizer(encoder, model.max_token_len, bucketed=False, cut=False)
        self._has_labels = any(source.rows.progress is not None for source in sources)
        self._has_positions = any(source.rows.positions is not None for source in sources)
        # where a camera is not there
        self._no_picture = {key: np.zeros((*view.size, 3), np.uint8) for key, view in model.views.items()}

    def use_features(self, features: Sequence[Pictures], no_picture: np.ndarray) -> None:
        """From now on make samples of what a vision tower made of each source's pictures, instead of these."""
        pairs = zip(self.sources, features, strict=True)
        self.sources = tuple(dataclasses.replace(source, pictures=of) for source, of in pairs)
        self._no_picture = dict.fromkeys(IMAGE_KEYS, no_picture)

    def angle_scale(self) -> Float[np.ndarray, "horizon a"]:
        """See ``TrainLoader.angle_scale``."""
        ends = [np.full((self._model.action_horizon, self._model.action_dim), end) for end in (0.0, 1.0)]
        low, high = (unnormalize(end, self._action_stats, self._quantiles) for end in ends)
        numbers = np.arange(self._robot.action_size)
        return (high - low)[:, numbers] * np.isin(numbers, self._robot.arm_columns)

    def check_prompts(self) -> None:
        """Refuse instructions that are too long with any state, as the policy would."""
        state = np.ones(len(self.sources[0].rows.state[0])) if self._model.discrete_state else None  # longest numbers
        for source in self.sources:
            for index in np.unique(source.rows.task):
                prompt = source.tasks[index]
                try:
                    self._tokenize(prompt, state)
                except PromptError as error:
                    raise DataConfigError(f"meta/tasks.parquet, task_index {index}: {error}, or its name") from error
                for wording in chain(*self._negatives.variants.get(prompt, ())):
                    try:
                        self._tokenize(wording, state)
                    except PromptError as error:
                        raise DataConfigError(f"the file of instructions: {error}, or leave it out there") from error

    def training_sample(self, number: int, data_set: int, row: int) -> Sample:
        """The sample of draw ``number``, a negative if it is to become one."""
        source = self.sources[data_set]
        prompt = source.tasks[source.rows.task[row]]
        change = self._negatives.change(number, data_set, row, source.rows, prompt)
        sample = self.sample(data_set, change.row, change.prompt, change.is_wrong)
        if not change.is_imitated:
            sample["action_weight"] = np.float32(0)
        return sample

    def sample(self, data_set: int, row: int, prompt: str | None = None, is_wrong: bool = False) -> Sample:
        """The sample of a row, with ``prompt`` instead of its own instruction; of a wrong one its progress is 0."""
        source, model = self.sources[data_set], self._model
        rows, episode = source.rows, source.rows.episode(row)
        frame = row - rows.starts[episode]
        raw_state = rows.state[row]
        state = normalize(raw_state, self._stats["state"], self._quantiles).astype(np.float32)
        prompt = prompt or source.tasks[rows.task[row]]
        tokens, mask = self._tokenize(prompt, state if model.discrete_state else None)
        actions, is_pad, right = rows.demonstrated(row, model.action_horizon)
        if self._relative:
            actions = delta_actions(actions, raw_state, self._robot)
        actions = normalize(actions, self._action_stats, self._quantiles).astype(np.float32)
        pictures = source.pictures.read(episode, int(frame))
        sample = {key: pictures.get(key, self._no_picture[key]) for key in IMAGE_KEYS}
        sample |= {f"{key}_mask": np.bool_(key in pictures) for key in IMAGE_KEYS}
        sample |= {
            "state": pad_to(state, model.action_dim),
            "tokens": tokens,
            "tokens_mask": mask,
            "actions": pad_to(actions, model.action_dim),
            "action_is_pad": is_pad,
            "action_weight": np.float32(source.imitated[episode] and right),
            "origin": np.array([data_set, episode, frame], np.int32),
        }
        if model.state_token:
            positions = normalize(rows.proprioception[row], self._stats[PROPRIOCEPTION], self._quantiles)
            hands = [] if rows.hands is None else rows.hands[row]
            sample["proprioception"] = np.concatenate([pad_to(positions, model.action_dim), hands], dtype=np.float32)
        if self._has_positions:
            where = np.zeros((len(model.positions), 3), np.float32) if rows.positions is None else rows.positions[row]
            sample |= {"positions": where, "positions_mask": where.any(axis=1)}
        if self._has_labels:
            counts = rows.valid is not None and bool(rows.valid[row])
            sample["progress"] = np.float32(rows.progress[row] if counts and not is_wrong else 0)
            sample["progress_mask"] = np.bool_(counts or is_wrong)
        return sample

    def filler(self, data_set: int, row: int) -> Sample:
        """A row that fills up a batch and does not count."""
        sample = self.sample(data_set, row)
        none = {"action_weight": np.float32(0), "origin": np.full(3, -1, np.int32)}
        none |= {name: np.zeros_like(sample[name]) for name in LABELS if name in sample}
        return sample | none
