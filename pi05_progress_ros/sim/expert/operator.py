"""The scripted expert in the place of a person: teleoperation topics and the buttons that mark an episode."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState, Joy

from pi05_progress.robots.profile import RobotProfile

from ...starting.simulation_choices import episode_faults, parse_fault
from ..physics.scene import FINGER_TRAVEL
from ..physics.world import World
from ..robot.states import Outlet
from .expert import Expert, OperatorCommand

PRESS_AT_S = 0.1  # into the episode; not at once, since a press is a rising edge
PRESS_S = 0.2  # how long a button is held
DECIDED_S = 0.8  # from the end of the work until what is not done counts as given up; before the press
REST_S = 1.0  # between the end of the work and the press that ends the episode, and again until the next one


class OperatorTopics:
    """What an operator's devices send: commands of both arms and grippers, and the buttons that mark an episode."""

    def __init__(self, outlet: Outlet, profile: RobotProfile) -> None:
        self._profile = profile
        self._arms = {
            s: outlet.create_publisher(JointState, arm.teleoperation_topic, 10) for s, arm in profile.arms.items()
        }
        self._hands = {
            s: outlet.create_publisher(JointState, gripper.teleoperation_topic, 10)
            for s, gripper in profile.grippers.items()
        }
        self._buttons = outlet.create_publisher(Joy, profile.marks.topic, 10)

    def publish(self, command: OperatorCommand, stamp: Time, now_s: float, finished_s: float | None) -> None:
        """Send a command, and the buttons as they are ``now_s`` into an episode whose work ended at ``finished_s``."""
        for side in self._profile.arms:
            joints, gripper = self._profile.arms[side].joints, self._profile.grippers[side].joint
            # All fields are filled, as robots do; see episodes/generation.py for what empty ones would lead to.
            message = JointState(name=list(joints), position=getattr(command, side).tolist())
            message.velocity = message.effort = [0.0] * len(joints)
            message.header.stamp = stamp
            self._arms[side].publish(message)
            opening = getattr(command, f"{side}_gripper")
            effort = float(self._profile.layout.curves[side].effort(self._profile.turned(opening)))
            message = JointState(name=[gripper], effort=[effort], velocity=[0.0])
            message.position = [opening * FINGER_TRAVEL]
            message.header.stamp = stamp
            self._hands[side].publish(message)
        marks = self._profile.marks
        message = Joy(buttons=[0] * (max(marks.start_button, marks.stop_button) + 1))
        message.header.stamp = stamp
        message.buttons[marks.start_button] = int(PRESS_AT_S <= now_s < PRESS_AT_S + PRESS_S)
        if finished_s is not None:
            message.buttons[marks.stop_button] = int(REST_S <= now_s - finished_s < REST_S + PRESS_S)
        self._buttons.publish(message)


class Operator:
    """Commands at the rate it is called (100 Hz); they come back to the robot through DDS.

    Runs in the physics thread, so it may look at the world without a lock. Each of ``faults``, KIND or KIND:PICK,
    happens in a share of the episodes; which ones, the seed decides. What was not done by the end of the work counts as
    given up ``failure_s`` later.
    """

    def __init__(
        self,
        outlet: Outlet,
        world: World,
        profile: RobotProfile,
        faults: Sequence[str] = (),
        fault_share: float = 1.0,
        failure_s: float = 0.0,
    ) -> None:
        self._outlet, self._world, self._topics = outlet, world, OperatorTopics(outlet, profile)
        self._faults, self._fault_share, self._failure_s = tuple(faults), fault_share, failure_s
        self.new_episode()

    def new_episode(self) -> None:
        """Begin with the episode the world has just been reset to."""
        seed = self._world.seed
        faults = episode_faults(seed, self._faults, self._fault_share)
        self._expert = Expert(self._world, seed, [parse_fault(text) for text in faults])
        self._finished_s: float | None = None

    @property
    def faults(self) -> list[str]:
        """What has gone wrong in this episode so far, each as ``KIND:PICK``."""
        return self._expert.taken

    @property
    def gave_up(self) -> str:
        """Why the work is over, once it ended long enough ago for the physics to have decided on it; else empty."""
        over = self._finished_s is not None and self._world.time_s - self._finished_s >= DECIDED_S
        return self._expert.reason if over else ""

    @property
    def not_to_imitate(self) -> str:
        """Why what is done now is not to be imitated: a mistake that is not made good yet, or a pause."""
        return "idle" if self._expert.finished else self._expert.not_to_imitate

    def publish(self, stamp: Time, send: bool = True) -> bool:
        """Command what is due now, and send it if it is to be sent; True when the episode is over and marked so.

        The command is kept in ``command`` for who needs it without a detour through messages.
        """
        self.command = self._expert.command()
        now = self._world.time_s
        if self._expert.finished and self._finished_s is None:
            status = self._world.task_status()
            self._finished_s = now + (0.0 if status.outcome == "success" else self._failure_s)
            text = f"episode {self._world.seed} ended: {status.outcome} {status.reason}"
            self._outlet.get_logger().info(text.strip())
        if send:
            self._topics.publish(self.command, stamp, now, self._finished_s)
        return self._finished_s is not None and now >= self._finished_s + 2 * REST_S
