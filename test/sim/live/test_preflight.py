"""The preflight before a simulated robot: planted faults are named, clean starts pass, and nothing is commanded."""

import copy
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from checkpoint_cases import SMALL, STATS, random_model
from conftest import initialised_ros, processes, wait_for
from sensor_msgs.msg import Image

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.checkpoints.saver import save_checkpoint
from pi05_progress.checkpoints.starts import SIZE, Starts, add_starts
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.states import Mode
from pi05_progress.units.transforms import resize_with_pad
from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.world import World
from pi05_progress_ros.sim.robot.robot import Robot
from pi05_progress_ros.sim.robot.states import StatePublisher

PROFILE = RobotProfile.load("teleavatar")
TASK, SCALE = "lift the red cube", 0.1
HEAD, LEFT, RIGHT = (PROFILE.cameras[key].topic for key in ("head_camera", "left_color", "right_color"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint that says how episodes of this simulation begin."""
    folder, world = tmp_path_factory.mktemp("preflight") / "checkpoint", World("lift_cube", 0)
    rig, pictures, states = CameraRig(world.model, scaled_sizes(SCALE)), {}, []
    for seed in range(100, 116):
        world.reset(seed)
        for key, image in rig.render(world.snapshot()).items():
            pictures.setdefault(PROFILE.cameras[key].model_input, []).append(resize_with_pad(image, *SIZE))
        state = np.zeros(48, np.float32)
        for side, columns in PROFILE.layout.arms.items():
            state[columns] = world.arm_state(side).position
            state[PROFILE.layout.grippers[side]] = world.gripper_state(side).position
        states.append(state)
    rig.close()
    info = CheckpointInfo(SMALL, model_id="small", action_dt_s=0.1)
    save_checkpoint(folder, Checkpoint(info, random_model(SMALL), STATS))
    add_starts(
        folder, Starts.of(PROFILE, {key: np.stack(of) for key, of in pictures.items()}, np.stack(states), [TASK])
    )
    return folder


class Outlet(dict):
    """Keeps the newest message of every topic."""

    def create_publisher(self, msg_type, topic, qos_profile):
        return SimpleNamespace(publish=lambda message: self.__setitem__(topic, message))


class Bench:
    """The simulated robot as an episode begins: its messages again and again, changed on their way if need be."""

    def __init__(self, ros, start, checkpoint, folder):
        self.start, self.checkpoint, self.folder = start, checkpoint, folder
        self.node, self.world = ros.create_node("bench"), World("lift_cube", 0)
        self.rig = CameraRig(self.world.model, scaled_sizes(SCALE))
        self.publishers, self.sent, self.due_s = {}, 0, 0.0
        self.begin(0)

    def begin(self, seed):
        """The start of the episode of a seed."""
        self.world.reset(seed)
        self.messages = Outlet()
        StatePublisher(self.messages, Robot(self.world), PROFILE).publish(0, Time(), Mode.API)
        for key, image in self.rig.render(self.world.snapshot()).items():
            message = Image(height=image.shape[0], width=image.shape[1], step=3 * image.shape[1], encoding="rgb8")
            message.data = image.tobytes()
            self.messages[PROFILE.cameras[key].topic] = message

    def publish(self, topic, change):
        """Everything, when it is due; ``change`` makes another message of one on ``topic``, or None."""
        if time.monotonic() < self.due_s:
            return
        self.due_s, self.sent = time.monotonic() + 0.04, self.sent + 1
        for name, message in self.messages.items():
            if name not in self.publishers:
                self.publishers[name] = self.node.create_publisher(type(message), name, 10)
            if hasattr(message, "header"):
                message.header.stamp = self.node.get_clock().now().to_msg()
            sent = change(copy.deepcopy(message), self.sent) if name == topic else message
            if sent is not None:
                self.publishers[name].publish(sent)

    def preflight(self, profile=None, tamper=("", None), task=TASK):
        """Run it, with a robot whose profile differs, while the messages of a topic are changed (``tamper``)."""
        path = self.folder / f"robot_{len(list(self.folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({"extends": "teleavatar", "name": "mine", **(profile or {})}))
        timeout = "8" if tamper[1] in (late, seldom) else "60"  # s; others are told as soon as all is there
        arguments = ("--checkpoint", str(self.checkpoint), "--robot", str(path), "--timeout", timeout)
        process = self.start("pi05_progress_ros.preflight", task, *arguments)
        commanders = set()

        def look():
            self.publish(*tamper)
            time.sleep(0.01)
            for topic in (*PROFILE.target_topics().values(), PROFILE.enable_topic):
                commanders.update(info.node_name for info in self.node.get_publishers_info_by_topic(topic))

        wait_for(lambda: process.poll() is not None, look, "the preflight's end")
        assert not commanders
        return process.returncode, process.log()


@pytest.fixture(scope="module")
def bench(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    profiles = folder / "profiles"
    profiles.mkdir()
    with initialised_ros() as ros, processes(folder) as start:
        yield Bench(ros, start, checkpoint, profiles)


def cameras(**topics):
    return {"cameras": {key: {"topic": topic} for key, topic in topics.items()}}


def pixels(change):
    """A change of an image's pixels."""

    def changed(message, _):
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        message.data = np.ascontiguousarray(change(image.astype(float)).astype(np.uint8)).tobytes()
        return message

    return changed


def positions(change):
    def changed(message, _):
        message.position = change(np.array(message.position)).tolist()
        return message

    return changed


def late(message, _):
    message.header.stamp.sec -= 5
    return message


def seldom(message, number):
    return None if number % 10 else message


LEFT_ARM, LEFT_GRIPPER = PROFILE.arms["left"].state_topic, PROFILE.grippers["left"].state_topic
JOINTS = PROFILE.arms["left"].joints
ORDER = {"arms": {"left": {"joints": [JOINTS[i] for i in (0, 4, 2, 3, 1, 5, 6)]}}}
TURNED = {"cameras": {"head_camera": {"turned": True}}}
SWAPPED = "it shows what right_color showed"
PLANTED = {
    "gripper's sign": ({"tamper": (LEFT_GRIPPER, positions(lambda p: -p))}, "left_gripper has the wrong sign"),
    "gripper's scale": ({"tamper": (LEFT_GRIPPER, positions(lambda p: 1e3 * p))}, "left_gripper has another scale"),
    "wrists swapped": ({"profile": cameras(left_color=RIGHT, right_color=LEFT)}, SWAPPED),
    "head swapped": ({"profile": cameras(head_camera=RIGHT, right_color=HEAD)}, SWAPPED),
    "head turned": ({"profile": TURNED}, "it is upside down"),
    "head dim": ({"tamper": (HEAD, pixels(lambda image: 0.7 * image))}, "it is exposed otherwise"),
    "wrist moved": ({"tamper": (RIGHT, pixels(lambda image: np.roll(image, 14, 1)))}, "it was moved"),
    "joint order": ({"profile": ORDER}, "joints come in another order (l_joint5, l_joint2)"),
    "arms far": (
        {"tamper": (LEFT_ARM, positions(lambda p: p + 0.3 * (p > 1)))},
        "move the arms there by ~/go_to_start",
    ),
    "instruction": ({"task": "Lift the red cube!"}, "is written otherwise than in the training data"),
    "rate": ({"tamper": (HEAD, seldom)}, "are wanted: look at the driver's rate"),
    "clock": ({"tamper": (LEFT_ARM, late)}, "are the clocks in step"),
}


@pytest.mark.parametrize(
    ("planted", "named"),
    [pytest.param(*of, id=name, marks=[pytest.mark.long] * (i > 0)) for i, (name, of) in enumerate(PLANTED.items())],
)
def test_a_planted_fault_is_the_first_cause(bench, planted, named):
    status, said = bench.preflight(**planted)
    assert status == 1
    assert named in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("preflight: ")


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.long] * (seed > 0)) for seed in range(10)])
def test_a_clean_start_passes(bench, seed):
    bench.begin(seed)
    status, said = bench.preflight()
    assert status == 0, said
    assert "wrong" not in said and said.count(" ok ") == 6


def test_where_nothing_is_heard_the_robots_domain_is_named(bench, tmp_path):
    robot = tmp_path / "elsewhere.yaml"
    robot.write_text(yaml.safe_dump({"extends": "teleavatar", "name": "mine", "production_domain": 29}))
    arguments = ("--checkpoint", str(bench.checkpoint), "--robot", str(robot), "--seconds", "0.5", "--timeout", "1")
    process = bench.start("pi05_progress_ros.preflight", TASK, *arguments)
    wait_for(lambda: process.poll() is not None, lambda: time.sleep(0.05), "the preflight's end")
    here = os.environ["ROS_DOMAIN_ID"]
    named = f"nothing is heard in ROS domain {here}: for the real mine, in 29, export ROS_DOMAIN_ID=29"
    assert f"preflight: {named}" in process.log()
    assert process.returncode == 1
