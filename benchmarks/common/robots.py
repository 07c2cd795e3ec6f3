"""Robots with fewer cameras than they have, and what they see."""

from __future__ import annotations

import numpy as np

from pi05_progress.observation import RobotFrame
from pi05_progress.robots.profile import RobotProfile


def robot(cameras: int) -> tuple[RobotProfile, RobotFrame]:
    """A robot with so many of the three cameras, and what it sees."""
    profile = RobotProfile.load("teleavatar")
    profile = profile.model_copy(update={"cameras": dict(list(profile.cameras.items())[:cameras])})
    rng = np.random.default_rng(3)
    pictures = {key: rng.integers(0, 256, (*c.size[::-1], 3), np.uint8) for key, c in profile.cameras.items()}
    return profile, RobotFrame(pictures, np.zeros(profile.vector_size, np.float32))
