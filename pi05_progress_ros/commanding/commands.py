"""Commanding the robot: a thread that walks the chunk in force at the control rate, or holds still and says why.

Nothing is sent unless it is wanted and every check of the tick has passed; publishers exist only while it is wanted.
What ends commanding for good, until it is asked for anew: somebody else paused the robot, an arm does not follow.

Threads: ``offer``, ``refuse``, ``forget``, ``hear_enable``, ``set_wanted``, ``reason`` and ``broken`` are called by
others, all else belongs to the executor's own thread; `_lock` guards what both sides write: the timeline and the flags
beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from pi05_progress.robots.joints import MessageError, joint_values
from pi05_progress.robots.profile import SIDES, RobotProfile

from ..node.diagnostics import same_kind
from ..node.inputs import Snapshot
from .chunks import Chunk, Timeline
from .command_rules import ENABLE_PERIOD_S, PAUSED, Against, CommandRules, CommandSettings, Step
from .graph import other_publishers
from .robot_state import RobotState

WATCH_PERIOD_S = 0.25  # how often other publishers of the robot's commands are looked for
DISCOVERY_S = 0.5  # how long they are looked for before the first command
ACKNOWLEDGED_S = 0.2  # how long the last commands may take to arrive


class CommandExecutor:
    """See the module's docstring.

    Args:
        node: whose publishers these are.
        profile: topics, limits and gripper curve.
        settings: how commands are made.
        robot: what the robot says of itself.
        snapshot: the inputs as they are now, with what speaks against using them.
        against: further reasons against commanding, empty if there are none.
    """

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        settings: CommandSettings,
        robot: RobotState,
        snapshot: Callable[[], Snapshot],
        against: Callable[[], str],
    ) -> None:
        self._node, self._profile, self._settings, self._robot = node, profile, settings, robot
        self._snapshot, self._against = snapshot, against
        self._relayed = profile.arm_command == "relay"
        self._topics = {s: a.target_topic if self._relayed else a.command_topic for s, a in profile.arms.items()}
        self._lock = threading.Lock()
        self._timeline = Timeline(settings.blend_s)
        self._wanted = False
        self._refusal = ""
        self._ended_by = ""  # what ended commanding until it is asked for anew
        self._reason, self._broken = "commands were not asked for", False
        # From here on the thread's own:
        self._publishers: _Publishers | None = None
        self._rules = CommandRules(profile, settings)
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
            self._wanted, self._ended_by = wanted, ""
            self._timeline.clear()  # what was planned while nothing was commanded is not to be carried out

    def offer(self, chunk: Chunk, now_s: float) -> None:
        """A newer chunk, rad and N m (h, 16), all of it finite."""
        with self._lock:
            self._refusal = ""
            if chunk.end_s > now_s:
                self._timeline.add(chunk, now_s)
            elif not self._rules.commanding:
                late, length = now_s - chunk.start_s, chunk.end_s - chunk.start_s
                self._refusal = f"the policy is too slow: actions came after {late:.1f} s, a chunk lasts {length:.2f} s"

    def forget(self) -> None:
        """Drop what is planned; the pose commanded last is held until the next chunk."""
        with self._lock:
            self._timeline.clear()

    def hear_enable(self, value: float) -> None:
        """What somebody published to the robot's heartbeat; this node itself sends nothing but 1 while it commands."""
        if self._rules.commanding and not value > 0:
            self._end_commanding(PAUSED)

    def refuse(self, reason: str) -> None:
        """Hold still until the next chunk is offered."""
        with self._lock:
            self._refusal = reason
            self._timeline.clear()

    @property
    def reason(self) -> str:
        """Why the robot is not moved now; empty while it is."""
        return self._reason

    @property
    def broken(self) -> bool:
        """Whether the thread was ended by a fault."""
        return self._broken

    # --- the thread ---

    def _run(self) -> None:
        period = 1 / self._settings.rate_hz
        due, reason = time.monotonic(), "the node stops"
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
            reason, self._broken = f"commands ended by a fault in this node, restart it: {error!r}", True
            self._node.get_logger().fatal(reason)
        finally:
            try:
                self._halt(self._snapshot(), reason)
            finally:
                self._close()

    def _tick(self, period: float) -> None:
        snapshot = self._snapshot()
        now_s = self._node.get_clock().now().nanoseconds * 1e-9
        with self._lock:
            wanted, refusal, ended_by = self._wanted, self._refusal, self._ended_by
            target = self._timeline.target(now_s)
        if not wanted:
            self._halt(snapshot, "commands were not asked for")
            self._close()
            return
        self._open()
        reason, positions, fsm = self._reason_against(snapshot, ended_by, refusal), {}, self._robot.fsm
        if not reason:
            try:
                positions = _positions(snapshot, self._profile)
                reason = self._heeded(self._rules.against(fsm, target, positions, time.monotonic()))
            except MessageError as error:
                reason = str(error)
        if reason:
            self._halt(snapshot, reason)
            return
        self._command(self._rules.step(fsm, target, positions, period))

    def _reason_against(self, snapshot: Snapshot, ended_by: str, refusal: str) -> str:
        reason = (snapshot.problems[0] if snapshot.problems else "") or self._robot.against()
        return reason or ended_by or self._against() or self._other_commanders() or refusal

    def _heeded(self, against: Against) -> str:
        if against.for_good:
            self._end_commanding(against.reason)
        return against.reason

    def _end_commanding(self, reason: str) -> None:
        with self._lock:
            self._ended_by = reason

    def _other_commanders(self) -> str:
        now = time.monotonic()
        if now - self._watched_s > WATCH_PERIOD_S:
            self._watched_s = now
            self._others = self._look_for_others()
        if not self._others and now - self._publishers.opened_s < DISCOVERY_S:
            return "looking for other nodes that command the robot"
        return self._others

    def _look_for_others(self) -> str:
        grippers = [self._profile.grippers[side].command_topic for side in SIDES]
        for topic in (*self._topics.values(), *grippers):
            if others := other_publishers(self._node, topic):
                return f"{', '.join(others)} publishes {topic}, too: stop one of the two"
        for topic in (arm.command_topic for arm in self._profile.arms.values() if self._relayed):
            count = self._node.count_publishers(topic)
            if count == 0:
                return f"nothing publishes {topic}: start arm_relay_node"
            if count > 1:
                return f"{count} nodes publish {topic}: only one arm_relay_node may, stop the others"
        return ""

    def _command(self, step: Step) -> None:
        self._say(step.waits_for)
        for side, command in step.grippers.items():
            self._publishers.grippers[side].publish(Float32(data=command))
        self._publish_arms(step.arms)
        if time.monotonic() - self._enabled_s >= ENABLE_PERIOD_S:
            self._enabled_s = time.monotonic()
            self._publishers.enable.publish(Float32(data=1.0))

    def _publish_arms(self, positions: dict[str, np.ndarray]) -> None:
        stamp = self._node.get_clock().now().to_msg()
        for side, position in positions.items():
            message = JointState(name=list(self._profile.arms[side].joints), position=position.tolist())
            message.header.stamp = stamp
            self._publishers.arms[side].publish(message)

    def _halt(self, snapshot: Snapshot, reason: str) -> None:
        """Stop at once: the pose the arms have becomes their target, and the robot is paused. Grippers keep theirs."""
        with self._lock:
            self._timeline.clear()
        if self._rules.commanding:
            self._rules.stop(time.monotonic())
            try:
                self._publish_arms(_positions(snapshot, self._profile))
            except MessageError as error:  # the pause below holds the arms all the same
                self._node.get_logger().warning(f"the present pose is not known: {error}")
            finally:
                self._publishers.enable.publish(Float32(data=0.0))
        self._say(reason)

    def _open(self) -> None:
        if self._publishers is None:
            self._publishers, self._watched_s = _Publishers(self._node, self._profile, self._topics), 0.0

    def _close(self) -> None:
        if self._publishers is not None:
            self._publishers.destroy()
            self._publishers = None

    def _say(self, reason: str) -> None:
        known, self._reason = self._reason, reason
        if same_kind(reason, known):
            return
        logger = self._node.get_logger()
        if not reason:
            logger.info("commanding the robot")
        elif self._wanted:
            logger.warning(f"holding still: {reason}")
        else:
            logger.info(f"not commanding: {reason}")


