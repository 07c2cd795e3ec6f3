"""Demonstrations by the planner: in every picture it says what is right, while something else is executed.

What is executed are the planner's own chunks with disturbances, so that what is right is also said of states beside the
path (DART), or the chunks of a policy, so that it is said of the states that this one gets into (DAgger). It goes the
way that a policy's chunks go in closed loop. The bag holds the commands that were given on the policy's topics, and
what was right on the operator's topics and, as whole chunks, on ``/sim/planned_chunk``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32

from pi05_progress.policy import Policy
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import ActionChunk

from ...commanding.chunks import Chunk
from ...commanding.command_rules import CommandSettings
from ..driving.closed_loop import Commander
from ..expert.expert import OperatorCommand
from ..expert.kinematics import GRASP_HEIGHT, reach
from ..expert.operator import REST_S, OperatorTopics
from ..expert.planner import PlannerPolicy
from ..physics.scene import table_top_z
from ..physics.tasks.base import CUBE_HALF
from ..physics.world import World
from ..robot.robot import STATE_HZ, Robot
from ..robot.states import Outlet

PLANNED = "/sim/planned_chunk"
LATENCY_S = 0.1  # from a picture until its chunk is there
EXECUTED_S = (0.4, 0.6)  # how long a chunk is executed before the next one; oftener, arms begin to swing
ALONE_S = 0.5  # the same where a policy is alone, as it is judged
SIGMAS_RAD, SIGMA_SHARES = (0.0, 0.02, 0.04, 0.08), (0.4, 0.25, 0.2, 0.15)  # of joint offsets, and of chunks with them
RAMP_S = 0.4  # in which an offset comes
LOW_M, NEAR_M, LOW_SHARE = 0.08, 0.12, 0.15  # a hand that is so low above table or near objects is disturbed less
WRONG_GRIPPER = 0.02  # share of chunks in which the gripper does the opposite
PATIENCE_S = 35.0  # for an episode that the planner drives alone; most take less than 20
HELP_AFTER_S = 30.0  # from then on the planner drives alone, so that a policy's episodes come to an end
RAISED_M = 0.03  # so far the arm must be able to take up what it is to pick up
LOST_S = 1.0  # for so long an object must lie elsewhere until the episode is given up


class CommandedRobot(Robot):
    """A robot whose commands are recorded on the topics on which a policy sends them."""

    def __init__(self, world: World, outlet: Outlet, profile: RobotProfile) -> None:
        super().__init__(world)
        self._profile, self.stamp = profile, None  # without a stamp commands are not recorded
        topics = profile.target_topics().items()
        self._arms = {side: outlet.create_publisher(JointState, topic, 10) for side, topic in topics}
        grippers = profile.grippers.items()
        self._hands = {side: outlet.create_publisher(Float32, gripper.command_topic, 10) for side, gripper in grippers}

    def command_arm(self, side: str, target: np.ndarray, velocity: np.ndarray | None = None) -> None:
        """See ``Robot``."""
        super().command_arm(side, target, velocity)
        if self.stamp is not None:
            joints = self._profile.arms[side].joints
            message = JointState(name=list(joints), position=target.tolist())
            message.velocity = message.effort = [0.0] * len(joints)
            message.header.stamp = self.stamp
            self._arms[side].publish(message)

    def command_gripper(self, side: str, opening: float) -> None:
        """See ``Robot``."""
        super().command_gripper(side, opening)
        if self.stamp is not None:
            self._hands[side].publish(Float32(data=float(self._profile.turned(opening))))


class PlannedOperator:
    """One episode by the planner; see the module's docstring. Has what ``Operator`` has.

    The world of the ``robot`` has just been reset. Of the usual disturbances there is a share ``disturbance``, 0 none.
    The ``policy`` drives, None: the planner does; which gives a ``planner_share`` of a policy's chunks, None: it drives
    alone. An episode that failed goes on for ``failure_s``.
    """

    faults: tuple[str, ...] = ()
    not_to_imitate = ""  # what the operator's topics say is right, whatever is executed

    def __init__(
        self,
        outlet: Outlet,
        robot: CommandedRobot,
        profile: RobotProfile,
        disturbance: float,
        policy: Policy | None,
        planner_share: float | None,
        failure_s: float = 0.0,
    ) -> None:
        self._robot, self._profile, self._policy = robot, profile, policy
        self._disturbance, self._planner_share, self._failure_s = disturbance, planner_share, failure_s
        self._alone = policy is None or planner_share is None  # nobody helps
        self._planner, self._rng = PlannerPolicy(profile), np.random.default_rng([robot.world.seed, 3])
        self._planner.watch(robot.world)
        self._commander = Commander(robot, profile, CommandSettings())
        self._topics = OperatorTopics(outlet, profile)
        self._chunks = outlet.create_publisher(ActionChunk, PLANNED, 10)
        self._coming: deque[tuple[float, Chunk]] = deque()
        self._right: Chunk | None = None  # until the first picture
        self._next_s, self._over_s, self._reachable_s = 0.0, None, 0.0
        self._lost = ""  # why the episode cannot be done any more
        if policy is not None:
            policy.restart(robot.world.seed)

    @property
    def gave_up(self) -> str:
        """Why the episode could not be done any more, once it is over; else empty."""
        return self._lost if self._over_s is not None and self._robot.now_s >= self._over_s else ""

    def look(self, images: Mapping[str, np.ndarray], joints: Mapping[str, JointState], stamp: Time) -> None:
        """Say what is right now, and from time to time decide what is executed."""
        now = self._robot.now_s
        plan = self._planner.infer(None, "").actions.astype(float)
        self._right = Chunk(now, self._planner.action_dt_s, plan)
        message = ActionChunk(dt=self._planner.action_dt_s, horizon=len(plan))
        message.header.stamp = stamp
        message.names, message.units = list(self._profile.layout.joints), list(self._profile.layout.action_units)
        message.values = plan.reshape(-1).tolist()
        self._chunks.publish(message)
        if now < self._next_s - 1e-9:
            return
        by_itself = self._policy is not None and self._alone
        self._next_s = now + (ALONE_S if by_itself else self._rng.uniform(*EXECUTED_S))
        if not by_itself and (self._alone or now > HELP_AFTER_S or self._rng.random() < self._planner_share):
            executed = Chunk(now, self._planner.action_dt_s, self._disturbed(plan))
        else:
            world = self._robot.world
            frame = robot_frame(self._profile, images, joints, self._robot.stamp_ns(world.time_s))
            output = self._policy.infer(frame, world.instruction)
            executed = Chunk(now, self._policy.action_dt_s, output.actions.astype(float))
        self._coming.append((now + LATENCY_S, executed))

    def publish(self, stamp: Time, send: bool) -> bool:
        """Command what is to be executed, tell what is right; True when the episode is over and marked so."""
        world, now = self._robot.world, self._robot.now_s
        while self._coming and self._coming[0][0] <= now + 1e-9:
            self._commander.timeline.add(self._coming.popleft()[1], now)
        self._robot.stamp = stamp if send else None
        self._commander.tick(2 / STATE_HZ)
        if self._over_s is None:
            lost = self._out_of_reach(now) and "an object is out of reach"
            late = self._alone and now > PATIENCE_S and f"not done within {PATIENCE_S:.0f} s"
            self._lost, outcome = self._commander.stopped or lost or late or "", world.task_status().outcome
            if self._lost or outcome != "unknown":
                self._over_s = now + (0.0 if outcome == "success" else self._failure_s)
        if send and self._right is not None:
            self._topics.publish(self._command(self._right.at(now)), stamp, now, self._over_s)
        return self._over_s is not None and now >= self._over_s + 2 * REST_S

    def _command(self, row: np.ndarray) -> OperatorCommand:
        layout = self._profile.layout
        numbers = {side: float(layout.curves[side].command(row[at])) for side, at in layout.grippers.items()}
        opening = {side: self._profile.turned(number) for side, number in numbers.items()}
        left, right = (row[layout.arms[side]] for side in ("left", "right"))
        return OperatorCommand(left, right, opening["left"], opening["right"])

    def _disturbed(self, plan: np.ndarray) -> np.ndarray:
        """A plan with joint offsets of the working arm that come in the course of it; rarely with a wrong gripper."""
        rng, layout, side = self._rng, self._profile.layout, self._robot.world.task.side
        sigma = self._disturbance * rng.choice(SIGMAS_RAD, p=SIGMA_SHARES) * (LOW_SHARE if self._is_low() else 1.0)
        come = np.minimum(1.0, np.arange(len(plan)) * self._planner.action_dt_s / RAMP_S)[:, None]
        rows, joints, gripper = plan.copy(), layout.arms[side], layout.grippers[side]
        rows[:, joints] += come * rng.normal(0, sigma, rows[:, joints].shape[1])
        if rng.random() < WRONG_GRIPPER * min(1.0, self._disturbance):
            curve = layout.curves[side]
            rows[:, gripper] = curve.effort(1 - np.round(curve.command(rows[:, gripper])))
        return rows

    def _is_low(self) -> bool:
        """Whether the working hand is not far above the table or an object, other than one that it holds."""
        world = self._robot.world
        hand = world.data.site(f"{world.task.side[0]}_grasp").xpos
        away = [hand - pose[:3] for pose in world.object_poses().values()]
        below = [z for x, y, z in away if np.hypot(x, y) < NEAR_M and np.hypot(np.hypot(x, y), z) > CUBE_HALF]
        return min([hand[2] - table_top_z(), *below]) < LOW_M

    def _out_of_reach(self, now: float) -> bool:
        """Whether the object that is to be picked up next lies where the arm does not get to, for some time now."""
        world = self._robot.world
        if picks := world.task.picks(world.model, world.data):
            place = world.object_poses()[picks[0].name][:3]
            inside = reach(world.task.side).reaches(place + np.outer([GRASP_HEIGHT, RAISED_M], [0, 0, 1])).all()
            if not inside and place[2] < table_top_z() + 2 * CUBE_HALF:
                return now > self._reachable_s + LOST_S
        self._reachable_s = now
        return False
