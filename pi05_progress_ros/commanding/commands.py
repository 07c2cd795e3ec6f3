"""Commanding the robot: a thread that walks the chunk in force at the control rate, or holds still and says why.

Nothing is sent unless it is wanted and every check of the tick has passed; publishers exist only while it is wanted.
What ends commanding for good, until it is asked for anew: somebody else paused the robot, an arm does not follow.

Threads: ``start``, ``stop``, ``offer``, ``refuse``, ``forget``, ``hear_enable``, ``set_wanted``, ``reason`` and
``broken`` are called by others, all else belongs to the executor's own thread. What both sides write is in the plan,
which has a lock of its own; ``reason``, ``broken`` and the rules' ``commanding`` are single values that only this
thread replaces.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from pi05_progress.robots.joints import MessageError, joint_values
from pi05_progress.robots.profile import RobotProfile

from ..inputs import Snapshot, same_kind
from .chunks import Chunk
from .command_rules import PAUSED, CommandRules, CommandSettings
from .graph import OtherCommanders
from .plan import Plan, Request
from .publishers import CommandPublishers
from .robot_state import RobotState


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
        self._plan = Plan(settings.blend_s)
        self._reason, self._broken = "commands were not asked for", False
        # From here on the thread's own:
        self._publishers: CommandPublishers | None = None
        self._others: OtherCommanders | None = None
        self._rules = CommandRules(profile, settings)
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
        self._plan.set_wanted(wanted)

    def offer(self, chunk: Chunk, now_s: float) -> None:
        """A newer chunk, rad and N m (h, n), all of it finite."""
        self._plan.offer(chunk, now_s, self._rules.commanding)

    def forget(self) -> None:
        """Drop what is planned; the pose commanded last is held until the next chunk."""
        self._plan.forget()

    def hear_enable(self, value: float) -> None:
        """What somebody published to the robot's heartbeat; this node itself sends nothing but 1 while it commands."""
        if self._rules.commanding and not value > 0:
            self._plan.end(PAUSED)

    def refuse(self, reason: str) -> None:
        """Hold still until the next chunk is offered."""
        self._plan.refuse(reason)

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
        request = self._plan.request(self._node.get_clock().now().nanoseconds * 1e-9)
        if not request.wanted:
            self._halt(snapshot, "commands were not asked for")
            self._close()
            return
        self._open()
        reason, positions, fsm = self._reason_against(snapshot, request), {}, self._robot.fsm
        if not reason:
            try:
                positions = _positions(snapshot, self._profile)
                reason, for_good = self._rules.objection(fsm, request.target, positions, time.monotonic())
                if for_good:
                    self._plan.end(reason)
            except MessageError as error:
                reason = str(error)
        if reason:
            self._halt(snapshot, reason)
            return
        step = self._rules.step(fsm, request.target, positions, period)
        self._say(step.waits_for)
        self._publishers.send(step)

    def _reason_against(self, snapshot: Snapshot, request: Request) -> str:
        reason = (snapshot.problems[0] if snapshot.problems else "") or self._robot.against()
        return reason or request.ended_by or self._against() or self._others.against() or request.refusal

    def _halt(self, snapshot: Snapshot, reason: str) -> None:
        """Stop at once: the pose the arms have becomes their target, and the robot is paused. Grippers keep theirs."""
        self._plan.forget()
        if self._rules.commanding:
            self._rules.stop(time.monotonic())
            try:
                self._publishers.send_arms(_positions(snapshot, self._profile))
            except MessageError as error:  # the pause below holds the arms all the same
                self._node.get_logger().warning(f"the present pose is not known: {error}")
            finally:
                self._publishers.pause()
        self._say(reason)

    def _open(self) -> None:
        if self._publishers is None:
            self._publishers = CommandPublishers(self._node, self._profile)
            self._others = OtherCommanders(self._node, self._profile)

    def _close(self) -> None:
        if self._publishers is not None:
            self._publishers.destroy()
            self._publishers = self._others = None

    def _say(self, reason: str) -> None:
        known, self._reason = self._reason, reason
        if same_kind(reason, known):
            return
        logger = self._node.get_logger()
        if not reason:
            logger.info("commanding the robot")
        elif self._plan.wanted:
            logger.warning(f"holding still: {reason}")
        else:
            logger.info(f"not commanding: {reason}")


def _positions(snapshot: Snapshot, profile: RobotProfile) -> dict[str, np.ndarray]:
    """Where each arm is, rad.

    Raises:
        MessageError: an arm's joints are stale or wrong.
    """
    found = {}
    for side, arm in profile.arms.items():
        name = f"{side}_arm"
        if name in snapshot.stale or name not in snapshot.messages:
            raise MessageError(f"{name}: no fresh joint state")
        values = joint_values(snapshot.messages[name], arm.joints, name)
        found[side] = values.position.astype(float)
    return found
