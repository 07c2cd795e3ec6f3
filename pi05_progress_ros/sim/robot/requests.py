"""The services /sim/reset and /sim/step: the executor's thread asks, the physics thread does it, and both wait.

`_changed` guards what is asked for. Methods are called by the physics thread, callbacks by the executor's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.node import Node
from std_srvs.srv import Trigger

from .robot import Robot

RENDER_TIMEOUT_S = 10.0  # how long a lockstep step waits for the cameras
ANSWER_TIMEOUT_S = 5.0  # how long a caller waits for the physics thread, beside that


class Requests:
    """See the module's docstring."""

    def __init__(self, node: Node, robot: Robot, lockstep: bool, stopped: Callable[[], bool]) -> None:
        self._robot, self._lockstep, self._stopped = robot, lockstep, stopped
        self._changed = threading.Condition()
        self._steps, self._reset = 0, False
        node.create_service(Trigger, "/sim/reset", self._on_reset)
        node.create_service(Trigger, "/sim/step", self._on_step)

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is asked for; False after the time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._steps > 0 or self._reset, timeout_s)

    @property
    def reset_asked(self) -> bool:
        """Whether a reset is asked for."""
        with self._changed:
            return self._reset

    @property
    def step_asked(self) -> bool:
        """Whether a step is asked for."""
        with self._changed:
            return self._steps > 0

    def reset_done(self) -> None:
        """The reset that was asked for is done."""
        with self._changed:
            self._reset = False
            self._changed.notify_all()

    def step_done(self) -> None:
        """One step that was asked for is done."""
        with self._changed:
            self._steps -= 1
            self._changed.notify_all()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._changed:
            self._reset = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._stopped() or not self._reset, ANSWER_TIMEOUT_S)
        response.success, response.message = bool(done) and not self._stopped(), f"seed {self._robot.world.seed}"
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._lockstep:
            response.message = "the simulation runs by itself; start it with lockstep:=true to step it"
            return response
        with self._changed:
            self._steps += 1
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._stopped() or not self._steps, RENDER_TIMEOUT_S + ANSWER_TIMEOUT_S
            )
        response.success = bool(done) and not self._stopped()
        response.message = f"{self._robot.now_s:.6f}" if response.success else "the step was not completed"
        return response
