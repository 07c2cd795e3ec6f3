"""Bags made from the simulation without DDS: real readers open them, and they hold what a recording would hold."""

import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_for
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from pi05_progress.robots.messages import decode_image, robot_frame
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_ros.sim import generate
from pi05_progress_ros.sim.episodes.generation import EpisodeMaker, GenerationOptions
from pi05_progress_ros.sim.robot.states import STOP_AFTER_S

PROFILE = RobotProfile.load("teleavatar")
COMMAND = [sys.executable, "-m", "pi05_progress_ros.sim.generate"]
STACK = ("--task", "stack_cubes", "--episodes", 1, "--seed", 3, "--image-scale", 0.05)


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """An episode of each task, one of them with a step undone."""
    out = tmp_path_factory.mktemp("bags")
    basket = ("--task", "place_in_basket", "--episodes", 1, "--fault", "undone_step:0", "--image-scale", 0.05)
    basket += ("--picture-rate", 10, "--joint-rate", 50)  # nobody counts its messages
    runs = [(*STACK, "--out", out), (*basket, "--out", out)]
    running = [subprocess.Popen([*COMMAND, *map(str, arguments)]) for arguments in runs]
    assert [process.wait() for process in running] == [0, 0]
    return out


def read(bag):
    """Per topic the times (ns) and messages of a bag."""
    found = defaultdict(list)
    with AnyReader([bag]) as reader:
        for connection, time_ns, data in reader.messages():
            found[connection.topic].append((time_ns, reader.deserialize(data, connection.msgtype)))
    return found


@pytest.fixture(scope="module")
def stacked(bags):
    return read(bags / "stack_cubes_000003")


def test_every_topic_has_its_rate(stacked):
    seconds = len(stacked["/left_arm/joint_states"]) / 200
    assert 10 < seconds < 60
    expected = dict.fromkeys(["/left_arm/joint_cmd", "/right_gripper/joint_cmd", "/xr/left_hand_inputs"], 100)
    expected |= dict.fromkeys([camera.compressed_topic for camera in PROFILE.cameras.values()], 30)
    expected |= {
        "/right_arm/joint_states": 200,
        "/left_gripper/joint_states": 200,
        "/fsm_state": 20,
        "/sim/progress": 30,
    }
    for topic, rate in expected.items():
        assert len(stacked[topic]) / seconds == pytest.approx(rate, rel=0.02), topic


def test_stamps_are_those_of_the_bag_and_rise(stacked):
    for topic in ("/left_arm/joint_states", "/left_arm/joint_cmd", "/head/image_raw/compressed"):
        stored = np.array([t for t, _ in stacked[topic]])
        stamps = np.array([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in stacked[topic]])
        np.testing.assert_array_equal(stored, stamps)
        assert (np.diff(stamps) > 0).all()
        assert stamps[0] > 1_767_225_600 * 10**9


def test_another_reader_opens_it_and_finds_our_definitions(bags):
    path = next((bags / "stack_cubes_000003").glob("*.mcap"))
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    schemas = {schema.name: schema.data.decode() for schema in summary.schemas.values()}
    assert "string episode_id" in schemas["pi05_progress_msgs/msg/EpisodeEvent"]
    assert summary.statistics.message_count > 10_000
    assert (bags / "stack_cubes_000003" / "metadata.yaml").read_text().count("stack_cubes_000003.mcap") >= 1


def test_events_are_start_milestones_in_order_and_a_successful_stop(stacked):
    events = [message for _, message in stacked["/episode_event"] if message.event < 3]
    assert [e.event for e in events] == [0, 2, 2, 2, 2, 1]
    assert [e.label for e in events[1:-1]] == [
        "red_cube lifted", "red_cube stacked", "blue_cube lifted", "blue_cube stacked",
    ]  # fmt: skip
    assert [e.progress for e in events] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert events[-1].outcome == 1
    assert {e.episode_id for e in events} == {"stack_cubes_000003"}
    stamps = [e.header.stamp.sec + e.header.stamp.nanosec * 1e-9 for e in events]
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[-2] == pytest.approx(STOP_AFTER_S, abs=0.1)  # what "done" looks like is recorded, too


