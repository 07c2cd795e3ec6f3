"""How the robot's mode is written: with every key that the vendor's clients check."""

import json

import pytest

from pi05_progress.robots.states import Mode, mode_text, read_mode

VENDOR = {
    "meta_mode": 1, "left_arm_control_mode": 1, "right_arm_control_mode": 1, "enable_left_arm": True,
    "enable_right_arm": True, "enable_chassis": False, "enable_lift_servo": False, "enable_collision_check": False,
    "current_mode": 1, "simulator": "mujoco",
}  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_has_the_keys_of_the_vendors_simulator_and_is_read_back(mode):
    assert json.loads(mode_text(mode)) == VENDOR | {"meta_mode": int(mode)}
    assert read_mode(mode_text(mode)) == mode
