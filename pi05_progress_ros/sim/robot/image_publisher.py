"""A thread that renders snapshots of the world and publishes them, so that physics and states keep their rates."""

from __future__ import annotations

import threading
from collections import deque

import mujoco
import numpy as np
from builtin_interfaces.msg import Time

from pi05_progress.robots.profile import RobotProfile

from ..physics.cameras import CameraRig, scaled_sizes
from .camera_sender import CameraSenders


class ImagePublisher:
    """Renders the snapshots offered; of those that wait the newest two are kept, so that a late one is no gap."""

    def __init__(self, model: mujoco.MjModel, profile: RobotProfile, scale: float, senders: CameraSenders) -> None:
        self._model, self._profile, self._senders = model, profile, senders
        self._sizes = scaled_sizes(scale)
        self._changed = threading.Condition()  # guards the three below
        self._waiting: deque[tuple[Time, np.ndarray]] = deque(maxlen=2)
        self._busy = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="cameras")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, stamp: Time, snapshot: np.ndarray) -> None:
        """Have this state rendered next."""
        with self._changed:
            self._waiting.append((stamp, snapshot))
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until all that was offered is published; False if that took too long or the thread has ended."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._ended or not (self._busy or self._waiting), timeout_s)
            return done and not self._ended

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        rig = CameraRig(self._model, self._sizes, self._profile)
        try:
            while True:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._ended or self._waiting)
                    if self._ended:
                        return
                    (stamp, snapshot), self._busy = self._waiting.popleft(), True
                self._senders.publish(rig.render(snapshot), stamp)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            rig.close()