def test_the_operator_presses_x_at_the_start_and_y_at_the_end(stacked):
    presses = np.array([m.buttons for _, m in stacked["/xr/left_hand_inputs"]])
    for button, share in ((2, 0.05), (3, 0.95)):
        rising = np.flatnonzero(np.diff(presses[:, button]) == 1)
        assert len(rising) == 1
        assert abs(rising[0] / len(presses) - share) < 0.06


def test_messages_become_frames_by_the_code_of_the_live_node(stacked):
    images = {key: stacked[camera.compressed_topic][60][1] for key, camera in PROFILE.cameras.items()}
    joints = {
        f"{s}_{p}": stacked[f"/{s}_{p}/joint_states"][400][1] for s in ("left", "right") for p in ("arm", "gripper")
    }
    frame = robot_frame(PROFILE, images, joints)
    assert frame.absent == ()
    assert frame.images["head_camera"].shape == (54, 96, 3)
    assert decode_image(images["head_camera"], "head").std() > 10
    for side, start in (("left", 0), ("right", 8)):
        limits = PROFILE.arms[side].limits()
        position = frame.state[start : start + 7]
        assert ((position >= limits[:, 0]) & (position <= limits[:, 1])).all()


def test_the_arms_follow_the_recorded_commands(stacked):
    for side in ("left", "right"):
        states = np.array([m.position for _, m in stacked[f"/{side}_arm/joint_states"]])[::2]
        commands = np.array([m.position for _, m in stacked[f"/{side}_arm/joint_cmd"]])
        count = min(len(states), len(commands)) - 20
        assert np.abs(states[20 : count + 20] - commands[10 : count + 10]).max() < 0.1
        states = [m.data for _, m in stacked["/fsm_state"]]
    assert list(dict.fromkeys(states)) == [0, 1, 2]


def test_an_undone_step_lowers_the_progress_that_is_true_now(bags):
    found = read(bags / "place_in_basket_000000")
    progress = np.array([m.data for _, m in found["/sim/progress"]])
    assert (np.diff(progress) < 0).any()
    facts = json.loads((bags / "episodes.json").read_text())
    assert [(f["task"], f["seed"], f["faults"]) for f in facts] == [
        ("place_in_basket", 0, ["undone_step:0"]),
        ("stack_cubes", 3, []),
    ]


def test_events_say_when_a_step_is_undone_and_done_again(bags):
    stored = [(t, m) for t, m in read(bags / "place_in_basket_000000")["/episode_event"] if m.event == 2]
    first = stored[0][1].label.removesuffix(" lifted")
    told = [(m.label.removeprefix("undone ").removeprefix(first), m.label[:7] == "undone ") for _, m in stored[:6]]
    lifted, placed = " lifted", " in_basket"
    assert told == [(lifted, False), (placed, False), (placed, True), (lifted, True), (lifted, False), (placed, False)]
    assert [m.progress for _, m in stored] == [0.25, 0.5, 0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
    # known a while later only, and yet stored when it happened, in the bag's order
    assert all(t == m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for t, m in stored)
    assert (np.diff([t for t, _ in stored]) > 0).all()


def test_events_say_what_is_not_to_be_imitated(bags):
    events = [m for _, m in read(bags / "place_in_basket_000000")["/episode_event"] if m.event != 2]
    begun = [(e.label, after.event) for e, after in itertools.pairwise(events) if e.event == 3]
    assert ("undone_step", 4) in begun  # until the object is picked up again
    assert {label for label, _ in begun} <= {"undone_step", "pause", "idle"}


def test_objects_are_named_in_the_order_of_their_poses(stacked):
    (names,) = {m.data for _, m in stacked["/sim/object_names"]}
    poses = dict(zip(names.split(","), stacked["/sim/object_poses"][-1][1].poses, strict=True))
    heights = [poses[name].position.z for name in ("green_cube", "red_cube", "blue_cube")]
    np.testing.assert_allclose(np.diff(heights), 0.04, atol=0.005)  # stacked in this order


def test_finished_episodes_are_kept(bags):
    before = {path: path.stat().st_mtime_ns for path in bags.rglob("*.mcap")}
    again = run("--task", "stack_cubes", "--episodes", 1, "--seed", 3, "--out", bags)
    assert "1 of 1 episodes are already there and are kept" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in bags.rglob("*.mcap")} == before


