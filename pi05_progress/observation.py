"""What robot, model and callers tell one another: what the robot sensed, and what the policy answers. NumPy only.

messages, data set rows, requests -> ``RobotFrame`` -> ``models.observation.Observation`` -> ``PolicyOutput``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

IMAGE_KEYS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # the model's cameras, in its order
UNTRAINED = "untrained"  # model_id of random parameters: nothing that they say means anything
CONFIDENCE_LEVEL = 0.9  # nominal probability that an interval of progress holds the truth


class ObservationError(ValueError):
    """An observation lacks something or has another shape or type; the message names the key."""


@dataclass(frozen=True)
class RobotFrame:
    """What one robot sensed at about one time, in its own units and sizes.

    Attributes:
        images: per camera key (e.g. ``head_camera``) uint8 (h, w, 3) RGB, already cropped and turned.
        state: float32 (v,): positions, velocities and efforts of all joints, see ``robots/layout.py``.
        stamps_ns: per input (camera keys, ``left_arm``, ...) when it was taken, ns of
            the sender's clock since its epoch.
        absent: inputs that the robot does not have; their entries of ``state`` are 0.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    stamps_ns: Mapping[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse pictures of another type or shape.

        Raises:
            ObservationError: the message names the camera.
        """
        for key, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
                raise ObservationError(
                    f"picture {key} is {image.dtype}{list(image.shape)}; expected uint8 in [0, 255], shape (h, w, 3)"
                )


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy believes and would do, for one observation.

    Attributes:
        actions: float32 (horizon, n), absolute, in the robot's units: of a Teleavatar 16 numbers, arm joint targets in
            rad and gripper efforts in N m.
        progress: the model's raw belief in [0, 1], or None without a head. Test with ``is None``: 0.0 is a value.
        progress_interval: (lower, upper) of the belief at ``confidence_level``, or None.
        progress_belief: float32 (bins,) probabilities over equal bins of [0, 1], or None if the head has no bins.
        timing: ms per part (``transforms``, ``model``), measured after the device is done.
        confidence_level: nominal probability that the interval holds the truth.
    """

    actions: np.ndarray
    progress: float | None
    progress_interval: tuple[float, float] | None = None
    progress_belief: np.ndarray | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    confidence_level: float = CONFIDENCE_LEVEL
