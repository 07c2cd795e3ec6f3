"""The thread that steps the physics at 200 Hz, in real time or when told, and publishes what the robot says of itself.

It owns the operator, the truth and the ticks; the robot and the mode it shares with the callbacks under a lock.
"""

from __future__ import annotations

import math
import time
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import Protocol

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from pi05_progress.robots.profile import RobotProfile

from .command_listener import CommandListener
from .description import Description
from .image_publisher import ImagePublisher
from .robot import STATE_HZ, Robot
from .robot_parameters import RobotParameters
from .states import IMAGE_HZ, StatePublisher, Truth, is_due, to_time

RENDER_TIMEOUT_S = 10.0  # how long a lockstep step waits for the cameras
ANSWER_TIMEOUT_S = 5.0  # how long a caller waits for the physics thread, beside that


class Requests:
    """The services /sim/reset and /sim/step; the executor's thread waits in them for the physics thread."""

    def __init__(self, node: Node, robot: Robot, lockstep: bool, stop: Event) -> None:
        self._robot, self._lockstep, self._stop = robot, lockstep, stop
        self._asked: SimpleQueue[tuple[str, Event]] = SimpleQueue()
        node.create_service(Trigger, "/sim/reset", self._on_reset)
        node.create_service(Trigger, "/sim/step", self._on_step)

    def next(self, timeout_s: float) -> tuple[str, Event] | None:
        """What is asked for, ``reset`` or ``step``, and the event that tells it is done; None after the time-out."""
        try:
            return self._asked.get(timeout_s > 0, timeout_s)
        except Empty:
            return None

    def _ask(self, what: str, limit_s: float) -> bool:
        done, until_s = Event(), time.monotonic() + limit_s
        self._asked.put((what, done))
        while not done.wait(0.1) and not self._stop.is_set() and time.monotonic() < until_s:
            pass
        return done.is_set() and not self._stop.is_set()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._ask("reset", ANSWER_TIMEOUT_S)
        response.message = f"seed {self._robot.world.seed}"
        return response

    def _on_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._lockstep:
            response.message = "the simulation runs by itself; start it with lockstep:=true to step it"
            return response
        response.success = self._ask("step", RENDER_TIMEOUT_S + ANSWER_TIMEOUT_S)
        response.message = f"{self._robot.now_s:.6f}" if response.success else "the step was not completed"
        return response


BEHIND_S = 0.2  # how far the simulation may lag the clock before it says so
WARNING_PERIOD_S = 5.0  # at least, between two times it says so


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
    """See the module's docstring."""

    def __init__(
        self,
        node: Node,
        robot: Robot,
        lock: Lock,
        parameters: RobotParameters,
        profile: RobotProfile,
        *,
        listener: CommandListener,
        requests: Requests,
        images: ImagePublisher | None,
        worker: Worker | None,
    ) -> None:
        self._node, self._robot, self._lock, self._step_s = node, robot, lock, parameters.step_s
        self._listener, self._requests, self._images, self._worker = listener, requests, images, worker
        self._episodes_left = (parameters.expert and parameters.expert_episodes) or math.inf
        self._clock = node.create_publisher(Clock, "/clock", qos_profile_sensor_data)
        self._states = StatePublisher(node, robot, profile)
        self._description = Description(node, profile)
        self._truth = Truth(node, robot)

    def run(self, stop: Event) -> None:
        """Step until ``stop`` is set, then close the episode and end the camera thread."""
        try:
            if self._images:
                self._images.start()
            if self._step_s is None:
                self._run_real_time(stop)
            else:
                self._run_lockstep(stop, self._step_s)
        finally:
            stop.set()
            self._truth.end_episode()
            if self._images:
                self._images.stop()

    def _run_real_time(self, stop: Event) -> None:
        started, tick, warned = time.monotonic(), 0, 0.0
        while not stop.is_set():
            self._serve_reset(0.0)
            self._tick(tick)
            tick += 1
            delay = started + tick / STATE_HZ - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            elif delay < -BEHIND_S:
                if time.monotonic() - warned > WARNING_PERIOD_S:
                    self._node.get_logger().warning("the simulation cannot keep up with real time; lower image_scale")
                    warned = time.monotonic()
                started -= delay  # let simulated time lag rather than race to catch up

    def _run_lockstep(self, stop: Event, step_s: float) -> None:
        tick, until_s = 0, 0.0
        while not stop.is_set():
            if not (done := self._serve_reset(0.2)):
                continue
            until_s += step_s
            while (tick + 1) / STATE_HZ <= until_s + 1e-9 and not stop.is_set():
                self._tick(tick)
                tick += 1
                if self._images and not self._images.wait_idle(RENDER_TIMEOUT_S):
                    self._node.get_logger().error("the cameras did not finish; images of this step are missing")
            done.set()

    def _serve_reset(self, timeout_s: float) -> Event | None:
        """Do what is asked for within the time; if that is a step, it is the caller's to make, who sets the event."""
        what, done = self._requests.next(timeout_s) or ("", None)
        if what != "reset":
            return done
        self._reset(self._node.get_parameter("seed").value)
        done.set()
        return None

    def _reset(self, seed: int) -> None:
        self._truth.end_episode()
        with self._lock:
            self._robot.reset(seed)
        if self._worker:
            self._worker.new_episode()

    def _tick(self, tick: int) -> None:
        with self._lock:
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
