"""Messages to frames: joints by name, images of every usual kind, and what wrong messages are told."""

import io
import os
from types import SimpleNamespace as Fields

import cv2
import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage, Image, JointState

from pi05_progress.robots.joints import joint_values
from pi05_progress.robots.messages import (
    MessageError,
    decode_image,
    image_backend,
    joint_vector,
    robot_frame,
)
from pi05_progress.robots.profile import RobotProfile

PROFILE = RobotProfile.load("teleavatar")
LEFT = list(PROFILE.arms["left"].joints)


def joint_state(names, start=0.0):
    count = len(names)
    message = JointState(name=list(names))
    message.position = (start + np.arange(count)).tolist()
    message.velocity = (start + 100 + np.arange(count)).tolist()
    message.effort = (start + 200 + np.arange(count)).tolist()
    return message


def all_joints():
    return {
        "left_arm": joint_state(LEFT),
        "left_gripper": joint_state(["l_joint8"], 7),
        "right_arm": joint_state(PROFILE.arms["right"].joints, 8),
        "right_gripper": joint_state(["r_joint8"], 15),
    }


def image_message(picture, encoding="rgb8", padding=0):
    rows = np.ascontiguousarray(picture).reshape(picture.shape[0], -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = Image(height=picture.shape[0], width=picture.shape[1], encoding=encoding, step=rows.shape[1])
    message.data = rows.tobytes()
    return message


PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def test_the_state_vector_is_three_blocks_of_left_arm_left_gripper_right_arm_right_gripper():
    vector = joint_vector(PROFILE, all_joints())
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.concatenate([np.arange(16) + 100 * block for block in range(3)]))


def test_joints_are_found_by_name_in_any_order_among_others():
    message = joint_state([*LEFT[::-1], "torso"])
    values = joint_values(message, LEFT, "left_arm")
    np.testing.assert_array_equal(values.position, [6, 5, 4, 3, 2, 1, 0])
    np.testing.assert_array_equal(values.effort, np.array([6, 5, 4, 3, 2, 1, 0]) + 200)


def test_absent_grippers_are_zero_and_reported_and_missing_fields_are_zero():
    joints = all_joints() | {"left_gripper": None}
    del joints["right_gripper"]
    joints["left_arm"].velocity = []
    frame = robot_frame(PROFILE, dict.fromkeys(PROFILE.cameras, image_message(PICTURE)), joints)
    assert frame.absent == ("left_gripper", "right_gripper")
    np.testing.assert_array_equal(frame.state[[7, 15, 23, 31, 39, 47]], 0)
    np.testing.assert_array_equal(frame.state[16:23], 0)
    assert frame.state[32] == 200


def test_a_gripper_command_may_hold_only_an_effort():
    joints = all_joints() | {"left_gripper": JointState(name=["l_joint8"], effort=[-0.25])}
    vector = joint_vector(PROFILE, joints)
    assert (vector[7], vector[39]) == (0, -0.25)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (JointState(name=LEFT[:6], position=[0.0] * 6), "left_arm: joints l_joint7 are missing"),
        (JointState(position=[0.0] * 6), "6 values without names, expected 7"),
        (JointState(name=LEFT, position=[0.0] * 6), "7 names for 6 values"),
        (JointState(name=[*LEFT, "l_joint1"], position=[0.0] * 8), "l_joint1 named more than once"),
        (JointState(name=LEFT, position=[0.0] * 6 + [float("nan")]), "position of l_joint7 is not finite"),
        (JointState(name=LEFT, position=[0.0] * 7, velocity=[float("inf")] * 7), "velocity of l_joint1, .* not finite"),
        (JointState(name=LEFT, position=[0.0] * 7, effort=[0.0] * 3), "3 values of effort, expected 7"),
        (None, "left_arm: no joint message"),
    ],
)
def test_wrong_joints_name_the_arm_and_what_was_found(message, text):
    with pytest.raises(MessageError, match=text):
        joint_vector(PROFILE, all_joints() | {"left_arm": message})


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("rgba8", np.dstack([PICTURE, np.full((6, 8), 255, np.uint8)])),
        ("bgra8", np.dstack([PICTURE[..., ::-1], np.full((6, 8), 255, np.uint8)])),
    ],
)
def test_colour_encodings_give_the_same_picture(encoding, raw, padding):
    np.testing.assert_array_equal(decode_image(image_message(raw, encoding, padding), "head"), PICTURE)


