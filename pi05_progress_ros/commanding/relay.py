"""The arm relay's rule: joint targets become velocities. No ROS in here."""

from __future__ import annotations

import numpy as np

from pi05_progress.robots.profile import RelayProfile

CATCH_UP = 1.5  # times the speed of targets: so fast a joint that lags behind may follow them


def relay_velocity(relay: RelayProfile, target: np.ndarray, position: np.ndarray, max_speed: float) -> np.ndarray:
    """Joint velocities, rad/s, that bring an arm from ``position`` to ``target``, rad.

    ``clip(kp (target - position), +-speed_share v_max)``, the vendor's relay, but not faster than ``CATCH_UP`` times
    ``max_speed``, which targets keep to: an arm that was held fast, or an odd target, must not let it leap.
    """
    limit = np.minimum(relay.speed_share * np.array(relay.v_max), CATCH_UP * max_speed)
    return np.clip(np.array(relay.kp) * (target - position), -limit, limit)
