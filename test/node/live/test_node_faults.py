"""The policy node, commanding, against every fault of sensors and policy: what it says, that it holds still."""

import math
import time

import numpy as np
import pytest
from conftest import TRIES, keeps_promise
from fake_robot import HOME, said_s, with_fields
from goals import AGES
from node_policies import SWING_UNLESS, WAIT_FOR

from pi05_progress_msgs.msg import TaskProgress

BUSY = "the policy has been busy for more than 1 s"


@pytest.fixture
def gate(tmp_path):
    """A file without which the policy does not answer where it is told to wait for it."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def blocked(tmp_path):
    """A file with which the policy does not answer where it is told so; gone at the end, also of a test that failed."""
    yield tmp_path / "blocked"
    (tmp_path / "blocked").unlink(missing_ok=True)


SENSOR_FAULTS = [
    ({"silent": {"head_camera"}}, "head_camera (/head/image_raw): nothing for more than 1 s"),
    ({"silent": {"left_arm"}}, "left_arm (/left_arm/joint_states): nothing for more than 1 s"),
    ({"frozen": {"left_color"}}, "left_color (/left/color/image_raw): frozen"),
    (
        {"hanging": {"left_color"}},
        "frozen, pictures stay the same while left_arm moves by 0.05 rad: restart the camera's",
    ),
    ({"encoding": "purple8"}, "cannot decode 'purple8'"),
    ({"size": (0, 0)}, "the image is empty"),
    ({"offset_s": 7.0}, "stamp lies 7.0 s in the future"),
    ({"offset_s": -7.0}, "s in the past; are the clocks in step"),
    ({"change": lambda side, m: with_fields(m, position=[math.nan] * 7)}, "l_joint1, l_joint2"),
    (
        {"change": lambda side, m: with_fields(m, name=m.name[:6], position=m.position[:6])},
        "joints l_joint7 are missing",
    ),
    ({"change": lambda side, m: with_fields(m, name=[f"j{i}" for i in range(7)])}, "joints l_joint1, l_joint2"),
]
NAMES = ["missing", "no joints", "frozen", "hanging", "encoding", "empty", "future", "past", "nan", "few", "renamed"]


# As another one, for ``make test``: hanging as frozen, empty as encoding, past as future, few and renamed as nan.
ALIKE = {"hanging", "empty", "past", "few", "renamed"}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        pytest.param(*fault, id=name, marks=[pytest.mark.long] * (name in ALIKE))
        for name, fault in zip(NAMES, SENSOR_FAULTS, strict=True)
    ],
)
def test_sensor_faults_are_unknown_within_a_second_named_and_recovered_from(moving, fault, text):
    node, robot = moving
    limit_s = AGES["image_timeout_s"] if {"silent", "frozen", "hanging"} & fault.keys() else 0.0

    def told_after_s():
        began_s, known = time.time(), len(node.log())
        for key, value in fault.items():
            setattr(robot, key, value)
        robot.until(lambda: robot.unknown() and text in node.log()[known:], "UNKNOWN with its reason")
        return said_s(node.log()[known:], text) - began_s

    def recover():
        robot.heal()
        robot.until(robot.moving, "motion, armed anew")

    keeps_promise(limit_s + 1.0, told_after_s, recover)
    robot.held(pose=not {"change", "offset_s"} & set(fault) and fault != {"silent": {"left_arm"}})
    assert len(robot.progress) <= 3, "a heartbeat at 1 Hz"
    robot.until(lambda: robot.progress, "a heartbeat")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress) for m in robot.progress)
    robot.until(lambda: any(text in status for status in robot.statuses().values()), "the reason in the diagnostics")
    robot.until(lambda: robot.state() == "LOOKING", "the end of what it was armed for")
    recover()


POLICY_FAULTS = [
    ("raise", "the policy failed: RuntimeError('the device is gone')"),
    pytest.param("nan actions", "the policy's actions are not finite", marks=pytest.mark.long),  # as of a short chunk
    ("short chunk", "the policy's actions are (3, 16), expected (30, 16)"),
]


@pytest.mark.parametrize(("task", "text"), POLICY_FAULTS)
def test_a_failing_policy_stops_the_robot_and_is_named(moving, task, text):
    node, robot = moving
    robot.set_task(task)
    robot.until(lambda: robot.unknown() and text in node.said(), "UNKNOWN with its reason")
    robot.held()
    robot.until(lambda: robot.progress, "a heartbeat")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress_raw) for m in robot.progress)
    robot.until(lambda: robot.statuses().get("inference") == text, "the reason in the diagnostics")
    robot.set_task("swing")
    robot.until(robot.moving, "motion, armed anew")


@pytest.mark.parametrize(
    ("task", "reason", "found"),
    [
        ("nan progress", "the policy's progress is not finite", "progress nan"),
        pytest.param(
            "progress of 1.5", "the policy's progress is outside [0, 1]", "progress 1.5", marks=pytest.mark.long
        ),  # as not a number
    ],
)
def test_with_a_progress_that_makes_no_sense_actions_go_on_and_progress_is_unknown(moving, task, reason, found):
    node, robot = moving
    robot.set_task(task)
    robot.until(robot.unknown, "UNKNOWN")
    robot.forget()
    robot.until(lambda: robot.running() and len(robot.progress) > 5 and robot.moved(), "motion without progress")
    assert all(m.status == TaskProgress.UNKNOWN and math.isnan(m.progress_raw) for m in robot.progress)
    told = lambda: robot.statuses().get("inference") == f"running without progress: {reason}"  # noqa: E731
    robot.until(lambda: robot.running() and told(), "the reason in the diagnostics, while it moves")
    assert node.said().count(f"no progress (said once): {reason} ({found}, interval None)") == 1
    robot.set_task("swing")
    robot.until(robot.moving, "motion, armed anew")


def test_a_policy_that_does_not_answer_holds_the_pose_for_a_second_and_then_disarms(moving, blocked):
    node, robot = moving
    robot.set_task(f"{SWING_UNLESS}{blocked}")
    held, ended = "HOLDING: the next actions are late", "LOOKING: the next actions are late: call ~/arm to go on"

    def late():
        """Whether that has ended commanding: a busy machine may miss an input just then, which ends it, too."""
        blocked.unlink(missing_ok=True)
        robot.until(lambda: robot.running() and robot.moved(), "motion for this task")
        robot.forget()
        before = len(node.log())
        node.said = lambda: node.log()[before:]
        blocked.touch()
        robot.until(lambda: "LOOKING: " in node.said(), "the end")
        return held in node.said() and ended in node.said()

    assert any(late() for _ in range(TRIES))
    since_s, until_s = said_s(node.said(), held), said_s(node.said(), ended)
    assert until_s - since_s < 1.5, "for a second"
    *still, _ = [(t, p) for t, side, p in robot.targets if side == "left" and t >= since_s]  # then the measured pose
    assert len(still) > 10 and all(p == still[0][1] for _, p in still)
    robot.until(robot.unknown, "UNKNOWN meanwhile")
    robot.until(lambda: robot.statuses().get("inference") == BUSY, "why")
    robot.held()
    blocked.unlink()
    robot.until(robot.moving, "motion, armed anew")


def test_a_policy_slower_than_its_chunks_says_so(moving):
    _, robot = moving
    robot.set_task("swing slowly")
    robot.until(lambda: robot.refused("the policy is too slow: actions came after "), "the reason")
    robot.held(2.0)
    robot.until(robot.good, "progress, which goes on")


def test_actions_of_a_task_that_is_over_are_not_carried_out(moving, gate):
    node, robot = moving
    over = f"{WAIT_FOR}{gate}"
    robot.forget()
    robot.set_task(over)
    robot.until(lambda: robot.statuses().get("inference") == BUSY, "a policy at work")
    robot.set_task("stay")
    robot.until(lambda: "task: 'stay'" in node.said(), "the next task")
    gate.touch()
    robot.until(lambda: robot.good() and robot.progress[-1].task == "stay", "progress of the next task")
    assert all(m.task != over for m in robot.progress if math.isfinite(m.progress_raw))
    robot.until(lambda: robot.operator.move("stay") or robot.targets, "commands of the next task")
    assert max(np.abs(np.array(p) - HOME["left"]).max() for _, side, p in robot.targets if side == "left") < 0.5, (
        "not far"
    )
