"""Commanding the robot: a thread that walks the chunk in force at the control rate, or holds still and says why.

Threads: ``offer``, ``refuse``, ``set_wanted``, ``set_fsm`` and ``reason`` are called by others, all else belongs to the executor's thread;
`_lock` guards the timeline and the flags. Nothing is sent unless it is wanted and every check of the tick has passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from pi05_progress.robots.messages import MessageError, joint_values
from pi05_progress.robots.profile import SIDES, RobotProfile
from pi05_progress.robots.teleavatar import GRIPPER_ACTION, gripper_command_from_effort

from .chunks import Chunk, Timeline, limited
from .inputs import Snapshot

ENABLE_PERIOD_S = 0.1
WATCH_PERIOD_S = 0.5  # how often other publishers of the robot's commands are looked for
PAUSE, READY = 0, 2  # of the robot's state machine
ARM_COLUMNS = {"left": slice(0, 7), "right": slice(8, 15)}


@dataclass(frozen=True)
class CommandSettings:
    """How commands are made.

    Attributes:
        rate_hz: of the commands.
        blend_s: passing from one chunk to the next.
        max_joint_speed: of any arm joint, rad/s.
    """

    rate_hz: float = 100.0
    blend_s: float = 0.2
    max_joint_speed: float = 1.0


class CommandExecutor:
    """See the module's docstring.

    Args:
        node: whose publishers these are.
        profile: topics, limits and gripper curve.
        settings: how commands are made.
        snapshot: the inputs as they are now, with what speaks against using them.
        against: further reasons against commanding, empty if there are none.
    """

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        settings: CommandSettings,
        snapshot: Callable[[], Snapshot],
        against: Callable[[], str],
    ) -> None:
        self._node, self._profile, self._settings = node, profile, settings
        self._snapshot, self._against = snapshot, against
        direct = profile.arm_command == "direct"
        self._topics = {s: a.command_topic if direct else a.target_topic for s, a in profile.arms.items()}
        self._arms = {s: node.create_publisher(JointState, topic, 10) for s, topic in self._topics.items()}
        self._grippers = {s: node.create_publisher(Float32, profile.grippers[s].command_topic, 10) for s in SIDES}
        self._enable = node.create_publisher(Float32, profile.enable_topic, 10)
        self._lock = threading.Lock()
        self._timeline = Timeline(settings.blend_s)
        self._wanted = False
        self._reason = "commands were not asked for"
        self._last: dict[str, np.ndarray] = {}  # per arm what was commanded last, rad (7,)
        self._commanding = False
        self._refusal = "no chunk yet"
        self._fsm, self._was_ready, self._paused_by_other = PAUSE, False, False
        self._others, self._watched_s, self._enabled_s = "", 0.0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commands")

    # --- called by other threads ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop commanding, hold, and end the thread; returns when that is done."""
        self._ended.set()
        if self._thread.ident:
            self._thread.join()

    def set_wanted(self, wanted: bool) -> None:
        """Whether commands are asked for."""
        with self._lock:
            self._wanted, self._paused_by_other = wanted, False
            self._timeline.clear()  # what was planned while nothing was commanded is not to be carried out

    def offer(self, chunk: Chunk, now_s: float) -> None:
        """A newer chunk, rad and N m (h, 16), all of it finite."""
        with self._lock:
            self._refusal = ""
            self._timeline.add(chunk, now_s)

    def refuse(self, reason: str) -> None:
        """Hold still until the next chunk is offered."""
        with self._lock:
            self._refusal = reason
            self._timeline.clear()

    def set_fsm(self, state: int) -> None:
        """State of the robot's own state machine. A pause that is not ours is not to be undone by our next enable."""
        with self._lock:
            if self._commanding and self._was_ready and state == PAUSE:
                self._paused_by_other = True
            self._fsm = state
            self._was_ready = self._commanding and (self._was_ready or state == READY)

    @property
    def reason(self) -> str:
        """Why nothing is commanded now; empty while something is."""
        return self._reason

    # --- the thread ---

    def _run(self) -> None:
        period = 1 / self._settings.rate_hz
        due = time.monotonic()
        try:
            while not self._ended.is_set():
                self._tick(period)
                due += period
                delay = due - time.monotonic()
                if delay > 0:
                    self._ended.wait(delay)
                else:
                    due = time.monotonic()
        except Exception as error:  # a dead thread must not leave the robot enabled
            self._node.get_logger().fatal(f"commands ended: {error!r}")
        finally:
            self._halt(self._snapshot(), "the node stops")

    def _tick(self, period: float) -> None:
        snapshot = self._snapshot()
        now_s = self._node.get_clock().now().nanoseconds * 1e-9
        positions: dict[str, np.ndarray] = {}
        with self._lock:
            reason = self._reason_against(snapshot)
            target = None if reason else self._timeline.target(now_s)
        if not reason:
            try:
                positions = self._positions(snapshot)
            except MessageError as error:
                reason = str(error)
        if not reason and target is None and not self._commanding:
            reason = "no chunk yet"
        if reason:
            self._halt(snapshot, reason)
            return
        if not self._commanding:
            self._last = positions
            with self._lock:
                self._commanding, self._was_ready = True, False
        self._say("" if target is not None else "the chunk has ended: holding its last target")
        self._command(target, period)

    def _reason_against(self, snapshot: Snapshot) -> str:
        if not self._wanted:
            return "commands were not asked for"
        if snapshot.problems:
            return snapshot.problems[0]
        if self._paused_by_other:
            return "the robot was paused by another while commanded: set publish_commands to true again to go on"
        return self._refusal or self._against() or self._other_publishers()

    def _other_publishers(self) -> str:
        now = time.monotonic()
        if now - self._watched_s > WATCH_PERIOD_S:
            self._watched_s = now
            topics = [t for t in self._topics.values() if self._node.count_publishers(t) > 1]
            self._others = f"another node publishes {topics[0]}, too: stop one of the two" if topics else ""
        return self._others

    def _positions(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Where the arms are, as far as that is known; rad (7,) each."""
        found = {}
        for side in SIDES:
            message = snapshot.messages.get(f"{side}_arm")
            if message is not None:
                values = joint_values(message, self._profile.arms[side].joints, f"{side}_arm")
                found[side] = values.position.astype(float)
        return found

    def _command(self, target: np.ndarray | None, period: float) -> None:
        if target is not None:
            for side in SIDES:
                limits = self._profile.arms[side].limits()
                wanted, speed = target[ARM_COLUMNS[side]], self._settings.max_joint_speed
                self._last[side], _ = limited(wanted, self._last[side], limits, speed, period)
                effort = target[GRIPPER_ACTION[side]]
                command = gripper_command_from_effort(effort, side, self._profile.gripper_curve)
                self._grippers[side].publish(Float32(data=float(command)))
        self._publish_arms(self._last)
        if time.monotonic() - self._enabled_s >= ENABLE_PERIOD_S:
            self._enabled_s = time.monotonic()
            self._enable.publish(Float32(data=1.0))

    def _publish_arms(self, positions: dict[str, np.ndarray]) -> None:
        stamp = self._node.get_clock().now().to_msg()
        for side, position in positions.items():
            message = JointState(name=list(self._profile.arms[side].joints), position=position.tolist())
            message.header.stamp = stamp
            self._arms[side].publish(message)

    def _halt(self, snapshot: Snapshot, reason: str) -> None:
        """Stop at once: the pose the arms have becomes their target, and the robot is paused."""
        if self._commanding:
            with self._lock:
                self._commanding = False
                self._timeline.clear()
            try:
                self._publish_arms(self._positions(snapshot))
            except MessageError as error:  # joints that cannot be read: the pause below holds the arms all the same
                self._node.get_logger().warning(f"the present pose is not known: {error}")
            self._enable.publish(Float32(data=0.0))
        self._say(reason)

    def _say(self, reason: str) -> None:
        if reason == self._reason:
            return
        self._reason = reason
        logger = self._node.get_logger()
        if not reason:
            logger.info("commanding the robot")
        elif self._wanted:
            logger.warning(f"holding still: {reason}")
        else:
            logger.info(f"not commanding: {reason}")
