"""The arm relay's rule: joint targets become velocities. No ROS in here."""

from __future__ import annotations

import numpy as np

from pi05_progress.robots.profile import RelayProfile


def relay_velocity(relay: RelayProfile, target: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Joint velocities, rad/s, that bring an arm from ``position`` to ``target``, rad.

    ``clip(kp (target - position), +-speed_share v_max)``, the vendor's relay.
    """
    limit = relay.speed_share * np.array(relay.v_max)
    return np.clip(np.array(relay.kp) * (target - position), -limit, limit)
