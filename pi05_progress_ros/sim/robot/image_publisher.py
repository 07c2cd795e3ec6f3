"""A thread that renders snapshots of the world and publishes them, so that physics and states keep their rates."""

from __future__ import annotations

import array
import threading
from collections import deque
from collections.abc import Mapping

import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image

from ..physics.cameras import CameraRig


class ImagePublisher:
    """Renders the snapshots offered; of those that wait the newest two are kept, so that a late one is no gap."""

    def __init__(
        self, model: mujoco.MjModel, sizes: Mapping[str, tuple[int, int]], publishers: Mapping[str, Publisher]
    ) -> None:
        self._model, self._sizes, self._publishers = model, sizes, publishers
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
        rig = CameraRig(self._model, self._sizes)
        try:
            while True:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._ended or self._waiting)
                    if self._ended:
                        return
                    (stamp, snapshot), self._busy = self._waiting.popleft(), True
                for key, image in rig.render(snapshot).items():
                    self._publishers[key].publish(image_message(image, stamp, key))
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            rig.close()


def image_message(image: np.ndarray, stamp: Time, frame: str) -> Image:
    """An rgb8 message from uint8 (h, w, 3)."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=image.shape[1] * 3)
    message.header.stamp, message.header.frame_id = stamp, frame
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data
    return message
