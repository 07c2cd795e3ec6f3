"""Layouts, gripper curves and crops against the numbers of the robot's API document."""

import numpy as np
import pytest

from pi05_progress.robots import teleavatar as robot


def test_layout_of_state_and_action():
    vector = np.arange(48)
    assert robot.model_state(vector).tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
    assert robot.model_action(vector).tolist() == [0, 1, 2, 3, 4, 5, 6, 39, 8, 9, 10, 11, 12, 13, 14, 47]


def test_end_effector_numbers_are_ignored():
    short, long = np.arange(48), np.concatenate([np.arange(48), np.full(14, np.nan)])
    np.testing.assert_array_equal(robot.model_state(long), robot.model_state(short))
    np.testing.assert_array_equal(robot.model_action(long), robot.model_action(short))


@pytest.mark.parametrize("function", [robot.model_state, robot.model_action])
def test_other_sizes_are_refused(function):
    with pytest.raises(robot.LayoutError, match="has 50 numbers"):
        function(np.zeros(50))


@pytest.mark.parametrize(
    ("side", "curve", "effort", "command"),
    [
        ("left", "teleavatar", 0.0, 0.5),
        ("left", "teleavatar", 3.5, 0.0),
        ("left", "teleavatar", 1.4, 0.3),
        ("left", "teleavatar", -0.5, 1.0),
        ("left", "teleavatar", -0.2, 0.7),
        ("right", "teleavatar", 0.0, 0.5),
        ("right", "teleavatar", -3.5, 0.0),
        ("right", "teleavatar", -1.4, 0.3),
        ("right", "teleavatar", 0.5, 1.0),
        ("right", "teleavatar", 0.2, 0.7),
        ("left", "teleavatar_v2", 2.0, 0.0),
        ("right", "teleavatar_v2", 1.0, 0.05),
        ("left", "teleavatar_v2", 0.0, 0.10),
        ("right", "teleavatar_v2", -0.8, 0.55),
        ("left", "teleavatar_v2", -1.6, 1.0),
    ],
)
def test_gripper_curves_in_both_directions(side, curve, effort, command):
    assert robot.gripper_command_from_effort(effort, side, curve) == pytest.approx(command)
    assert robot.gripper_effort_from_command(command, side, curve) == pytest.approx(effort)


@pytest.mark.parametrize("curve", ["teleavatar", "teleavatar_v2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gripper_curves_invert_everywhere_and_clip(side, curve):
    command = np.linspace(0, 1, 101)
    effort = robot.gripper_effort_from_command(command, side, curve)
    np.testing.assert_allclose(robot.gripper_command_from_effort(effort, side, curve), command, atol=1e-12)
    clipped = robot.gripper_command_from_effort(np.array([-99.0, 99.0]), side, curve)
    assert sorted(clipped.tolist()) == [0.0, 1.0]


def test_unknown_curve_or_side_is_refused():
    with pytest.raises(ValueError, match="unknown gripper curve 'v3'"):
        robot.gripper_command_from_effort(0.0, "left", "v3")
    with pytest.raises(ValueError, match="unknown side 'middle'"):
        robot.gripper_effort_from_command(0.0, "middle")


def test_delta_actions_leave_grippers_absolute_and_invert():
    rng = np.random.default_rng(0)
    actions, state = rng.normal(size=(30, 16)), rng.normal(size=14)
    delta = robot.delta_actions(actions, state)
    np.testing.assert_array_equal(delta[:, [7, 15]], actions[:, [7, 15]])
    np.testing.assert_allclose(delta[:, :7], actions[:, :7] - state[:7])
    np.testing.assert_allclose(delta[:, 8:15], actions[:, 8:15] - state[7:])
    np.testing.assert_allclose(robot.absolute_actions(delta, state), actions)


@pytest.mark.parametrize(("height", "width"), [(1920, 3840), (800, 2560)])
def test_recorded_stereo_is_cut_and_single_eyes_are_left_alone(height, width):
    picture = np.broadcast_to(np.arange(width)[None, :, None], (height, width, 3))
    assert robot.one_eye(picture, "left")[0, 0, 0] == 0
    right = robot.one_eye(picture, "right")
    assert right.shape[:2] == (height, width // 2)
    assert right[0, 0, 0] == width // 2
    single = picture[:, : width // 2]
    assert robot.one_eye(single[:, : 2 * height - 1], "left") is not None
    assert robot.one_eye(np.zeros((480, 848, 3)), "left").shape == (480, 848, 3)


def test_v1_head_is_turned_then_the_left_half_kept():
    picture = np.arange(4 * 8 * 3).reshape(4, 8, 3)
    eye = robot.one_eye(robot.turned(picture), "left")
    assert eye.shape == (4, 4, 3)
    np.testing.assert_array_equal(eye[0, 0], picture[-1, -1])
