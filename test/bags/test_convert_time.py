"""From a recording to frames: times, joints, commands and pictures against courses that are known exactly."""

import numpy as np
import pytest
from convert_recordings import (
    COMPRESSED,
    IMAGE,
    JOINTS,
    NUMBER,
    POSE,
    PROFILE,
    START,
    Message,
    button,
    event,
    joints,
    make,
    moved,
    number_of,
    pictures,
    position,
    recording,
    times,
    without,
    write_bag,
)
from convert_results import convert

ARM_COLUMNS = np.r_[0:7, 8:15]
LEFT_ARM = "/left_arm/joint_states"
LEFT_IMAGES = "/left/color/image_raw/compressed"


def expected_positions(run, start=START):
    t = (start - START) * 1e-9 + run.column("frame_index") / 30
    return np.array([[position(j, x) for j in range(16)] for x in t])


def test_joints_pictures_and_commands_are_those_of_each_frames_time(tmp_path):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", recording(2.0)))
    assert run.status == 0, run.text
    n = len(run.column("index"))
    assert n == 60
    assert np.abs(run.column("observation.state")[:, :16] - expected_positions(run)).max() < 1e-4
    for camera in ("head_camera", "left_color", "right_color"):
        assert run.numbers(camera) == list(range(n))
    stamps = np.array(times(100, 2.0))
    frames = START + np.round(np.arange(n) * 1e9 / 30)
    in_force = np.searchsorted(stamps, frames, side="right") - 1
    assert np.array_equal(run.column("action")[:, 0], in_force.astype(np.float32))
    assert np.allclose(run.column("action")[:, 8 + 6], in_force + 0.06)
    assert np.allclose(run.column("observation.state")[:, 16:32], 0.5)
    assert np.allclose(run.column("observation.state")[:, 32:48], -0.25)


def test_frames_of_another_rate_take_the_nearest_picture(tmp_path):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", recording(2.0)), fps=20)
    stamps = np.array(times(30, 2.0))
    frames = [START + round(i * 1e9 / 20) for i in range(len(run.column("index")))]
    assert run.numbers("left_color") == [int(np.argmin(np.abs(stamps - t))) for t in frames]


def test_cameras_out_of_step_are_matched_within_half_a_frame(tmp_path):
    messages = joints(2.0) + pictures(2.0, cameras=("head_camera",))
    messages += [moved(m, 12_000_000, 12_000_000) for m in pictures(2.0, cameras=("left_color",))]
    messages += [moved(m, -9_000_000, -9_000_000) for m in pictures(2.0, cameras=("right_color",))]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    first = run.numbers("head_camera")[0]
    n = len(run.column("index"))
    assert run.numbers("head_camera") == list(range(first, first + n))
    assert run.numbers("left_color") == list(range(first, first + n))
    assert run.numbers("right_color") == list(range(first, first + n))
    inputs = run.report["episodes"][0]["parts"][0]["inputs"]
    assert inputs["left_color"]["max_skew_ms"] == pytest.approx(12, abs=0.01)
    assert inputs["right_color"]["held"] == 0


