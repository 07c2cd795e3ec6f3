"""Crops against the numbers of the robot's API document."""

import numpy as np
import pytest

from pi05_progress.robots.messages import one_eye, prepare_image
from pi05_progress.robots.profile import RobotProfile


@pytest.mark.parametrize(("height", "width"), [(1920, 3840), (800, 2560)])
def test_recorded_stereo_is_cut_and_single_eyes_are_left_alone(height, width):
    picture = np.broadcast_to(np.arange(width)[None, :, None], (height, width, 3))
    assert one_eye(picture, "left")[0, 0, 0] == 0
    right = one_eye(picture, "right")
    assert right.shape[:2] == (height, width // 2)
    assert right[0, 0, 0] == width // 2
    single = picture[:, : width // 2]
    assert one_eye(single[:, : 2 * height - 1], "left") is not None
    assert one_eye(np.zeros((480, 848, 3)), "left").shape == (480, 848, 3)


def test_v1_head_is_turned_then_the_left_half_kept():
    camera = RobotProfile.load("teleavatar").cameras["head_camera"].model_copy(update={"turned": True, "eye": "left"})
    picture = np.arange(4 * 8 * 3).reshape(4, 8, 3)
    eye = prepare_image(picture, camera)
    assert eye.shape == (4, 4, 3)
    np.testing.assert_array_equal(eye[0, 0], picture[-1, -1])
