"""How the episodes began that a checkpoint was trained on: pictures, poses, instructions.

It is in ``starts/`` beside ``params/``. Training writes it, ``python -m training.add_starts`` adds it to older
checkpoints. What is live is held against it before a robot moves (``start_differences.py``), and it says where the arms
are to be when a task begins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ..files.output_file import write_file
from ..robots.profile import RobotProfile
from ..units.transforms import proprioception_to_model
from .checkpoint_error import CheckpointError
from .digests import ENDING, check_digests

FOLDER, FILE = "starts", "starts.npz"
SIZE = (36, 64)  # height, width of the pictures
CLOSE_RAD = 0.1  # arms are never called far from the starts that are closer to one of them
NOISE = 6.0  # of 255: between pictures that show the same, by compression and resizing
CLIP = 3.0  # of spread: objects lie elsewhere in every episode, and a few pixels must not decide
MOST = 64  # episodes that are kept


@dataclass(frozen=True)
class Starts:
    """The first frames of training episodes; the joints are the arms', then the grippers'."""

    cameras: np.ndarray  # str (c,), the model's inputs
    middle: UInt8[np.ndarray, "c h w 3"]  # median picture of each camera
    spread: UInt8[np.ndarray, "c h w 3"]  # standard deviation
    unlike: Float[np.ndarray, " c"]  # how unlike the median the most unlike start is
    joints: np.ndarray  # str (a + g,)
    arms: Float32[np.ndarray, "n a"]  # pose of each start, rad
    grippers: Float32[np.ndarray, "n g"]
    tasks: np.ndarray  # str (t,), all instructions that were trained on

    @classmethod
    def of(
        cls,
        profile: RobotProfile,
        pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
        states: Float[np.ndarray, "n v"],
        tasks: Iterable[str],
    ) -> Starts:
        """From pictures of ``SIZE`` by the model's camera inputs, and state vectors, of about ``MOST`` episodes."""
        middle = {key: np.median(of, axis=0).astype(np.uint8) for key, of in pictures.items()}
        spread = {key: np.std(of, axis=0).astype(np.uint8) for key, of in pictures.items()}
        unlike = [max(unlikeness(one, middle[key], spread[key]) for one in of) for key, of in pictures.items()]
        stack = [np.stack(list(of.values())) if of else np.zeros((0, *SIZE, 3), np.uint8) for of in (middle, spread)]
        joints = np.array(profile.layout.proprioception_names)
        parts = np.split(proprioception_to_model(states, profile.layout), [len(profile.layout.arm_columns)], axis=1)
        names, texts = np.array([*pictures], str), np.array(sorted(set(tasks)), str)
        return cls(names, *stack, np.array(unlike, float), joints, *parts, texts)

    @property
    def far_rad(self) -> float:
        """Beyond it arms are far from the starts: what 99 % of those are from one another."""
        apart = [np.abs(self.arms - pose).max(axis=1) for pose in self.arms]
        return max(CLOSE_RAD, float(np.quantile(apart, 0.99)))

    def distance(self, arms: Float[np.ndarray, " a"]) -> tuple[float, str]:
        """How far arms are from the nearest start, rad, and the joint that is farthest from it."""
        apart = np.abs(self.arms - arms)
        nearest = apart[apart.max(axis=1).argmin()]
        return float(nearest.max()), str(self.joints[nearest.argmax()])

    @property
    def home(self) -> Float32[np.ndarray, " a"]:
        """The arms' pose of the start that is closest to the middle of all, rad."""
        return self.arms[np.abs(self.arms - np.median(self.arms, axis=0)).max(axis=1).argmin()]


def unlikeness(picture: np.ndarray, middle: np.ndarray, spread: np.ndarray) -> float:
    """How much a picture (h, w, 3) differs from a median one, in units of the spread; a pixel at most by ``CLIP``."""
    return float(np.minimum(np.abs(picture - middle.astype(float)) / (spread + NOISE), CLIP).mean())


def starts_files(starts: Starts) -> dict[str, bytes]:
    """The files of a checkpoint folder that hold it, by path: numbers, and their digest as that of parameters."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f.name: getattr(starts, f.name) for f in dataclasses.fields(Starts)})
    name, content = f"{FOLDER}/{FILE}", buffer.getvalue()
    return {name: content, FOLDER + ENDING: f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()}


def add_starts(folder: Path, starts: Starts) -> None:
    """Write them into a checkpoint folder that is there already, or replace them."""
    for name, content in starts_files(starts).items():
        write_file(folder / name, content)


def read_starts(folder: Path, profile: RobotProfile) -> Starts | None:
    """Those of a checkpoint, None if it has none; a ``CheckpointError`` if they are damaged, or of a robot with other
    joints than ``profile``."""
    path = Path(folder) / FOLDER / FILE
    if not path.exists():
        return None
    check_digests(path.parent)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            starts = Starts(**arrays)
        numbers = starts.arms, starts.grippers
        if not len(starts.arms) or sum(of.shape[1] for of in numbers) != len(starts.joints):
            raise ValueError("it has no starts, or not a number for each joint")
        if not all(np.isfinite(of).all() for of in numbers):
            raise ValueError("positions are not finite")
    except (OSError, EOFError, IndexError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; make it anew with training.add_starts") from error
    known, names = starts.joints.tolist(), list(profile.layout.proprioception_names)
    if known != names and sorted(known) == sorted(names):
        wrong = ", ".join(name for name, there in zip(names, known, strict=True) if name != there)
        text = f"the profile's joints come in another order ({wrong}): name them as the data does, {', '.join(known)}"
        raise CheckpointError(f"robot {profile.name}: {text} ({path})")
    if known != names:
        raise CheckpointError(f"{path}: of joints {', '.join(known)}, which robot {profile.name} does not have")
    return starts