class _Publishers:
    """Of arm targets, grippers and the enabling heartbeat."""

    def __init__(self, node: Node, profile: RobotProfile, topics: dict[str, str]) -> None:
        self._node, self.opened_s = node, time.monotonic()
        self.arms = {s: node.create_publisher(JointState, topic, 10) for s, topic in topics.items()}
        self.grippers = {s: node.create_publisher(Float32, profile.grippers[s].command_topic, 10) for s in SIDES}
        self.enable = node.create_publisher(Float32, profile.enable_topic, 10)

    def destroy(self) -> None:
        """Let go of them when what was sent has arrived."""
        for publisher in (*self.arms.values(), *self.grippers.values(), self.enable):
            publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_S))
            self._node.destroy_publisher(publisher)


def _positions(snapshot: Snapshot, profile: RobotProfile) -> dict[str, np.ndarray]:
    """Where both arms are, rad (7,) each.

    Raises:
        MessageError: an arm's joints are stale or wrong.
    """
    found = {}
    for side in SIDES:
        name = f"{side}_arm"
        if name in snapshot.stale or name not in snapshot.messages:
            raise MessageError(f"{name}: no fresh joint state")
        values = joint_values(snapshot.messages[name], profile.arms[side].joints, name)
        found[side] = values.position.astype(float)
    return found
