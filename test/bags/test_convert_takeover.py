"""A goal of the policy's in which the operator takes over stays one episode: his frames carry his commands."""

import numpy as np
import pytest
from convert_recordings import (
    JOINTS,
    NUMBER,
    PROFILE,
    START,
    Message,
    event,
    moved,
    recording,
    times,
    without,
    write_bag,
)
from convert_results import convert

from pi05_progress.robots.episode_notes import HANDED_BACK, INVALID, TAKEN_OVER, VALID

POLICYS, OPERATORS = 100.0, 200.0  # all joints' targets at first; each rises by 1 in a second
OPERATED = {of.teleoperation_topic for of in (*PROFILE.arms.values(), *PROFILE.grippers.values())}


def commands(source, begin_s, end_s):
    """Of one of both, for arms and grippers, at 100 Hz."""
    made = []
    for stamp in (s for s in times(100, 4.0) if begin_s <= (s - START) * 1e-9 <= end_s):
        for side, arm in PROFILE.arms.items():
            gripper, value = PROFILE.grippers[side], source + (stamp - START) * 1e-9
            policys = source == POLICYS
            parts = [(arm.target_topic if policys else arm.teleoperation_topic, arm.joints)]
            if policys:
                made.append(Message(gripper.command_topic, NUMBER, stamp, stamp, {"data": 0.25}))
            else:
                parts.append((gripper.teleoperation_topic, [gripper.joint]))
            for topic, names in parts:
                full = np.full(len(names), value)
                fields = {"name": list(names), "position": full, "velocity": full * 0, "effort": full * 0}
                made.append(Message(topic, JOINTS, stamp, stamp, fields))
    return made


def goal(*events, end_s=3.8):
    """A recording of a goal, without commands; events of it are given as kind and time in s."""
    made = [m for m in recording(4.0) if m.topic not in OPERATED]
    marks = [(0, 0.0), *events]
    made += [event(kind, START + round(t * 1e9)) for kind, t in marks]
    return [*made, event(1, START + round(end_s * 1e9), outcome=1)]


TAKEN = [(TAKEN_OVER, 1.0), (HANDED_BACK, 2.5)]
POLICY_AT_WORK = commands(POLICYS, 0.0, 1.0) + commands(POLICYS, 2.52, 4.0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Handed back after half a second without commands; and never handed back, by an operator who always sends."""
    folder = tmp_path_factory.mktemp("takeovers")
    marked = goal(*TAKEN, (INVALID, 2.1), (VALID, 2.5))
    write_bag(folder / "bags" / "a", marked + POLICY_AT_WORK + commands(OPERATORS, 0.9, 2.0))
    ends = goal((TAKEN_OVER, 1.0), end_s=2.9)
    write_bag(folder / "bags" / "b", ends + commands(POLICYS, 0.0, 1.0) + commands(OPERATORS, 0.0, 4.0))
    return convert(folder / "ds", folder / "bags", fps=10, task=None, actions="policy")


def of_episode(converted, index, name):
    return converted.column(name)[converted.column("episode_index") == index]


def test_it_is_one_episode_whose_frames_say_who_commanded(converted):
    assert converted.status == 0, converted.text
    assert [e["outcome"] for e in converted.progress["episodes"]] == ["SUCCESS"] * 2
    assert converted.info["features"]["intervention"]["dtype"] == "bool"
    taken, never = (of_episode(converted, index, "intervention") for index in (0, 1))
    assert len(taken) == 39 and np.flatnonzero(taken).tolist() == list(range(10, 25))
    assert len(never) == 30 and np.flatnonzero(never).tolist() == list(range(10, 30))


def test_actions_are_of_whoever_the_robot_obeys(converted):
    taken, never = (of_episode(converted, index, "action")[:, 0] for index in (0, 1))
    t = 0.1 * np.arange(39)
    expected = np.where((t > 0.95) & (t < 2.45), OPERATORS + np.minimum(t, 2.0), POLICYS + t)
    expected[25] = OPERATORS + 2.0  # handed back, and the policy has not begun
    np.testing.assert_allclose(taken, expected, atol=0.011)
    np.testing.assert_allclose(never, np.where(t[:30] < 0.95, POLICYS, OPERATORS) + t[:30], atol=0.011)


def test_grippers_are_the_operators_too(converted):
    efforts = of_episode(converted, 1, "action")[:, 39]
    np.testing.assert_allclose(efforts, np.where(np.arange(30) < 10, 7 * (0.5 - 0.25), 0))  # N m, by the left curve


def test_frames_in_which_nobody_commands_are_not_to_be_imitated(converted, tmp_path):
    assert np.flatnonzero(~of_episode(converted, 0, "demonstration.valid")).tolist() == list(range(21, 25))
    assert of_episode(converted, 1, "demonstration.valid").all()
    write_bag(tmp_path / "bag", goal(*TAKEN) + POLICY_AT_WORK + commands(OPERATORS, 0.9, 2.0))
    unmarked = convert(tmp_path / "ds", tmp_path / "bag", fps=10, task=None, actions="policy")
    assert np.flatnonzero(~unmarked.column("demonstration.valid")).tolist() == [23, 24]  # after --max-gap


def test_without_a_takeover_an_operators_commands_do_not_matter(tmp_path):
    theirs = [moved(m, stamp=-3 * 10**9 if m.stamp > START + 2 * 10**9 else 0) for m in commands(OPERATORS, 0.0, 4.0)]
    odd = PROFILE.grippers["left"].teleoperation_topic
    theirs = [m for m in theirs if m.topic != odd] + [Message(odd, NUMBER, START, START, {"data": 0.0})]
    write_bag(tmp_path / "bag", goal() + commands(POLICYS, 0.0, 4.0) + theirs)
    run = convert(tmp_path / "ds", tmp_path / "bag", fps=10, task=None, actions="policy")
    assert run.status == 0 and "kept, but" not in run.text, run.text
    assert run.info["total_frames"] == 39 and "intervention" not in run.info["features"]


def test_what_is_missing_of_a_takeover_is_named(tmp_path):
    write_bag(tmp_path / "bags" / "a", goal(*TAKEN) + POLICY_AT_WORK)
    late = POLICY_AT_WORK + commands(OPERATORS, 0.9, 2.5)
    late = without(late, PROFILE.arms["left"].target_topic, after=2.0, before=3.0)
    write_bag(tmp_path / "bags" / "b", goal(*TAKEN) + late)
    run = convert(tmp_path / "ds", tmp_path / "bags", fps=10, task=None, actions="policy")
    assert run.status == 1
    parts = ("left_arm", "left_gripper", "right_arm", "right_gripper")
    assert f"nothing from {', '.join(f'operator {part}' for part in parts)}" in run.text
    assert "b e1: action left_arm: gap of 0.60 s at 2.40 s" in run.text  # since the last frame of the takeover
    split = convert(tmp_path / "split", tmp_path / "bags", fps=10, task=None, actions="policy", on_gap="split")
    assert split.column("intervention").sum() == 15
