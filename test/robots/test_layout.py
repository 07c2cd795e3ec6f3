"""A robot's layout as its profile gives it: the Teleavatar's against the numbers of the robot's API document."""

import numpy as np
import pytest

from pi05_progress.robots.layout import LayoutError
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.units.transforms import absolute_actions, delta_actions

PROFILE, SECOND = RobotProfile.load("teleavatar"), RobotProfile.load("teleavatar_v2")
LAYOUT = PROFILE.layout


def read(vector):
    return LAYOUT.checked(vector, "state")[LAYOUT.state_columns]


def learnt(vector):
    return LAYOUT.checked(vector, "action")[LAYOUT.action_columns]


def test_what_the_model_reads_and_learns_of_state_and_action():
    vector = np.arange(48)
    assert read(vector).tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
    assert learnt(vector).tolist() == [0, 1, 2, 3, 4, 5, 6, 39, 8, 9, 10, 11, 12, 13, 14, 47]
    assert (LAYOUT.state_size, LAYOUT.action_size) == (14, 16)


def test_names_units_and_limits():
    assert LAYOUT.joints == tuple(f"{side}_joint{i}" for side in "lr" for i in range(1, 9))
    assert LAYOUT.action_units == ("rad",) * 7 + ("N m",) + ("rad",) * 7 + ("N m",)
    assert list(PROFILE.joint_parts()) == ["left_arm", "left_gripper", "right_arm", "right_gripper"]
    assert LAYOUT.vector_names(48)[39:41] == ["l_joint8.effort", "r_joint1.effort"]
    assert LAYOUT.vector_names(62)[47:50] == ["r_joint8.effort", "left_ee.x", "left_ee.y"]
    assert LAYOUT.vector_names(62)[-1] == "right_ee.qw" and len(LAYOUT.vector_names(62)) == 62
    np.testing.assert_array_equal(LAYOUT.limits[LAYOUT.arms["right"]], PROFILE.arms["right"].limits())
    assert np.isinf(LAYOUT.limits[list(LAYOUT.grippers.values())]).all()


def test_end_effector_numbers_are_ignored():
    short, long = np.arange(48), np.concatenate([np.arange(48), np.full(14, np.nan)])
    np.testing.assert_array_equal(read(long), read(short))
    np.testing.assert_array_equal(learnt(long), learnt(short))


@pytest.mark.parametrize("function", [read, learnt])
def test_other_sizes_are_refused(function):
    with pytest.raises(LayoutError, match="has 50 numbers on its last axis, the robot's layouts have 48 or 62"):
        function(np.zeros(50))


@pytest.mark.parametrize(
    ("layout", "side", "effort", "command"),
    [
        (PROFILE.layout, "left", 0.0, 0.5),
        (PROFILE.layout, "left", 3.5, 0.0),
        (PROFILE.layout, "left", 1.4, 0.3),
        (PROFILE.layout, "left", -0.5, 1.0),
        (PROFILE.layout, "left", -0.2, 0.7),
        (PROFILE.layout, "right", 0.0, 0.5),
        (PROFILE.layout, "right", -3.5, 0.0),
        (PROFILE.layout, "right", -1.4, 0.3),
        (PROFILE.layout, "right", 0.5, 1.0),
        (PROFILE.layout, "right", 0.2, 0.7),
        (SECOND.layout, "left", 2.0, 0.0),
        (SECOND.layout, "right", 1.0, 0.05),
        (SECOND.layout, "left", 0.0, 0.10),
        (SECOND.layout, "right", -0.8, 0.55),
        (SECOND.layout, "left", -1.6, 1.0),
    ],
)
def test_gripper_curves_in_both_directions(layout, side, effort, command):
    assert layout.curves[side].command(effort) == pytest.approx(command)
    assert layout.curves[side].effort(command) == pytest.approx(effort)


@pytest.mark.parametrize("layout", [PROFILE.layout, SECOND.layout])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gripper_curves_invert_everywhere_and_clip(layout, side):
    curve, command = layout.curves[side], np.linspace(0, 1, 101)
    np.testing.assert_allclose(curve.command(curve.effort(command)), command, atol=1e-12)
    assert sorted(curve.command(np.array([-99.0, 99.0])).tolist()) == [0.0, 1.0]
    np.testing.assert_array_equal(curve.effort(np.array([-1.0, 2.0])), curve.effort(np.array([0.0, 1.0])))


def test_delta_actions_leave_grippers_absolute_and_invert():
    rng = np.random.default_rng(0)
    actions, state = rng.normal(size=(30, 16)), rng.normal(size=14)
    delta = delta_actions(actions, state, LAYOUT)
    np.testing.assert_array_equal(delta[:, [7, 15]], actions[:, [7, 15]])
    np.testing.assert_allclose(delta[:, :7], actions[:, :7] - state[:7])
    np.testing.assert_allclose(delta[:, 8:15], actions[:, 8:15] - state[7:])
    np.testing.assert_allclose(absolute_actions(delta, state, LAYOUT), actions)


def test_a_changed_copy_of_a_profile_has_its_own_layout():
    assert list(PROFILE.layout.cameras) == ["head_camera", "left_color", "right_color"]
    one = PROFILE.model_copy(update={"cameras": {"head_camera": PROFILE.cameras["head_camera"]}})
    assert dict(one.layout.cameras) == {"head_camera": "base_0_rgb"}
    assert len(PROFILE.layout.cameras) == 3