@pytest.mark.long
def test_the_same_seed_gives_the_same_episode_whatever_the_images(stacked, tmp_path):
    assert run(*STACK, "--raw-images", "--out", tmp_path / "raw").returncode == 0
    other = read(tmp_path / "raw" / "stack_cubes_000003")
    for topic in ("/left_arm/joint_states", "/right_arm/joint_states"):
        np.testing.assert_array_equal([m.position for _, m in other[topic]], [m.position for _, m in stacked[topic]])
    raw = decode_image(other["/head/image_raw"][9][1], "head")
    jpeg = decode_image(stacked["/head/image_raw/compressed"][9][1], "head")
    assert raw.shape == jpeg.shape == (54, 96, 3)
    assert np.abs(raw.astype(float) - jpeg).mean() < 8


@pytest.mark.parametrize(
    ("task", "fault", "reason", "milestones"),
    [
        ("stack_cubes", "gives_up:1", "given up", ["red_cube lifted", "red_cube stacked"]),
        ("place_in_basket", "wrong_object:0", "given up: took the yellow block instead of the purple block", []),
        *(
            pytest.param("place_in_basket", *failure, marks=pytest.mark.long)
            for failure in (
                ("out_of_reach:0", "given up: pushed the purple block out of reach", []),
                ("empty_gripper:0", "not noticed that the purple block was not held", []),
                ("dropped_behind:0", "purple block fell off the table", ["purple_block lifted"]),
            )
        ),
    ],
)
def test_an_episode_that_is_not_finished_is_a_failure_and_says_why(task, fault, reason, milestones, tmp_path):
    recorder = EpisodeMaker(GenerationOptions(task, tmp_path, image_scale=0.05, picture_rate=5.0, fault=(fault,)))
    facts = recorder.make(2)
    assert (facts.outcome, facts.reason, facts.faults) == ("failure", reason, [fault])
    assert [name for name, _ in facts.milestones] == milestones
    recorder.close()
    events = [m for _, m in read(tmp_path / f"{task}_000002")["/episode_event"]]
    (stop,) = (event for event in events if event.event == EpisodeEvent.STOP)
    assert (stop.outcome, stop.label) == (EpisodeEvent.FAILURE, reason)
    assert fault.partition(":")[0] in [event.label for event in events]  # not to be imitated


def test_a_killed_run_leaves_nothing_that_looks_finished_and_can_go_on(tmp_path):
    arguments = ["--task", "stack_cubes", "--episodes", "1", "--image-scale", "0.05", "--out", str(tmp_path)]
    arguments += ["--fault", "gives_up:0"]
    process = subprocess.Popen([*COMMAND, *arguments], start_new_session=True)
    partial = tmp_path / ".partial" / "stack_cubes_000000"
    wait_for(lambda: any(partial.glob("*.mcap")), what="a bag half written")
    time.sleep(0.2)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()  # it alone: its workers notice
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), what="the workers' end")
    assert not (tmp_path / "stack_cubes_000000").exists()
    assert run(*arguments).returncode == 0
    assert read(tmp_path / "stack_cubes_000000")["/episode_event"][-1][1].outcome == 2
    assert not any((tmp_path / ".partial").iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--task", "juggle", "--out", "x"], "invalid choice 'juggle'"),
        (
            ["--task", "stack_cubes", "--out", "x", "--fault", "tripped"],
            "unknown fault 'tripped'; known faults: dropped",
        ),
        (["--task", "stack_cubes", "--out", "x", "--fault", "gives_up:last"], "'last' is not the number of a pick"),
        (["--task", "lift_cube", "--out", "x", "--fault", "wrong_object"], "lift_cube has no other object; choose"),
        (["--task", "stack_cubes", "--out", "x", "--episodes", "0"], "--episodes 0: expected 1 to"),
        (["--task", "stack_cubes", "--out", "x", "--seed", "900000"], "seeds from 800000 on are kept for evaluation"),
        (["--task", "stack_cubes", "--out", "x", "--seed", "799995"], "--seed 799995 --episodes 10: seeds from 800000"),
        (["--task", "stack_cubes", "--out", "x", "--picture-rate", "0"], "--picture-rate 0.0: expected 1 to 200"),
        (["--task", "stack_cubes", "--out", "x", "--image-scale", "2"], "image scale 2.0 is outside"),
        (["--task", "stack_cubes", "--out", "/proc/nowhere"], "--out /proc/nowhere:"),
    ],
)
def test_wrong_arguments_are_refused(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        generate.main(arguments)
    assert error.value.code == 2
    assert text in capsys.readouterr().err
