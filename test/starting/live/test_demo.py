"""The demo: judging, what is refused, and a whole run; and that nothing is left running."""

import contextlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rclpy
from conftest import PATIENCE_S, wait_for
from fake_robot import stamp_s
from marked_runs import MARK, left_running, marked_runs
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import EpisodeEvent, TaskProgress
from pi05_progress_ros.demo import MIN_MESSAGES, ProgressCheck, main
from pi05_progress_ros.starting.processes import own_variables


@pytest.fixture
def run(tmp_path):
    with marked_runs(tmp_path) as start:
        yield start


def demo(run, **env):
    """The demo as ``make demo`` starts it."""
    return run("scripts/with_ros.py", sys.executable, "-m", "pi05_progress_ros.demo", **env)


# --- judging ---


def progress(stamp_s, raw=0.5, age_ms=50.0):
    message = TaskProgress(progress_raw=raw, observation_age_ms=age_ms, model_id="untrained", task="stack")
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp_s), int(stamp_s % 1 * 1e9)
    return message


def judged(messages, now_s=None):
    check = ProgressCheck()
    for index, message in enumerate(messages):
        check.add(message, 0.1 * index)
    return check.missing(0.1 * len(messages) if now_s is None else now_s)


def test_fresh_finite_progress_is_what_success_is():
    assert judged([progress(10 + 0.1 * i) for i in range(MIN_MESSAGES)]) == []


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "no TaskProgress arrived"),
        ([progress(i, raw=math.nan) for i in range(30)], "30 times: progress_raw is not a number"),
        ([progress(i, raw=1.5) for i in range(30)], "30 times: progress_raw is outside of [0, 1]"),
        ([progress(7.0) for i in range(30)], "29 times: the stamp does not advance: the images are not fresh"),
        ([progress(i, age_ms=4000.0) for i in range(30)], "30 times: observation_age_ms is not between 0 and 1000"),
        ([progress(i, age_ms=math.nan) for i in range(30)], "30 times: observation_age_ms"),
        ([progress(i) for i in range(MIN_MESSAGES - 1)], f"at least {MIN_MESSAGES} are needed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_less_is_named(messages, text):
    assert text in "\n".join(judged(messages))


def test_progress_that_stopped_before_the_end_is_no_success():
    assert "the last good TaskProgress came 17.1 s before the end" in judged([progress(i) for i in range(30)], 20.0)


# --- what is wrong is said before anything starts ---


WRONG = [
    ({"TASK": "juggle"}, "demo: TASK=juggle: expected stack_cubes or place_in_basket or lift_cube"),
    ({"CHECKPOINT": "/nowhere"}, "demo: CHECKPOINT=/nowhere: no such folder; a checkpoint is a folder with"),
    (
        {"DEMO": "watch", "FAULTS": "naps:1"},
        "demo: FAULTS=naps:1: unknown fault 'naps'; known faults: ",
    ),
    (
        {"DEMO": "watch", "FAULTS": "long_pause:x"},
        "demo: FAULTS=long_pause:x: fault 'long_pause:x': 'x' is not the number of a pick",
    ),
    ({"DEMO": "dance"}, "demo: DEMO=dance: expected policy or watch"),
    ({"DEMO": "policy", "FAULTS": "long_pause:1"}, "demo: FAULTS=long_pause:1: these are the scripted expert's, and"),
    ({"DEMO": "policy", "CHECKPOINT": "none"}, "demo: CHECKPOINT=none: an untrained model drives no robot"),
    ({"DEMO_SECONDS": "soon"}, "demo: DEMO_SECONDS=soon: expected a number of seconds above 0"),
    ({"ROS_DOMAIN_ID": "home"}, "demo: ROS_DOMAIN_ID=home: expected a number"),
    ({"DEMO_SECONDS": "nan"}, "demo: DEMO_SECONDS=nan: expected a number"),
]


def test_wrong_settings_are_refused_before_anything_starts(run, tmp_path, capsys):
    started = demo(run, **WRONG[0][0])
    assert started.popen.wait(PATIENCE_S) == 1
    assert started.text().startswith(WRONG[0][1])
    assert "Traceback" not in started.text()
    for env, text in WRONG:
        with mock.patch.dict(os.environ, {"ROS_LOG_DIR": str(tmp_path / "here/logs"), **env}):
            assert main() == 1
        assert capsys.readouterr().err.startswith(text)
    assert not list(tmp_path.glob("*/logs"))


@pytest.mark.parametrize("asked", ["", "0", "00", "29", "029"])
def test_the_demo_keeps_out_of_domains_where_robots_live(asked):
    assert own_variables({"ROS_DOMAIN_ID": asked})["ROS_DOMAIN_ID"] not in ("", "0", "29", asked)
    assert own_variables({"ROS_DOMAIN_ID": "42"})["ROS_DOMAIN_ID"] == "42"


def test_a_demo_whose_policy_drives_stays_on_this_machine_whatever_is_set():
    far = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_STATIC_PEERS": "192.0.2.1"}
    kept = own_variables(far)
    assert kept["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET" and "ROS_STATIC_PEERS" not in kept
    alone = own_variables(far, alone=True)
    assert alone["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST" and alone["ROS_STATIC_PEERS"] == ""


# --- the demo itself ---


def test_the_demo_ends_by_itself_and_succeeds_with_progress_from_fresh_images(run, tmp_path):
    for seconds in ("6", "60"):  # on a busy machine it takes longer to see enough
        started = demo(run, DEMO_SECONDS=seconds, TASK="place_in_basket", CHECKPOINT="none", ROS_DOMAIN_ID=None)
        try:
            if started.popen.wait(2 * PATIENCE_S) == 0:
                break
        except subprocess.TimeoutExpired:
            pytest.fail(started.text())
    text = started.text()
    assert started.popen.returncode == 0, text
    assert left_running(started.mark) == []
    assert "UNTRAINED" in text
    assert re.search(r"times progress from fresh images, model untrained, task '[^']*in(to)? the basket", text)
    assert "export ROS_DOMAIN_ID=" in text
    (folder,) = (started.folder / "logs").iterdir()
    assert str(folder) in text
    assert {"simulated_robot.log", "policy_node.log"} <= {path.name for path in folder.iterdir()}


def test_a_robot_that_cannot_start_is_named_with_its_last_words(run, tmp_path):
    for name in ("libEGL.so.1", "libOSMesa.so.8"):
        (tmp_path / name).write_text("not a library")
    path = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    started = demo(run, DEMO_SECONDS="60", LD_LIBRARY_PATH=path, MUJOCO_GL="")
    assert started.popen.wait(PATIENCE_S) == 1
    text = started.text()
    assert "simulated_robot has ended by itself, exit status 1:" in text
    assert "apt-get install -y --no-install-recommends libegl1" in text
    assert "simulated_robot.log" in text
    assert left_running(started.mark) == []


@pytest.mark.long
@pytest.mark.parametrize("seconds", [None, "60"])
def test_ctrl_c_ends_the_whole_demo(run, seconds):
    started = demo(run, DEMO_SECONDS=seconds)
    started.until("the policy node is up")
    time.sleep(2)
    os.killpg(started.popen.pid, signal.SIGINT)  # as a terminal does
    assert started.popen.wait(PATIENCE_S) == (130 if seconds else 0), started.text()
    assert left_running(started.mark) == []
    assert "Traceback" not in started.text()


@pytest.mark.long
def test_the_policy_drives_by_a_goal_for_every_episode(run, ros):
    started = demo(run, DEMO="policy", TASK="place_in_basket")
    started.until("place_in_basket_000000: goal 'put the ")
    node = ros.create_node("watcher")
    reset = node.create_client(Trigger, "/sim/reset")
    wait_for(reset.service_is_ready, lambda: rclpy.spin_once(node, timeout_sec=0.1), "the simulation's services")
    asked = reset.call_async(Trigger.Request())
    wait_for(asked.done, lambda: rclpy.spin_once(node, timeout_sec=0.1), "the end of the episode")
    started.until("place_in_basket_000000: unknown; goal CANCELED, the goal was canceled; 0 of 1 episodes done")
    wait_for(lambda: started.text().count("000000: goal 'put the ") >= 2, what="the goal of the next episode")
    os.killpg(started.popen.pid, signal.SIGINT)
    assert started.popen.wait(PATIENCE_S) == 0, started.text()
    assert left_running(started.mark) == [] and "Traceback" not in started.text()


@pytest.mark.long
@pytest.mark.parametrize("when", ["loading and compiling", "the policy node is up"])
def test_a_demo_that_is_killed_leaves_nothing_running(run, when):
    started = demo(run)
    started.until(when)
    time.sleep(1)
    started.popen.kill()
    started.popen.wait()
    wait_for(lambda: left_running(started.mark) == [], what="the end of everything")


@pytest.mark.long
def test_a_policy_that_dies_ends_the_demo_with_its_name(run):
    started = demo(run, DEMO_SECONDS="60")
    started.until("the policy node is up")
    (policy,) = (pid for pid in _pids(started.mark, "pi05_progress_ros.policy_node"))
    os.kill(policy, signal.SIGKILL)
    assert started.popen.wait(PATIENCE_S) == 1
    assert "policy_node has ended by itself, signal SIGKILL" in started.text()
    assert left_running(started.mark) == []


@pytest.mark.long
def test_what_the_shipped_checkpoint_says_rises_stands_still_in_the_pause_and_sees_the_end(run, ros):
    """One whole episode of ``DEMO=watch make demo``: the expert pauses for 5 s before its second object."""
    started = demo(run, DEMO="watch")
    node, profile = ros.create_node("watcher"), RobotProfile.load("teleavatar")
    told, speeds, starts = [], [], []

    def on_event(message):
        if message.event == EpisodeEvent.START:
            starts.append(stamp_s(message))

    def on_progress(message):
        if math.isfinite(message.progress_raw):
            told.append((stamp_s(message), message))

    node.create_subscription(TaskProgress, "/task_progress", on_progress, 50)
    node.create_subscription(EpisodeEvent, "/sim/events", on_event, 50)
    for arm in profile.arms.values():
        node.create_subscription(
            JointState, arm.state_topic,
            lambda m: speeds.append((stamp_s(m), max(map(abs, m.velocity)))), qos_profile_sensor_data,
        )  # fmt: skip

    def episode():
        """What was said, with its stamps, from the start of the first whole episode until its success."""
        begun = next((s for s in starts if told and told[0][0] < s), None)
        said = [(t, m) for t, m in told if begun is not None and t >= begun + 0.5]
        done = next((i for i, (_, m) in enumerate(said) if m.status == TaskProgress.SUCCEEDED), None)
        return said[: done + 1] if done is not None else []

    try:
        wait_for(
            episode, lambda: rclpy.spin_once(node, timeout_sec=0.1), "SUCCEEDED in a whole episode", 4 * PATIENCE_S
        )
    finally:
        started.popen.terminate()
    said = episode()
    moves = [said[0][0], *(t for t, speed in speeds if speed > 0.02 and said[0][0] < t < said[-1][0])]
    pause = max(itertools.pairwise(moves), key=lambda pair: pair[1] - pair[0])
    assert 4 < pause[1] - pause[0] < 6.5
    during = [m for t, m in said if pause[0] + 1.5 < t < pause[1]]  # it takes a moment to see that nothing moves
    assert min(m.progress for t, m in said if t < said[0][0] + 2) < 0.15 and said[-1][1].progress > 0.9
    assert np.ptp([m.progress for m in during]) < 0.05
    assert TaskProgress.STALLED in {m.status for m in during}
    assert 0.3 < during[0].progress < 0.7  # one of two objects is done


def _pids(mark, module):
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if marked and module.encode() in (folder / "cmdline").read_bytes():
                yield int(folder.name)