def test_stamps_decide_not_the_time_of_reception(tmp_path):
    late = [moved(m, 0, 70_000_000) if m.type == COMPRESSED else m for m in recording(2.0)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", late))
    assert run.numbers("head_camera") == list(range(60))
    assert np.abs(run.column("observation.state")[:, :16] - expected_positions(run)).max() < 1e-4


def test_stamps_of_computers_whose_clocks_are_apart_are_pointed_out(tmp_path):
    early = [moved(m, -200_000_000, 0) if m.type == COMPRESSED else m for m in recording(2.0)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", early))
    assert run.status == 0, run.text
    assert "stamps of other inputs run apart: head_camera by 200 ms, left_color by 200 ms" in run.text
    timing = run.report["bags"][0]["timing"][0]
    assert timing["left_color"]["stamp_minus_reception_ms"] == -200
    assert timing["left_arm"]["stamp_minus_reception_ms"] == 0
    near = [moved(m, -30_000_000, 0) if m.type == COMPRESSED else m for m in recording(1.0)]
    assert "apart" not in convert(tmp_path / "near", write_bag(tmp_path / "bag_2", near)).text


def test_messages_without_a_stamp_take_the_time_of_reception_and_the_report_says_so(tmp_path):
    messages = [moved(m, -m.stamp, 0) if m.topic == LEFT_IMAGES else m for m in recording(1.0)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.numbers("left_color") == list(range(30))
    assert any("left_color: 30 messages without a stamp" in note for note in run.report["bags"][0]["notes"])


def test_duplicates_and_disorder_are_seen_and_change_nothing(tmp_path):
    messages = recording(2.0)
    states = [m for m in messages if m.topic == LEFT_ARM]
    images = [m for m in messages if m.topic == LEFT_IMAGES]
    swapped = {id(states[100]): 8_000_000, id(images[20]): 40_000_000}  # received after those that follow them
    messages = [moved(m, 0, swapped.get(id(m), 0)) for m in messages] + [moved(states[50]), moved(images[10])]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.numbers("left_color") == list(range(60))
    assert np.abs(run.column("observation.state")[:, :16] - expected_positions(run)).max() < 1e-4
    timing = run.report["bags"][0]["timing"][0]
    assert (timing["left_arm"]["duplicates"], timing["left_arm"]["out_of_order"]) == (1, 1)
    assert (timing["left_color"]["duplicates"], timing["left_color"]["out_of_order"]) == (1, 1)


def test_a_missing_picture_is_replaced_by_the_nearest_and_counted(tmp_path):
    messages = without(recording(2.0), LEFT_IMAGES, 0.99, 1.01)  # number 30
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    numbers = run.numbers("left_color")
    assert numbers[:30] + numbers[31:] == [*range(30), *range(31, 60)]
    assert numbers[30] in (29, 31)
    assert run.report["frames_held"] == 1


@pytest.mark.parametrize("topic", [LEFT_ARM, LEFT_IMAGES, "/right_arm/joint_cmd", "/left_gripper/joint_states"])
def test_an_episode_with_a_gap_is_dropped_and_the_gap_is_named(tmp_path, topic):
    messages = without(recording(2.0), topic, 0.8, 1.2)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages))
    assert run.status == 1 and not run.root.exists()
    assert "gap of 0.4" in run.text and "at 0." in run.text


def test_splitting_leaves_only_frames_outside_the_gap(tmp_path):
    messages = without(recording(4.0), LEFT_IMAGES, 1.49, 2.01)
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), on_gap="split")
    assert run.status == 0, run.text
    lengths = [e["length"] for e in run.episodes()]
    assert lengths == [45, 59]
    assert run.numbers("left_color") == [*range(45), *range(61, 120)]
    assert run.numbers("head_camera") == [*range(45), *range(61, 120)]
    assert not np.any(np.all(run.column("observation.state") == 0, axis=1))
    done = np.flatnonzero(run.column("next.done"))
    assert done.tolist() == [44, 103]


def test_a_clock_that_jumps_back_within_an_episode_drops_or_splits_it(tmp_path):
    half = [m if m.stamp < START + 2 * 10**9 else moved(m, -3 * 10**9, 0) for m in recording(4.0)]
    bag = write_bag(tmp_path / "bag", half)
    dropped = convert(tmp_path / "ds", bag)
    assert dropped.status == 1 and "jumped back by 3.0" in dropped.text
    split = convert(tmp_path / "ds", bag, on_gap="split")
    numbers = split.numbers("head_camera")
    ends = np.cumsum([e["length"] for e in split.episodes()])
    assert len(ends) == 2 and numbers[: ends[0]] == list(range(60))
    assert numbers[ends[0] :] == list(range(numbers[ends[0]], 120))