def test_grey_pictures_become_three_equal_channels():
    image = decode_image(image_message(PICTURE[..., :1], "mono8"), "head")
    np.testing.assert_array_equal(image, np.repeat(PICTURE[..., :1], 3, axis=-1))


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0), ("jpeg", 40)])
def test_compressed_images(kind, tolerance):
    smooth = cv2.resize(PICTURE, (64, 48), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(f".{kind}", smooth[..., ::-1])[1].tobytes()
    image = decode_image(CompressedImage(format=kind, data=data), "head")
    assert np.abs(image.astype(int) - smooth).max() <= tolerance


def test_compressed_images_are_not_turned_by_what_their_exif_data_say():
    smooth = cv2.resize(PICTURE, (64, 48), interpolation=cv2.INTER_CUBIC)
    exif, data = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = 3  # by 180 degrees
    PIL.Image.fromarray(smooth).save(data, "JPEG", quality=95, exif=exif)
    image = decode_image(CompressedImage(format="jpeg", data=data.getvalue()), "head")
    assert np.abs(image.astype(int) - smooth).mean() < 10


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Image(), "head: the image is empty"),
        (Image(height=6, width=8, step=24, encoding="rgb8", data=b"123"), "3 bytes of data, 6 rows of 24 bytes"),
        (image_message(PICTURE, "purple8"), "cannot decode 'purple8'"),
        (CompressedImage(format="jpeg", data=b"not a jpeg"), "head: "),
        (image_message(PICTURE, "8UC3"), "cannot decode '8UC3', which does not name its colours.* rgb8"),
        (image_message(np.zeros((9, 8, 1), np.uint8), "nv12"), "cannot decode 'nv12'"),
    ],
)
def test_wrong_images_name_the_camera_and_what_was_found(message, text):
    with pytest.raises(MessageError, match=text):
        decode_image(message, "head")


def test_a_missing_camera_is_named():
    images = {key: image_message(PICTURE) for key in PROFILE.cameras} | {"left_color": None}
    with pytest.raises(MessageError, match="no image of left_color"):
        robot_frame(PROFILE, images, all_joints())


def test_stamps_are_kept_per_input():
    joints = all_joints()
    joints["left_arm"].header.stamp.sec, joints["left_arm"].header.stamp.nanosec = 3, 7
    frame = robot_frame(PROFILE, {key: image_message(PICTURE) for key in PROFILE.cameras}, joints)
    assert frame.stamps_ns["left_arm"] == 3_000_000_007
    assert set(frame.stamps_ns) == {*PROFILE.cameras, *joints}


def test_messages_need_not_be_ros_messages():
    stamp = Fields(header=Fields(stamp=Fields(sec=1, nanosec=0)))
    picture = Fields(
        **vars(stamp), height=6, width=8, step=24, encoding="rgb8", is_bigendian=0, data=PICTURE.reshape(-1)
    )
    joints = {
        part: Fields(**vars(stamp), name=m.name, position=m.position, velocity=m.velocity, effort=m.effort)
        for part, m in all_joints().items()
    }
    frame = robot_frame(PROFILE, dict.fromkeys(PROFILE.cameras, picture), joints)
    np.testing.assert_array_equal(frame.images["head_camera"], PICTURE)
    assert frame.stamps_ns["head_camera"] == 10**9


def test_a_cv_bridge_that_crashes_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "cv_bridge.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    image_backend.cache_clear()
    assert image_backend() == "rosbags-image"
    image_backend.cache_clear()


def test_a_cv_bridge_that_works_is_used(tmp_path, monkeypatch):
    (tmp_path / "cv_bridge.py").write_text(
        "import numpy as np\n"
        "class CvBridge:\n"
        "    def imgmsg_to_cv2(self, message, encoding):\n"
        "        picture = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)\n"
        "        return picture[..., ::-1] if message.encoding == 'bgr8' else picture\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    image_backend.cache_clear()
    assert image_backend() == "cv_bridge"
    image_backend.cache_clear()
