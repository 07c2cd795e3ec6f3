"""A data set's numbers in memory, in the robot's units as the model takes them: about 130 bytes a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from pi05_progress.files.fingerprint import fingerprint_of_arrays
from pi05_progress.robots.layout import LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.tokenizer import clean
from pi05_progress.units.transforms import actions_to_model, hands_to_model, proprioception_to_model, state_to_model

from ..datasets import layout
from ..datasets.reader import Dataset
from .config import DataConfigError, Interventions
from .split import episode_name

FURTHER = (
    layout.DEMONSTRATION_VALID,
    layout.INTERVENTION,
    layout.DEMONSTRATION_ACTIONS,
    layout.TRUTH_POSITIONS,
)  # columns that may be there


@dataclass(frozen=True)
class Rows:
    """All frames of a data set, episode after episode. Pickled by name if it lies in a folder (``moved_to``)."""

    state: Float32[np.ndarray, "n s"]  # what the model reads of it (of a Teleavatar: arm positions, rad)
    actions: Float32[np.ndarray, "n a"]  # arm targets in rad and gripper command numbers, absolute
    task: Int32[np.ndarray, " n"]  # index of the instruction
    starts: Int64[np.ndarray, " e"]  # row of each episode's first frame, and the number of rows at the end
    # label in [0, 1], 0 where it does not count; None if the data set has none
    progress: Float32[np.ndarray, " n"] | None = None
    valid: Bool[np.ndarray, " n"] | None = None  # whether the label counts
    names: tuple[str, ...] = ()  # of the episodes by index, made of their contents
    proprioception: Float32[np.ndarray, "n p"] | None = None  # positions of joints and grippers, for a state token
    hands: Float32[np.ndarray, "n h"] | None = None  # places of hands, m, for models that are told of them
    # of the things that the model's configuration names, m; 0 where one is not known
    positions: Float32[np.ndarray, "n k 3"] | None = None
    not_imitated: Int64[np.ndarray, " m"] | None = None  # rows whose action was not right, rising
    # what was right from each row on, where something else was executed; in the place of ``actions``
    chunks: Float32[np.ndarray, "n r a"] | None = None
    folder: Path | None = None  # where the arrays lie, if they were moved out of memory

    def episode(self, row: int) -> int:
        """The episode that a row belongs to."""
        return int(self.episodes(row))

    def episodes(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The episode of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def demonstrated(self, row: int, horizon: int) -> tuple[Float32[np.ndarray, "h a"], Bool[np.ndarray, " h"], bool]:
        """The chunk of actions from a row on, absolute; which of its rows only repeat the last that is known to be
        right (beyond the episode's end, or from a mistake on); and whether this row's action was."""
        last, right = self.starts[self.episode(row) + 1] - 1, True
        if self.not_imitated is not None:
            at = np.searchsorted(self.not_imitated, row)
            following = self.not_imitated[at] if at < len(self.not_imitated) else last + 1
            right = bool(following != row)
            last = min(last, following - 1) if right else last
        wanted = np.arange(horizon)
        if self.chunks is None:
            return self.actions[np.minimum(row + wanted, last)], row + wanted > last, right
        known = self.chunks.shape[1]
        return self.chunks[row][np.minimum(wanted, known - 1)], wanted >= known, right

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        return {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}

    def digest(self) -> str:
        """A hash of all numbers."""
        return fingerprint_of_arrays(self.arrays(), 16)

    def moved_to(self, folder: Path) -> Rows:
        """The same rows as files of a folder, mapped into memory: processes that read them share them."""
        folder.mkdir(parents=True)
        for name, array in self.arrays().items():
            np.save(folder / f"{name}.npy", array)
        return _mapped(folder)

    def __reduce__(self) -> tuple:
        return (Rows, tuple(vars(self).values())) if self.folder is None else (_mapped, (self.folder,))


def _mapped(folder: Path) -> Rows:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return Rows(**arrays, folder=folder)


def load_rows(
    dataset: Dataset,
    profile: RobotProfile,
    progress_column: str,
    *,
    proprioception: bool = False,
    hands: bool = False,
    positions: Sequence[str] = (),
    interventions: Interventions = "also",
    progress: Callable[[int], None] = lambda frames: None,
) -> Rows:
    """Read and check the columns that training needs; pictures are not among them.

    Args:
        progress_column: feature with labels; a data set without it has none. ``progress.valid`` says which of them
            count; without that feature all do.
        proprioception: whether positions are read for a state token.
        hands: whether it is told of hands, too.
        positions: things whose positions are read, of those that the data set has.
        interventions: which frames' actions are right, by whether the operator had taken over from a policy.
        progress: called with the number of frames after every episode.

    Raises:
        DatasetError: a feature is missing, or a file damaged.
        DataConfigError: another robot's vectors, numbers that are not finite, labels outside [0, 1], no instruction.
    """
    labelled = progress_column in dataset.features
    has_valid = labelled and layout.VALID_COLUMN in dataset.features
    columns = [layout.STATE, layout.ACTION, "task_index"]
    columns += [progress_column] * labelled + [layout.VALID_COLUMN] * has_valid
    known = [name for name in FURTHER if name in dataset.features and (name != layout.TRUTH_POSITIONS or positions)]
    columns += known
    kept, names = {}, {}  # by index, in whatever order the files have the episodes; ``frames`` misses none
    for episode, of in dataset.frames(columns):
        where, robot = f"{dataset.root}: episode {episode.index}", profile.layout
        try:
            own = {"state": state_to_model(of[layout.STATE], robot)}
            own |= {"actions": actions_to_model(of[layout.ACTION], robot)}
            own |= {"proprioception": proprioception_to_model(of[layout.STATE], robot)} if proprioception else {}
            own |= {"hands": hands_to_model(of[layout.STATE], robot)} if hands else {}
        except LayoutError as error:
            raise DataConfigError(f"{where}: {error}; this is another robot's data") from error
        own |= {name: of[name] for name in known}
        for name, values in own.items():
            feature = name if name in known else layout.ACTION if name == "actions" else layout.STATE
            _check_finite(f"{where}, {feature}", values)
        own["task"] = _checked_tasks(dataset, of["task_index"], where).astype(np.int32)
        if labelled:
            own["valid"] = np.array(of.get(layout.VALID_COLUMN, np.ones(episode.length)), bool)
            labels = _checked_labels(of[progress_column], own["valid"], f"{where}, {progress_column}")
            own["progress"] = labels.astype(np.float32)
        kept[episode.index], names[episode.index] = own, episode_name(of)
        progress(episode.length)
    found = {name: np.concatenate([kept[index][name] for index in sorted(kept)]) for name in own}
    further = {name: found.pop(name) for name in known}
    return Rows(
        **found,
        starts=dataset.starts,
        names=tuple(names[index] for index in sorted(names)),
        not_imitated=_not_imitated(further, dataset.frame_count, interventions),
        **_further(dataset, further, positions, profile.layout.action_size),
    )


def _not_imitated(
    found: Mapping[str, np.ndarray], count: int, interventions: Interventions
) -> Int64[np.ndarray, " m"] | None:
    wrong = ~found.get(layout.DEMONSTRATION_VALID, np.ones(count, bool)).astype(bool)
    if interventions != "also":
        taken_over = found.get(layout.INTERVENTION, np.zeros(count, bool)).astype(bool)
        wrong |= taken_over == (interventions == "never")
    return np.flatnonzero(wrong) if wrong.any() or layout.DEMONSTRATION_VALID in found else None


def _further(
    dataset: Dataset, found: Mapping[str, np.ndarray], positions: Sequence[str], action_size: int
) -> dict[str, np.ndarray]:
    """Fields of the rows made of the columns that only some data sets have."""
    rows: dict[str, np.ndarray] = {}
    if (chunks := found.get(layout.DEMONSTRATION_ACTIONS)) is not None:
        rows["chunks"] = chunks.reshape(len(chunks), -1, action_size).astype(np.float32)
    if (truth := found.get(layout.TRUTH_POSITIONS)) is not None:
        there = [name.removesuffix(".x") for name in dataset.features[layout.TRUTH_POSITIONS]["names"][::3]]
        if not set(there) & set(positions):
            raise DataConfigError(
                f"{dataset.root / layout.INFO}: {layout.TRUTH_POSITIONS} is of {', '.join(there)}, model.positions "
                f"names {', '.join(positions)}: name what the data has"
            )
        rows["positions"] = np.zeros((len(truth), len(positions), 3), np.float32)
        for at, name in enumerate(positions):
            if name in there:
                rows["positions"][:, at] = truth[:, 3 * there.index(name) :][:, :3]
    return rows


def _check_finite(what: str, values: np.ndarray) -> None:
    if len(bad := np.argwhere(~np.isfinite(values))):
        raise DataConfigError(
            f"{what}: {values[tuple(bad[0])]} in frame {bad[0][0]}; record or convert the episode anew, or remove it"
        )


def _checked_tasks(dataset: Dataset, task: np.ndarray, where: str) -> np.ndarray:
    used = np.unique(task)
    if used[0] < 0 or used[-1] >= len(dataset.tasks):
        raise DataConfigError(
            f"{where}: task_index from {used[0]} to {used[-1]}, {layout.TASKS} lists {len(dataset.tasks)} tasks; the "
            "data set contradicts itself"
        )
    for index in used:
        if not clean(dataset.tasks[index]).strip():
            raise DataConfigError(
                f"{dataset.root / layout.TASKS}: the instruction of task_index {index} is empty; every episode needs "
                "one, such as 'stack the cubes'"
            )
    return task


def _checked_labels(labels: np.ndarray, valid: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind != "f":
        raise DataConfigError(f"{what}: {labels.dtype} of shape {labels.shape[1:]}; expected one float32 per frame")
    if len(bad := np.flatnonzero(valid & ~((labels >= 0) & (labels <= 1)))):  # NaN is neither
        first = bad[0]
        raise DataConfigError(
            f"{what}: the label of frame {first} is {labels[first]:g}, expected [0, 1] wherever {layout.VALID_COLUMN} "
            "is true; label the data set anew: python -m training.add_progress_labels"
        )
    return np.where(valid, labels, 0)
