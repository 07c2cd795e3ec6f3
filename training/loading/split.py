"""Which episodes are held out: told by their contents, so that they stay so in copies, and when data sets grow."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pi05_progress.errors import UserError
from pi05_progress.files.validation import problems

from ..datasets import layout
from .config import DataConfigError

HELD_OUT = "held_out.json"  # in the folder of a run, and in each of its checkpoints
CONTENTS = (layout.STATE, layout.ACTION)  # that name an episode


@dataclass(frozen=True)
class SetSplit:
    """What a run did with a data set."""

    folder: str  # of the data set
    episodes: tuple[int, ...]  # numbers of those that were held out
    held_out: tuple[str, ...] = ()  # their names by contents; like ``trained_on`` empty in lists of former versions
    trained_on: tuple[str, ...] = ()  # names of the others


SPLITS = TypeAdapter(list[SetSplit])


def episode_name(columns: Mapping[str, np.ndarray]) -> str:
    """A name for an episode by its states and actions, whatever data set it is in, and however it is labelled."""
    digest = hashlib.sha256()
    for name in CONTENTS:
        digest.update(np.ascontiguousarray(columns[name], np.float32).data)
    return digest.hexdigest()[:16]


def read_splits(path: Path) -> list[SetSplit]:
    """What a run's list says: of its data sets, after those of the run whose checkpoint it started from."""
    try:
        return SPLITS.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: not the {HELD_OUT} of a run: {problems(error)}") from error


def splits_of(checkpoint: Path) -> list[SetSplit]:
    """What the run of a checkpoint held out; empty if neither its folder nor that of the run says so."""
    for folder in (checkpoint, checkpoint.resolve().parent):
        if (folder / HELD_OUT).is_file():
            return read_splits(folder / HELD_OUT)
    return []


def seen_before(splits: Sequence[SetSplit], root: Path, names: Sequence[str]) -> tuple[set[int], set[int]]:
    """Episodes of a data set that a run held out, and those that it trained on."""
    held_out = {name for split in splits for name in split.held_out}
    trained_on = {name for split in splits for name in split.trained_on}
    out = {index for index, name in enumerate(names) if name in held_out}
    trained = {index for index, name in enumerate(names) if name in trained_on}
    for split in splits:
        if not split.held_out + split.trained_on and split.folder == str(root.resolve()):
            out |= set(split.episodes) & set(range(len(names)))
            trained |= set(range(len(names))) - set(split.episodes)
    return out - trained, trained


def held_out(
    names: Sequence[str], fraction: float, seed: int, stay: Collection[int] = (), trained: Collection[int] = ()
) -> list[int]:
    """Episodes that are not trained on, in order: those with the smallest hashes of (seed, episode index); never all.

    Args:
        names: of all episodes, by their contents; copies of one that is held out are held out, too.
        stay: episodes that the checkpoint it starts from was not trained on; they stay held out.
        trained: episodes that it was trained on; they are held out only if there are no others.
    """
    if not 0 <= fraction < 1:
        raise DataConfigError(f"validation_fraction is {fraction}; expected at least 0 and less than 1")
    if fraction == 0:
        return []
    count = len(names)
    wanted = max(1, round(fraction * count))
    ordered = sorted(set(range(count)) - set(stay), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
    unknown = [index for index in ordered if index not in trained]
    out = [*stay, *unknown[: max(0, wanted - len(stay))]] or ordered[:wanted]
    copied = {names[index] for index in out}
    out = [index for index, name in enumerate(names) if name in copied]
    if len(out) >= count:
        raise DataConfigError(
            f"validation_fraction {fraction} of {count} episode{'s' * (count > 1)} holds out {len(out)}, which leaves "
            "none to train on; record more (copies do not count), or choose --data.validation_fraction 0: no validation"
        )
    return out
