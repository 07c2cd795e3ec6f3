"""A row of a data set as the model reads it in training: the policy's own functions, plus what is to be learnt.

For the same frame, ``Pi05Policy.observe`` gives the same pictures, state and tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pi05_progress.models.config import Pi05Config
from pi05_progress.observation import IMAGE_KEYS
from pi05_progress.robots.layout import Layout
from pi05_progress.units.normalize import PROPRIOCEPTION, NormStats, chunk_stats, normalize
from pi05_progress.units.tokenizer import Encoder, PromptError, PromptTokenizer
from pi05_progress.units.transforms import delta_actions, pad_to

from .config import DataConfigError
from .negatives import Negatives
from .pictures import Pictures
from .rows import Rows

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
        *,
        quantiles: bool,
        robot: Layout,
        relative: bool,
        per_row: bool = False,
        negatives: Negatives,
    ) -> None:
        self.sources, self._model, self._stats = tuple(sources), model, dict(stats)
        self._action_stats = chunk_stats(stats, per_row, model.action_horizon)
        self._quantiles, self._robot, self._relative, self._negatives = quantiles, robot, relative, negatives
        self._tokenize = PromptTokenizer(encoder, model.max_token_len, bucketed=False, cut=False)
        self._has_labels = any(source.rows.progress is not None for source in sources)
        self._no_picture = np.zeros((*model.image_size, 3), np.uint8)

    def check_prompts(self) -> None:
        """Refuse instructions that are too long with any state, as the policy would.

        Raises:
            DataConfigError: the message names it.
        """
        state = np.ones(len(self.sources[0].rows.state[0])) if self._model.discrete_state else None  # longest numbers
        for source in self.sources:
            for index in np.unique(source.rows.task):
                try:
                    self._tokenize(source.tasks[index], state)
                except PromptError as error:
                    raise DataConfigError(f"meta/tasks.parquet, task_index {index}: {error}, or its name") from error

    def training_sample(self, number: int, data_set: int, row: int) -> Sample:
        """The sample of draw ``number``, a negative if it is to become one."""
        source = self.sources[data_set]
        prompt = source.tasks[source.rows.task[row]]
        change = self._negatives.change(number, data_set, row, source.rows, prompt)
        sample = self.sample(data_set, change.row, change.prompt)
        if change.is_negative:
            sample["action_weight"] = np.float32(0)
        return sample

    def sample(self, data_set: int, row: int, wrong_prompt: str | None = None) -> Sample:
        """The sample of a row; with ``wrong_prompt`` instead of its own instruction its progress is 0.

        Raises:
            PictureError: a video cannot be decoded.
        """
        source, model = self.sources[data_set], self._model
        rows, episode = source.rows, source.rows.episode(row)
        frame, last = row - rows.starts[episode], rows.starts[episode + 1] - 1
        raw_state = rows.state[row]
        state = normalize(raw_state, self._stats["state"], self._quantiles).astype(np.float32)
        prompt = wrong_prompt or source.tasks[rows.task[row]]
        tokens, mask = self._tokenize(prompt, state if model.discrete_state else None)
        wanted = row + np.arange(model.action_horizon)
        actions = rows.actions[np.minimum(wanted, last)]
        if self._relative:
            actions = delta_actions(actions, raw_state, self._robot)
        actions = normalize(actions, self._action_stats, self._quantiles).astype(np.float32)
        pictures = source.pictures.read(episode, int(frame))
        sample = {key: pictures.get(key, self._no_picture) for key in IMAGE_KEYS}
        sample |= {f"{key}_mask": np.bool_(key in pictures) for key in IMAGE_KEYS}
        sample |= {
            "state": pad_to(state, model.action_dim),
            "tokens": tokens,
            "tokens_mask": mask,
            "actions": pad_to(actions, model.action_dim),
            "action_is_pad": wanted > last,
            "action_weight": np.float32(source.imitated[episode]),
            "origin": np.array([data_set, episode, frame], np.int32),
        }
        if model.state_token:
            positions = normalize(rows.proprioception[row], self._stats[PROPRIOCEPTION], self._quantiles)
            sample["proprioception"] = pad_to(positions.astype(np.float32), model.action_dim)
        if self._has_labels:
            counts = rows.valid is not None and bool(rows.valid[row])
            sample["progress"] = np.float32(rows.progress[row] if counts and not wrong_prompt else 0)
            sample["progress_mask"] = np.bool_(counts or wrong_prompt is not None)
        return sample

    def filler(self, data_set: int, row: int) -> Sample:
        """A row that fills up a batch and does not count."""
        sample = self.sample(data_set, row)
        sample |= {"action_weight": np.float32(0), "origin": np.full(3, -1, np.int32)}
        return sample | ({"progress": np.float32(0), "progress_mask": np.bool_(False)} if self._has_labels else {})
