"""Pictures that stay the same while their arm moves, whatever their stamps say."""

import threading
import time
from types import SimpleNamespace

import pytest
from video_packets import messages, moving

from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import PacketDecoder, VideoPicture
from pi05_progress_ros.inputs import Inputs, Limits

PROFILE = RobotProfile.load("teleavatar")
SKEW_S = 0.05
LEFT = (
    "left_color (left_color): frozen, pictures stay the same while left_arm moves by 0.05 rad: restart the camera's "
    "driver or encoder"
)
HEAD = LEFT.replace("left_color", "head_camera").replace("left_arm", "left_arm or right_arm")


class Robot:
    """Inputs of a robot at one moment; every message has a new stamp."""

    def __init__(self, profile=PROFILE):
        self.inputs, self.stamp, self.pose = Inputs(Limits(skew_s=SKEW_S), profile), 0, {"left": 0.0, "right": 0.0}
        for key in profile.cameras:
            self.inputs.add(key, key, image=True)
        for side in self.pose:
            self.inputs.add(f"{side}_arm", side, image=False)

    def header(self):
        self.stamp += 1000
        return SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=self.stamp))

    def joints(self, **moved):
        self.pose |= moved
        for side, position in self.pose.items():
            names = list(PROFILE.arms[side].joints)
            positions = [0.0] * 6 + [position]
            if self.stamp % 2000:  # any order
                names, positions = names[::-1], positions[::-1]
            self.inputs.store(f"{side}_arm", SimpleNamespace(header=self.header(), name=names, position=positions), 0)

    def pictures(self, **data):
        for key in PROFILE.cameras:
            shown = data.get(key, b"same")
            self.inputs.store(
                key, shown if hasattr(shown, "frame") else SimpleNamespace(header=self.header(), data=shown), 0
            )

    def problems(self):
        return list(self.inputs.snapshot(10**9).problems)


def later(robot, **pictures):
    """What is wrong once pictures of the movement could have come."""
    time.sleep(1.5 * SKEW_S)
    robot.pictures(**pictures)
    return robot.problems()


@pytest.fixture
def robot():
    made = Robot()
    made.pictures()
    made.joints()
    made.pictures()
    assert made.problems() == []
    return made


def test_a_wrist_camera_is_lost_with_its_own_arm_and_the_head_camera_with_either(robot):
    robot.joints(left=0.06)
    robot.pictures()
    assert robot.problems() == [], "pictures of the movement may still be on their way"
    assert later(robot) == [HEAD, LEFT]
    robot.joints(left=0.0)
    assert later(robot) == [HEAD, LEFT], "back where it was, the pictures are still old"
    robot.pictures(head_camera=b"else")
    assert robot.problems() == [LEFT]
    robot.pictures(left_color=b"else", head_camera=b"more")
    assert robot.problems() == []


def test_pictures_may_stay_the_same_while_nothing_moves_or_their_arm_does_not(robot):
    robot.joints(left=0.04)
    assert later(robot) == []
    robot.joints(left=0.04, right=0.2)
    assert later(robot, head_camera=b"else", right_color=b"else") == []


def test_what_was_forgotten_with_a_clock_that_jumped_is_no_longer_held_against_a_camera(robot):
    robot.joints(left=0.06)
    assert later(robot)
    robot.inputs.clear()
    robot.pictures()
    robot.joints()
    assert later(robot) == []


def test_a_picture_may_come_while_further_inputs_are_declared():
    class Arms(tuple):
        def __contains__(self, name):  # looked at amid what a message changes
            self.thread = threading.Thread(target=inputs.add, args=("later", "later"), kwargs={"image": False})
            self.thread.start()
            self.thread.join(0.2)
            return False

    arms = Arms()
    profile = SimpleNamespace(cameras=PROFILE.cameras, seen_arms=lambda _: arms)
    inputs = Inputs(Limits(), profile)
    inputs.add("left_color", "left_color", image=True)
    inputs.store("left_color", SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0))), 0)
    arms.thread.join()
    assert [entry.name for entry in inputs.state()] == ["left_color", "later"]


def test_pictures_of_a_video_are_compared_as_they_are_decoded(robot):
    decoder, still = PacketDecoder(), moving(1) * 20
    frames = [
        frame for n, sent in enumerate(messages(still + moving(2), gop=30)) for _, frame in decoder.decode(sent, n)
    ]

    def video(number):
        return {"left_color": VideoPicture(10**9 + number, frames[number]), "head_camera": b"%d" % number}

    robot.pictures(**video(15))  # the first ones after a key frame are still refined
    robot.joints(left=0.06)
    robot.pictures(**video(16))
    robot.joints(left=0.12)
    assert later(robot, **video(17)) == [LEFT]
    robot.pictures(**video(21))
    assert robot.problems() == []