def test_a_clock_that_jumps_ahead_is_told_from_a_gap(tmp_path):
    ahead = [m if m.stamp < START + 10**9 else moved(m, 5 * 10**9, 0) for m in recording(2.0)]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", ahead))
    assert run.status == 1 and "clock jumped ahead by 5.0" in run.text


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_recorder_clock_that_was_set_back_is_found_in_the_order_of_the_file(tmp_path, storage):
    ordered = sorted(recording(4.0), key=lambda m: m.stamp)
    jumped = [m if m.stamp < START + 2 * 10**9 else moved(m, -(10**9), -(10**9)) for m in ordered]
    bag = write_bag(tmp_path / "bag", jumped, storage, keep_order=True)
    run = convert(tmp_path / "ds", bag)
    assert run.status == 1
    assert "set back by 1.0" in run.text


def test_episodes_between_events_keep_outcome_milestones_and_task(tmp_path):
    at = lambda s: START + round(s * 1e9)  # noqa: E731
    events = [
        event(0, at(0.5)), event(2, at(1.0), label="grasped"), event(2, at(1.505), label="stacked"),
        event(1, at(2.0), outcome=1, label="fine"),
        event(0, at(2.5), "e2", task="fold"), event(1, at(3.5), "e2", outcome=2, task="fold"),
        event(0, at(3.6), "e3"),
    ]  # fmt: skip
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", recording(4.0) + events), task=None)
    assert run.status == 0, run.text
    assert run.numbers("head_camera") == [*range(15, 61), *range(75, 106)]
    first, second = run.progress["episodes"]
    assert first["outcome"] == "SUCCESS" and first["note"] == "fine" and second["outcome"] == "FAILURE"
    assert [(m["label"], m["frame"]) for m in first["milestones"]] == [("grasped", 15), ("stacked", 31)]
    assert [e["tasks"] for e in run.episodes()] == [["stack the cubes"], ["fold"]]
    assert np.flatnonzero(run.column("next.success")).tolist() == [45]
    assert any(e["episode"] == "e3" and "no stop event" in e["reasons"][0] for e in run.report["episodes"])


@pytest.mark.parametrize("ahead_s", [-3e8, 40.0, 3e8])
def test_events_and_marks_of_another_clock_count_when_they_arrive(tmp_path, ahead_s):
    # A recorder beside a simulation stamps by the wall's clock, the robot by simulated time, which also runs slower.
    slow = [moved(m, received=round(0.02 * (m.stamp - START))) for m in recording(4.0)]
    at = lambda s: START + round(s * 1e9)  # noqa: E731
    late = [moved(m, received=round(0.02 * (m.stamp - START))) for m in (
        event(0, at(0.499)), event(2, at(1.0), label="grasped"), event(1, at(3.001), outcome=1)
    )]  # fmt: skip
    ahead = round(ahead_s * 1e9)
    messages = [moved(m, received=ahead) for m in slow] + [moved(m, stamp=ahead, received=ahead) for m in late]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), task=None)
    assert run.status == 0, run.text
    assert run.numbers("head_camera") == [*range(15, 91)]
    assert run.progress["episodes"][0]["milestones"] == [{"label": "grasped", "frame": 15}]
    assert "3 messages stamped by another clock than the robot's" in str(run.report["bags"])
    presses = {50: (2,), 150: (3,)}
    buttons = [moved(button(t, presses.get(i, ())), stamp=ahead) for i, t in enumerate(times(100, 4.0))]
    run = convert(tmp_path / "marks", write_bag(tmp_path / "bag2", recording(4.0) + buttons))
    assert run.numbers("head_camera") == [*range(15, 46)]


def test_episodes_between_button_presses(tmp_path):
    presses = {50: (2,), 51: (2,), 150: (3,), 160: (3,), 200: (2,), 300: (3,), 350: (2,)}
    buttons = [button(t, presses.get(i, ())) for i, t in enumerate(times(100, 4.0))]
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", recording(4.0) + buttons))
    assert run.numbers("head_camera") == [*range(15, 46), *range(60, 91)]
    assert run.report["bags"][0]["episodes_by"] == "marks"
    assert "no stop mark" in str(run.report["episodes"])


def test_one_episode_per_bag_when_asked_for(tmp_path):
    bag = write_bag(tmp_path / "bag", [*recording(1.0), event(0, START), event(1, START + 5 * 10**8, outcome=2)])
    run = convert(tmp_path / "ds", bag, episodes="bag")
    assert len(run.column("index")) == 30
    assert run.progress["episodes"][0]["outcome"] == "UNKNOWN"


