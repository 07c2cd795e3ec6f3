"""Before a robot moves: is all that is live as in the data that the checkpoint was trained on? Commands nothing.

    python -m pi05_progress_ros.preflight "stack the cubes" --checkpoint DIR

Prints the list of docs/commanding.md ("Before the first time on a real robot") as far as it can be checked, and what
cannot. Exit status: 0 nothing speaks against it, 1 something does (the first cause is named, with its remedy), 2 an
argument is wrong. ROS arguments follow --ros-args.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rich.console import Console
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32, String
from tyro.conf import Positional

from pi05_progress.checkpoints.description import read_info
from pi05_progress.checkpoints.start_differences import unlike_joints, unlike_pictures, unlike_task
from pi05_progress.checkpoints.starts import Starts, read_starts
from pi05_progress.errors import UserError
from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import robot_frame
from pi05_progress.robots.profile import ArmProfile, RobotProfile
from pi05_progress.robots.states import Mode

from .cameras.cameras import check_cameras, open_cameras
from .command_line import check_ranges, program, read_options
from .commanding.robot_state import RobotState
from .inputs import Inputs, Limits, Snapshot
from .ros_session import onlooker, publisher_names, ros_session

MODULE = "pi05_progress_ros.preflight"
SPIN_S = 0.1  # between looks at what has come
JOINT_HZ = 20.0  # at least, of joints
CAMERA_HZ = 10.0  # as often the policy asks for pictures
RATE_SHARE = 0.7  # of the rate that is wanted
OWN = ("policy_node_commands", "arm_relay", "arm_relay_node")  # who commands the robot, once it is armed
NO_STARTS = (
    "cannot be checked: this checkpoint does not say how its training episodes began; add it, where the data sets are: "
    "python -m training.add_starts"
)


@dataclass(frozen=True)
class Options:
    """Command line."""

    task: Positional[str]
    """Instruction that the policy will be given."""
    checkpoint: Path
    """Folder of the checkpoint that will run."""
    robot: str | None = None
    """Robot profile: a name, or a YAML file; if not given that of the checkpoint."""
    seconds: float = 3.0
    """How long it listens at least, s."""
    timeout: float = 10.0
    """And at most, while an input is missing or too slow, s."""


class Check(NamedTuple):
    """One entry of the list: causes with remedies, and why something cannot be checked."""

    name: str
    wrong: list[str]
    note: str = ""


class Live:
    """What the robot says now; nothing is commanded."""

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._node, self._profile = node, profile
        self.inputs = Inputs(Limits(image_age_s=1.0, joint_age_s=0.5), profile)  # a busy machine is no fault of theirs
        # As a robot without a relay, which runs only where commands are allowed.
        self.robot = RobotState(profile.model_copy(update={"arm_command": "direct"}))
        self._cameras = open_cameras(node, profile, self.inputs, lambda: None)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        for name, part in profile.joint_parts().items():
            node.create_subscription(JointState, part.state_topic, partial(self._store, name), newest)
            self.inputs.add(name, part.state_topic, image=False, required=isinstance(part, ArmProfile))
        node.create_subscription(String, profile.mode_topic, lambda message: self.robot.hear_mode(message.data), 10)
        node.create_subscription(Int32, profile.fsm_topic, lambda message: self.robot.hear_fsm(message.data), 10)

    def close(self) -> None:
        """Listen no more, before the node goes: pictures may come in threads of their own."""
        for camera in self._cameras:
            camera.close()

    def _store(self, name: str, message: JointState) -> None:
        self.inputs.store(name, message, self._node.get_clock().now().nanoseconds)

    def snapshot(self) -> Snapshot:
        """The newest of all inputs."""
        return self.inputs.snapshot(self._node.get_clock().now().nanoseconds)

    def elsewhere(self) -> list[str]:
        """Why nothing at all is heard, where the profile knows in which ROS domain the robot is."""
        here, its = self._node.context.get_domain_id(), self._profile.production_domain
        if its in (None, here) or any(entry.message is not None for entry in self.inputs.state()):
            return []
        name = self._profile.name
        return [f"nothing is heard in ROS domain {here}: for the real {name}, in {its}, export ROS_DOMAIN_ID={its}"]

    def slow(self, data_hz: float) -> list[str]:
        """Inputs that come more seldom than the data had frames, or than the policy asks for them."""
        found = []
        for entry in self.inputs.state():
            camera = self._profile.cameras.get(entry.name)
            wanted = min(camera.rate_hz, max(data_hz, CAMERA_HZ)) if camera else max(data_hz, JOINT_HZ)
            if entry.message is not None and entry.rate_hz() < RATE_SHARE * wanted:
                found.append(
                    f"{entry.name} ({entry.topic}): {entry.rate_hz():.1f} messages a second, {wanted:g} are wanted: "
                    "look at the driver's rate, the network and the load of this machine"
                )
        return found

    def others(self) -> list[str]:
        """Who else commands the robot, and whether it would listen."""
        profile, found = self._profile, []
        topics = [*profile.target_topics().values(), *(arm.command_topic for arm in profile.arms.values())]
        for topic in dict.fromkeys([*topics, *(gripper.command_topic for gripper in profile.grippers.values())]):
            names = [name for name in publisher_names(self._node, topic) if name.rpartition("/")[2] not in OWN]
            found += [f"{', '.join(names)} publishes {topic}: stop it"] if names else []
        if self.robot.mode[1] == Mode.TELEOPERATION:
            found.append("the robot is in teleoperation mode and ignores commands: take it into API mode")
        return found


def judge(live: Live, options: Options, profile: RobotProfile, starts: Starts | None, data_hz: float) -> list[Check]:
    """The list, in the order in which causes come before what they cause."""
    # What is said now is judged first: all else takes its time.
    snapshot, passive, frame, unread = live.snapshot(), live.slow(data_hz) + live.robot.lost(), None, []
    clocks = [text for text in snapshot.problems if "clocks" in text or "in step" in text]
    missing = [text for text in snapshot.problems if text not in clocks]
    if not missing:
        try:
            frame = robot_frame(profile, {key: snapshot.messages[key] for key in profile.cameras}, snapshot.messages)
        except MessageError as error:
            unread = [str(error)]
    joints = unlike_joints(frame, profile, starts) if frame and starts else []
    far = [text for text in joints if "~/go_to_start" in text]
    unlike = unread + [text for text in joints if text not in far]
    pictures = unlike_pictures(frame, profile, starts) if frame and starts else {}
    looks = [f"{key} ({profile.cameras[key].topic}): {text}" for key, text in pictures.items() if text]
    task = unlike_task(options.task, starts.tasks.tolist()) if starts else ""
    told = NO_STARTS if starts is None else "" if frame else "cannot be checked without all inputs"
    none = starts is not None and not pictures and not told
    return [
        Check("3 passive: inputs, fresh and often enough", live.elsewhere() + missing + passive),
        Check("5 clocks: stamps in step with this machine", clocks),
        Check("2 profile: joints and grippers as in the data", unlike, told),
        Check("8 slowly: arms near the data's starts", far, told),
        Check(
            "4 checkpoint: pictures and instruction as in the data", looks + [task] * bool(task),
            told or ("pictures cannot be checked: the data sets' videos were not there" if none else ""),
        ),
        Check("6 alone: nobody else commands", live.others()),
        Check("1 simulate: was this checkpoint seen at work there?", [], "yours to answer"),
        Check("7 space: nobody in reach, emergency stop in hand", [], "yours to look at"),
    ]  # fmt: skip


@program("preflight")
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; returns the exit status."""
    argv = ["preflight", *(sys.argv[1:] if argv is None else argv)]
    seconds = {"seconds": (0.1, 600.0), "timeout": (0.1, 600.0)}
    options = read_options(Options, MODULE, __doc__, remove_ros_args(argv)[1:], lambda o: check_ranges(o, seconds))
    info = read_info(options.checkpoint)
    profile = RobotProfile.load(options.robot or info.robot)
    starts = read_starts(options.checkpoint, profile)
    check_cameras(profile)
    data_hz, began_s = 1 / info.action_dt_s, time.monotonic()
    with (
        ros_session(argv) as stop,
        onlooker("preflight") as (node, spin),
        closing(Live(node, profile)) as live,
    ):
        look_s = began_s
        while (elapsed_s := time.monotonic() - began_s) < options.timeout:
            if stop.is_set():
                raise KeyboardInterrupt
            spin(SPIN_S)
            if time.monotonic() - look_s < SPIN_S:  # all that has come is taken between two looks
                continue
            look_s = time.monotonic()
            if elapsed_s > options.seconds and not (
                live.snapshot().problems or live.robot.lost() or live.slow(data_hz)
            ):
                break
        checks = judge(live, options, profile, starts, data_hz)
    console = Console(highlight=False, soft_wrap=True)
    for check in sorted(checks, key=lambda check: check.name):
        mark = "[red]wrong[/]" if check.wrong else "[yellow]  -  [/]" if check.note else "[green] ok  [/]"
        console.print(mark, check.name, style=None)
        for text in check.wrong or filter(None, [check.note]):
            console.print(f"        {text}", markup=False)
    if wrong := [text for check in checks for text in check.wrong]:
        raise UserError(wrong[0])


if __name__ == "__main__":
    sys.exit(main())
