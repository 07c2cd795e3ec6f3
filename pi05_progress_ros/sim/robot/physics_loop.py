"""The physics at 200 Hz, in real time or when told, what the robot says of itself, and who works in its episodes.

All in one thread: between two ticks the node's callbacks run, which store commands and do what /sim/reset and /sim/step
ask for. Only the cameras have a thread of their own.
"""

from __future__ import annotations

import math
import time
from itertools import count
from threading import Event
from typing import Protocol

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import FsmState

from ...ros_session import spin, to_time
from .camera_sender import ImagePublisher
from .command_listener import CommandListener
from .description import Description
from .robot import STATE_HZ, Robot
from .states import IMAGE_HZ, STOP_AFTER_S, StatePublisher, Truth, is_due

RENDER_TIMEOUT_S = 10.0  # how long a lockstep step waits for the cameras
BEHIND_S = 0.2  # how far the simulation may lag the clock before it says so
WARNING_PERIOD_S = 5.0  # at least, between two times it says so
CALLBACKS = 8  # in a tick that is late; commands of all kinds are fewer


class Worker(Protocol):
    """Somebody who works in the simulation, called every other tick: the scripted operator, or who tidies up."""

    @property
    def gave_up(self) -> str:
        """Why the work has ended, whether or not the task is done; empty while it has not."""

    @property
    def not_to_imitate(self) -> str:
        """Why what it does now is not to be imitated; empty if it is."""

    def publish(self, stamp: Time) -> bool:
        """Command what is due; whether the episode is over."""

    def new_episode(self) -> None:
        """The world has been reset."""


class PhysicsLoop:
    """See the module's docstring.

    Args:
        node: whose topics and services these are; its callbacks run in the loop.
        step_s: simulated time of one lockstep step, s; None where the simulation runs by itself.
        episodes: that the worker does, each with the next seed.
        images: who renders, if anybody does.
        worker: who works in the simulation, if anybody does.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        profile: RobotProfile,
        listener: CommandListener,
        *,
        step_s: float | None,
        episodes: float,
        images: ImagePublisher | None,
        worker: Worker | None,
    ) -> None:
        self._node, self._robot, self._step_s, self._episodes_left = node, robot, step_s, episodes
        self._listener, self._images, self._worker = listener, images, worker
        self._ticks, self._until_s, self._stop = 0, 0.0, Event()
        self._clock = node.create_publisher(Clock, "/clock", qos_profile_sensor_data)
        self._states = StatePublisher(node, robot, profile)
        self._description = Description(node, profile)
        self._truth = Truth(node, robot)
        node.create_service(Trigger, "/sim/reset", self._on_reset)
        node.create_service(Trigger, "/sim/step", self._on_step)

    def run(self, stop: Event) -> None:
        """Step until ``stop`` is set, then close the episode and end the camera thread."""
        self._stop = stop
        try:
            if self._images:
                self._images.start()
            if self._step_s is None:
                self._run_real_time()
            else:
                spin(self._node, stop)
        finally:
            self._truth.end_episode()
            if self._images:
                self._images.stop()

    def _run_real_time(self) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        started, warned = time.monotonic(), 0.0
        while not self._stop.is_set():
            self._tick()
            due = started + self._ticks / STATE_HZ
            if (late := time.monotonic() - due) > BEHIND_S:
                if time.monotonic() - warned > WARNING_PERIOD_S:
                    self._node.get_logger().warning("the simulation cannot keep up with real time; lower image_scale")
                    warned = time.monotonic()
                started += late  # let simulated time lag rather than race to catch up
            for done in count():
                left = due - time.monotonic()
                if left <= 0 and done >= CALLBACKS:
                    break
                executor.spin_once(timeout_sec=max(0.0, left))

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._step_s is None:
            response.message = "the simulation runs by itself; start it with lockstep:=true to step it"
            return response
        self._until_s += self._step_s
        while (self._ticks + 1) / STATE_HZ <= self._until_s + 1e-9 and not self._stop.is_set():
            self._tick()
            if self._images and not self._images.wait_idle(RENDER_TIMEOUT_S):
                self._node.get_logger().error("the cameras did not finish; images of this step are missing")
        response.success = not self._stop.is_set()
        response.message = f"{self._robot.now_s:.6f}" if response.success else "the step was not completed"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset(self._node.get_parameter("seed").value)
        response.success, response.message = True, f"seed {self._robot.world.seed}"
        return response

    def _reset(self, seed: int) -> None:
        self._truth.end_episode()
        self._robot.reset(seed)
        if self._worker:
            self._worker.new_episode()

    def _tick(self) -> None:
        tick = self._ticks
        self._ticks += 1
        self._robot.advance()
        world = self._robot.world
        stamp = to_time(self._robot.stamp_ns(world.time_s))
        self._clock.publish(Clock(clock=stamp))
        self._states.publish(tick, stamp, self._listener.mode)
        if is_due(tick, IMAGE_HZ):
            self._description.publish(stamp, world)
            self._truth.publish(self._worker.not_to_imitate if self._worker else "")
            if self._images:
                self._images.offer(stamp, world.snapshot())
        if self._worker and tick % 2 == 0:
            over = self._worker.publish(stamp)
            if self._worker.gave_up:
                self._truth.give_up(self._worker.gave_up)
            if over and self._episodes_left > 1:
                self._episodes_left -= 1
                self._reset(world.seed + 1)


YIELD_S = 1.0  # how long whoever commands the arms has after the episode's end to let go of them
HOME_RAD_S = 0.8  # fastest joint on the way home
LEAST_S = 1.0  # of the way home, however near that is
REST_S = 0.5  # at home, before the next episode
LEFT_S = 5.0  # after which nobody goes on with what was begun: a limit has ended it, or it was taken for done
LEFT = f"not done, and not commanded any more for {LEFT_S:g} s"


class PolicyEpisodes:
    """Episodes of a policy: one that is decided, or left, ends, the arms go home by themselves, the next one begins.

    A ``Worker``. Grippers keep what they have on the way.
    """

    not_to_imitate = ""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self.new_episode()

    def new_episode(self) -> None:
        """The world has been reset."""
        self.gave_up = ""
        self._decided_s: float | None = None
        self._commanded_s = math.inf  # when it was last, in this episode
        self._began_s: float | None = None

    def publish(self, _: Time) -> bool:
        """Move the arms, if that is due; whether the next episode may begin."""
        world, now = self._robot.world, self._robot.world.time_s
        if self._decided_s is None:
            if self._robot.machine.state != FsmState.PAUSE:
                self._commanded_s = now
            if world.task_status().outcome != "unknown":
                self._decided_s = now
            elif now - self._commanded_s > LEFT_S:
                self.gave_up, self._decided_s = LEFT, now - STOP_AFTER_S
            else:
                return False
        if self._began_s is None:
            late_s = now - self._decided_s - STOP_AFTER_S
            if late_s < 0 or (self._robot.machine.state != FsmState.PAUSE and late_s < YIELD_S):
                return False
            self._began_s = now
            self._start = {side: world.arm_state(side).position for side in world.sides}
            farthest = max(np.abs(self._start[side] - world.home(side)).max() for side in world.sides)
            self._duration_s = max(LEAST_S, 1.875 * farthest / HOME_RAD_S)  # a fifth-order course is that much faster
        share = min(1.0, (now - self._began_s) / self._duration_s)
        passed = share**3 * (10 - 15 * share + 6 * share**2)
        self._robot.lead(
            {side: start + passed * (self._robot.world.home(side) - start) for side, start in self._start.items()}
        )
        return now >= self._began_s + self._duration_s + REST_S