def test_62_numbers_have_the_end_effectors_poses(tmp_path):
    messages = recording(1.0)
    for side, offset in (("left", 0.0), ("right", 1.0)):
        arm = PROFILE.arms[side]
        for topic, rate in ((arm.state_pose_topic, 100), (arm.target_pose_topic, 50)):
            for i, stamp in enumerate(times(rate, 1.0)):
                angle = 0.01 * i
                p = make("geometry_msgs/msg/Point", x=offset + 0.01 * i, y=0.2, z=0.3)
                sign = 1 if i % 2 else -1  # the same orientation either way
                values = dict(x=0.0, y=0.0, z=sign * np.sin(angle / 2), w=sign * np.cos(angle / 2))
                q = make("geometry_msgs/msg/Quaternion", **values)
                messages.append(Message(topic, POSE, stamp, stamp, {"position": p, "orientation": q}))
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", messages), vector_size=62)
    assert run.status == 0, run.text
    state, action = run.column("observation.state"), run.column("action")
    assert state.shape[1] == action.shape[1] == 62
    t = run.column("frame_index") / 30
    assert np.abs(state[:, 48] - t).max() < 1e-4 and np.abs(state[:, 55] - (1 + t)).max() < 1e-4
    assert np.abs(np.linalg.norm(state[:, 51:55], axis=1) - 1).max() < 1e-6
    assert np.abs(2 * np.arctan2(state[:, 53], state[:, 54]) % (2 * np.pi) - t).max() < 1e-3
    in_force = np.searchsorted(np.array(times(50, 1.0)), START + np.round(t * 1e9), side="right") - 1
    assert np.allclose(action[:, 48], 0.01 * in_force, atol=1e-6)
    assert run.info["features"]["action"]["names"][48:50] == ["left_ee.x", "left_ee.y"]


def test_actions_of_rollouts_are_the_policys_commands(tmp_path):
    messages = [m for m in recording(2.0) if "joint_cmd" not in m.topic]
    for side in ("left", "right"):
        arm, gripper = PROFILE.arms[side], PROFILE.grippers[side]
        for i, stamp in enumerate(times(100, 2.0)):
            fields = {"name": list(arm.joints), "position": np.full(7, 0.01 * i)}
            fields |= {"velocity": np.zeros(0), "effort": np.zeros(0)}
            messages.append(Message(arm.target_topic, JOINTS, stamp, stamp, fields))
        for stamp, value in ((START, 0.25), (START + 10**9, 0.75)):  # once, and again when it changes
            messages.append(Message(gripper.command_topic, NUMBER, stamp, stamp, {"data": value}))
    bag = write_bag(tmp_path / "bag", messages)
    teleoperation = convert(tmp_path / "ds", bag)
    assert teleoperation.status == 1 and "--actions policy" in teleoperation.text
    run = convert(tmp_path / "ds", bag, actions="policy")
    action = run.column("action")
    frames = START + np.round(run.column("frame_index") * 1e9 / 30)
    in_force = np.searchsorted(np.array(times(100, 2.0)), frames, side="right") - 1
    assert np.allclose(action[:, 0], 0.01 * in_force, atol=1e-6)
    later = frames >= START + 10**9
    assert np.allclose(action[:, 39], np.where(later, 0.5 - 0.75, 7 * (0.5 - 0.25)))  # N m, the left curve
    assert np.allclose(action[:, 47], np.where(later, 0.25, -1.75))


def test_raw_pictures_at_training_size_keep_their_aspect(tmp_path):
    run = convert(tmp_path / "ds", write_bag(tmp_path / "bag", recording(1.0, kind=IMAGE)), image_size="64x64")
    assert run.info["features"]["observation.images.left_color"]["shape"] == [64, 64, 3]
    images = run.images("left_color")
    assert (
        images[5][:7].max() < 30 and images[5][-7:].max() < 30
    )  # 64x48 is 64 wide and 48 high, padded above and below

    assert [number_of(image[8:56]) for image in images] == list(range(30))
