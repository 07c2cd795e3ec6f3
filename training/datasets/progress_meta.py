"""``meta/progress.json``: what is known about each episode beyond its frames, and how its labels were made.

The converter writes outcomes and milestones; the labelling tool adds method, arguments, stages and column names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pi05_progress.errors import UserError
from pi05_progress.files.json_file import read_json
from pi05_progress.files.output_file import write_file
from pi05_progress.files.validation import problems
from pi05_progress.robots.episode_notes import ABORTED, CUT_OFF

from . import layout

VERSION = 1


class Outcome(StrEnum):
    """How an episode ended. Only a known failure counts as unsuccessful."""

    UNKNOWN = "UNKNOWN"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


@dataclass(frozen=True)
class Milestone:
    """A step of the task that was reached."""

    label: str  # its name; may be empty where an operator only pressed a button
    frame: int  # the episode's first frame at or after the event, counted from 0


@dataclass(frozen=True)
class EpisodeMeta:
    """What is known of one episode."""

    outcome: Outcome = Outcome.UNKNOWN  # how it ended
    milestones: tuple[Milestone, ...] = ()  # in the order they happened; a label may come again
    note: str = ""  # the operator's remark
    source: str = ""  # where it was recorded: bag and episode id

    @property
    def ended_early(self) -> bool:
        """Whether its recording was cut off or aborted, and nobody has said since how it ended."""
        return self.outcome is Outcome.UNKNOWN and self.note.startswith((ABORTED, CUT_OFF))

    @property
    def unsuccessful(self) -> bool:
        """Whether it must not count as one that came to its end: it failed, or its end was not recorded."""
        return self.outcome is Outcome.FAILURE or self.ended_early


@dataclass(frozen=True)
class Stage:
    """A part of a task. ``share`` is the mean share of an episode it takes; the shares of a task add up to 1."""

    name: str
    share: float


@dataclass(frozen=True)
class Labels:
    """How a data set's progress labels were made."""

    method: str  # `linear`, `milestone`, `remaining` or `activity`
    arguments: Mapping[str, Any]  # of the method
    columns: Mapping[str, str]  # names of added columns; keys `progress`, `valid`, `stage`, `seconds_remaining`
    stages: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)  # of each task, where the method knows them


@dataclass(frozen=True)
class ProgressMeta:
    """The whole file; an episode that is not in it is one of which nothing is known."""

    episodes: Mapping[int, EpisodeMeta] = field(default_factory=dict)
    labels: Labels | None = None

    def episode(self, index: int) -> EpisodeMeta:
        """What is known of an episode."""
        return self.episodes.get(index, EpisodeMeta())

    def progress_columns(self, features: Mapping[str, layout.Feature]) -> list[str]:
        """The feature with progress labels as it was written down; otherwise all that are called so, mostly one."""
        known = self.labels.columns.get("progress") if self.labels else None
        if known in features:
            return [known]
        columns = [name for name, of in features.items() if of["dtype"] not in ("video", "image", "string")]
        return [name for name in columns if "progress" in name.split(".") and name not in layout.OTHER_LABELS]


@dataclass(frozen=True)
class _Entry(EpisodeMeta):
    """An episode in the file."""

    episode_index: int = field(kw_only=True)


@dataclass(frozen=True)
class _File:
    """The file's contents."""

    version: int
    episodes: tuple[_Entry, ...]
    labels: Labels | None = None


_FILE = TypeAdapter(_File)


def save_progress_meta(root: Path, meta: ProgressMeta) -> None:
    """Write ``meta/progress.json`` of the data set in ``root``, complete or not at all."""
    episodes = [{"episode_index": index, **asdict(of)} for index, of in sorted(meta.episodes.items())]
    labels = None if meta.labels is None else asdict(meta.labels)
    text = json.dumps({"version": VERSION, "labels": labels, "episodes": episodes}, indent=1) + "\n"
    write_file(root / layout.PROGRESS, text)


def load_progress_meta(root: Path) -> ProgressMeta:
    """Read ``meta/progress.json`` of the data set in ``root``; without that file nothing is known."""
    path = root / layout.PROGRESS
    try:
        data = read_json(path)
    except FileNotFoundError:
        return ProgressMeta()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if isinstance(data, dict) and isinstance(version := data.get("version"), int) and version > VERSION:
        raise UserError(f"{path}: version {version} is newer than this program's {VERSION}")
    try:
        found = _FILE.validate_python(data)
    except ValidationError as error:
        raise UserError(f"{path}: not a progress.json of version {VERSION}: {problems(error)}") from error
    episodes: dict[int, EpisodeMeta] = {}
    for entry in found.episodes:
        if entry.episode_index in episodes:
            raise UserError(f"{path}: episode {entry.episode_index} is there twice")
        known = {name: value for name, value in vars(entry).items() if name != "episode_index"}
        episodes[entry.episode_index] = EpisodeMeta(**known)
    return ProgressMeta(episodes, found.labels)
