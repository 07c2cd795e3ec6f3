"""What robot, model and callers tell one another: what the robot sensed, and what the policy answers. NumPy only.

messages, data set rows, requests -> ``RobotFrame`` -> ``models.observation.Observation`` -> ``PolicyOutput``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .errors import UserError

IMAGE_KEYS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # the model's cameras, in its order
UNTRAINED = "untrained"  # model_id of random parameters: nothing that they say means anything
CONFIDENCE_LEVEL = 0.9  # nominal probability that an interval of progress holds the truth


class ObservationError(UserError):
    """An observation lacks something or has another shape or type; the message names the key."""


@dataclass(frozen=True)
class RobotFrame:
    """What one robot sensed at about one time, in its own units and sizes."""

    # per camera key (e.g. `head_camera`) uint8 (h, w, 3) RGB, already cropped and turned.
    images: Mapping[str, np.ndarray]
    state: np.ndarray  # float32 (v,): positions, velocities and efforts of all joints, see `robots/layout.py`.
    # per input (camera keys, `left_arm`, ...) when it was taken, ns of the sender's clock since its epoch.
    stamps_ns: Mapping[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()  # inputs that the robot does not have; their entries of `state` are 0

    def check(self) -> None:
        """Raise an ``ObservationError`` that names the camera whose picture has another type or shape."""
        for key, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
                raise ObservationError(
                    f"picture {key} is {image.dtype}{list(image.shape)}; expected uint8 in [0, 255], shape (h, w, 3)"
                )


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy believes and would do, for one observation."""

    # float32 (horizon, n), absolute, in the robot's units: of a Teleavatar 16 numbers, arm joint targets in rad and
    # gripper efforts in N m
    actions: np.ndarray
    # the model's raw belief in [0, 1], or None without a head. Test with `is None`: 0.0 is a value.
    progress: float | None
    progress_interval: tuple[float, float] | None = None  # (lower, upper) of the belief at `confidence_level`, or None
    # float32 (bins,) probabilities over equal bins of [0, 1], or None if the head has no bins
    progress_belief: np.ndarray | None = None
    # ms per part (`transforms`, `model`), measured after the device is done
    timing: Mapping[str, float] = field(default_factory=dict)
    confidence_level: float = CONFIDENCE_LEVEL  # nominal probability that the interval holds the truth
    # float32 (f,) what a temporal head reads beside the belief: the pooled prefix, projected by the checkpoint's
    # temporal head if it has one; None where the policy does not give it
    progress_features: np.ndarray | None = None

    def problem(self, horizon: int, columns: int) -> str:
        """Why the answer cannot be used at all: its actions, of so many rows and columns, cannot. Else empty."""
        if self.actions.shape != (horizon, columns):
            return f"actions are {self.actions.shape}, expected ({horizon}, {columns})"
        return "" if np.isfinite(self.actions).all() else "actions are not finite"

    def progress_problem(self) -> str:
        """Why the progress that is given cannot be used; empty if it can, or if none is given.

        The text has no numbers, so that the same reason is the same text.
        """
        if self.progress is None:
            return ""
        numbers = np.array([self.progress, *(self.progress_interval or ())], float)
        if not ((numbers >= 0) & (numbers <= 1)).all():
            return f"progress is {'outside [0, 1]' if np.isfinite(numbers).all() else 'not finite'}"
        # Progress, a mean, may lie outside: the interval is between equal tails, and a belief may be lopsided.
        if self.progress_interval is not None and self.progress_interval[0] > self.progress_interval[1]:
            return "progress has an interval that ends before it begins"
        belief = self.progress_belief
        if belief is not None and not (np.isfinite(belief).all() and (np.asarray(belief) >= 0).all()):
            return "belief about progress has bins that are not probabilities"
        if self.progress_features is not None and not np.isfinite(self.progress_features).all():
            return "progress has features that are not finite"
        return ""

    def without_progress(self) -> PolicyOutput:
        """The same with its progress unknown."""
        return replace(self, progress=None, progress_interval=None, progress_belief=None, progress_features=None)
