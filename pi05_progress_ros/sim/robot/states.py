"""What the robot publishes: its states at their rates, and under ``/sim/`` what only a simulation knows."""

from __future__ import annotations

from typing import Any, Protocol

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, Int32, String

from pi05_progress.robots.episode_notes import INVALID, UNDONE, VALID
from pi05_progress.robots.kinematics import ROOT_FRAME
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode, mode_text
from pi05_progress_msgs.msg import EpisodeEvent

from ...ros_session import to_time
from ..physics.tasks.base import Outcome
from .robot import STATE_HZ, Robot

FSM_HZ = 20
IMAGE_HZ = 30


class Outlet(Protocol):
    """Where messages go: a ROS node, or a bag that looks like one."""

    def create_publisher(self, msg_type: type, topic: str, qos_profile: Any) -> Any:
        """An object with ``publish(message)``."""

    def get_logger(self) -> Any:
        """An object with ``info`` and ``warning``."""


def is_due(tick: int, rate_hz: float) -> bool:
    """Whether what happens at a rate, cameras' pictures for example, happens in this tick of the 200 Hz clock."""
    return tick * rate_hz // STATE_HZ != (tick - 1) * rate_hz // STATE_HZ


class StatePublisher:
    """Publishes the robot's states."""

    def __init__(self, outlet: Outlet, robot: Robot, profile: RobotProfile) -> None:
        self._robot, self._profile = robot, profile
        self._fsm = outlet.create_publisher(Int32, profile.fsm_topic, 10)
        self._mode = outlet.create_publisher(String, profile.mode_topic, 10)
        self._arms = {s: outlet.create_publisher(JointState, arm.state_topic, 10) for s, arm in profile.arms.items()}
        self._grippers = {
            s: outlet.create_publisher(JointState, g.state_topic, 10) for s, g in profile.grippers.items()
        }

    def publish(self, tick: int, stamp: Time, mode: Mode, joints: bool = True) -> None:
        """What is due in this tick of the 200 Hz clock; joint states are, unless it is said that they are not."""
        world = self._robot.world
        for side in self._profile.arms if joints else ():
            message = JointState(name=list(self._profile.arms[side].joints))
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = (v.tolist() for v in world.arm_state(side))
            self._arms[side].publish(message)
            message = JointState(name=[self._profile.grippers[side].joint])
            message.header.stamp = stamp
            message.position, message.velocity, message.effort = ([v] for v in world.gripper_state(side))
            self._grippers[side].publish(message)
        if tick % (STATE_HZ // FSM_HZ) == 0:
            self._fsm.publish(Int32(data=int(self._robot.machine.state)))
        if tick % STATE_HZ == 0:
            self._mode.publish(String(data=mode_text(mode)))


# From the decision to the episode's end, as people take a moment, too: what "done" looks like is in it.
STOP_AFTER_S = 2.0
TASK_EVERY = 30  # calls, which is a second: for those who start listening later
OUTCOMES = {"unknown": EpisodeEvent.UNKNOWN, "success": EpisodeEvent.SUCCESS, "failure": EpisodeEvent.FAILURE}


class Truth:
    """Publishes progress, instruction, object poses and episode events. Used by the physics thread only.

    An episode ends when it was given up, or a little after the physics has decided; of a failure ``failure_s`` later.
    """

    def __init__(
        self, outlet: Outlet, robot: Robot, events: str = "/sim/events", start_ns: int = 0, failure_s: float = 0.0
    ) -> None:
        self._robot, self._world, self._start_ns, self._failure_s = robot, robot.world, start_ns, failure_s
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._progress = outlet.create_publisher(Float32, "/sim/progress", 10)
        self._task = outlet.create_publisher(String, "/sim/task", latched)
        self._events = outlet.create_publisher(EpisodeEvent, events, QoSProfile(depth=50))
        self._poses = outlet.create_publisher(PoseArray, "/sim/object_poses", 10)
        self._names = outlet.create_publisher(String, "/sim/object_names", latched)
        self._open = False
        self._not_to_imitate = ""  # why the operator's actions are not to be imitated now
        self._reported = self._calls = 0
        self._decided_s: float | None = None

    def publish(self, not_to_imitate: str = "") -> None:
        """Progress and poses as they are now, and the events that happened since the last call.

        ``not_to_imitate`` is why the operator's present actions are not to be imitated, if they are not.
        """
        status, now = self._world.task_status(), self._world.time_s
        if not self._open and self._reported == 0:
            self._open, self._calls, self._decided_s, self._not_to_imitate = True, 0, None, ""
            self._event(EpisodeEvent.START, now, progress=0.0)
        if self._open and not_to_imitate != self._not_to_imitate:
            self._event(INVALID if not_to_imitate else VALID, now, not_to_imitate, status.progress)
            self._not_to_imitate = not_to_imitate
        if self._calls % TASK_EVERY == 0:
            self._task.publish(String(data=self._world.instruction))
            self._names.publish(String(data=",".join(self._world.task.object_names)))
        self._calls += 1
        self._progress.publish(Float32(data=status.progress))
        poses = PoseArray()
        poses.header.stamp, poses.header.frame_id = self._stamp(now), ROOT_FRAME
        poses.poses = [_pose(values) for values in self._world.object_poses().values()]
        self._poses.publish(poses)
        names = self._world.task.milestone_names()
        for mark in status.marks[self._reported :]:
            name = mark.name.removeprefix(UNDONE)
            holding = names.index(name) + (name == mark.name)
            self._event(EpisodeEvent.MILESTONE, mark.time_s, mark.name, progress=holding / len(names))
        self._reported = max(self._reported, len(status.marks))
        if status.outcome != "unknown" and self._decided_s is None:
            self._decided_s = now
        after_s = STOP_AFTER_S + (self._failure_s if status.outcome == "failure" else 0.0)
        if self._open and self._decided_s is not None and now >= self._decided_s + after_s:
            self._stop(now)

    def give_up(self, reason: str) -> None:
        """The operator has ended the work: a task that is not done by now has failed."""
        if self._open and self._world.task_status().outcome == "unknown":
            self._stop(self._world.time_s, "failure", reason)

    def end_episode(self) -> None:
        """Close the episode before the world is reset."""
        if self._open:
            self._stop(self._world.time_s)
        self._open, self._reported = False, 0

    def _stamp(self, time_s: float) -> Time:
        return to_time(self._start_ns + self._robot.stamp_ns(time_s))

    def _stop(self, now: float, undecided: Outcome = "unknown", reason: str = "") -> None:
        status = self._world.task_status()
        self._open, self._reported = False, max(self._reported, 1)
        if status.outcome == "unknown":
            self._event(EpisodeEvent.STOP, now, reason, status.progress, OUTCOMES[undecided])
        else:
            self._event(EpisodeEvent.STOP, now, status.reason, status.progress, OUTCOMES[status.outcome])

    def _event(self, event: int, time_s: float, label: str = "", progress: float = 0.0, outcome: int = 0) -> None:
        message = EpisodeEvent(event=event, outcome=outcome, label=label, progress=progress)
        message.header.stamp = self._stamp(time_s)
        message.episode_id = f"{self._world.task.name}_{self._world.seed:06d}"
        message.task = self._world.instruction
        self._events.publish(message)


def _pose(values: list[float]) -> Pose:
    pose = Pose()
    x, y, z, qw, qx, qy, qz = (float(v) for v in values)
    pose.position.x, pose.position.y, pose.position.z = x, y, z
    pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z = qw, qx, qy, qz
    return pose
