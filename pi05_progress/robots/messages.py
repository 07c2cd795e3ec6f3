"""Messages -> ``RobotFrame``: the one translation that the live node and the bag converter share.

Messages are duck-typed: their fields are read, ROS is not imported. rclpy's, rosbags' and made-up messages all do.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from ..observation import RobotFrame
from .joints import MessageError, joint_values
from .layout import QUANTITIES
from .profile import CameraProfile, RobotProfile
from .video_packets import VideoPicture

# Encodings that cv_bridge and rosbags-image convert alike. 8UC3 does not say which channel is red; NV12 has two planes.
_COLOURS = re.compile(r"(rgba?|bgra?|mono|bayer_(rggb|bggr|gbrg|grbg))(8|16)|yuv422(_yuy2)?|uyvy|yuyv")
# Run in a process of its own: a cv_bridge built for another NumPy may crash the interpreter instead of raising.
_CV_BRIDGE_TRIAL = """
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import Image
picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
message = Image(height=2, width=4, encoding="bgr8", step=12, data=picture.tobytes())
got = CvBridge().imgmsg_to_cv2(message, "rgb8")
assert (got == picture[..., ::-1]).all()
"""


def stamp_ns(message: Any) -> int:
    """The header's stamp, or a video picture's, ns; 0 if the sender left it empty."""
    if isinstance(message, VideoPicture):
        return message.stamp_ns
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def same_picture(one: Any, other: Any) -> bool:
    """Whether two messages of a camera show the same to the last bit; cheap where they do not."""
    if isinstance(one, VideoPicture) and isinstance(other, VideoPicture):
        return np.array_equal(one.brightness(), other.brightness())
    return not isinstance(one, VideoPicture) and type(one) is type(other) and one.data == other.data


def joint_vector(profile: RobotProfile, joints: Mapping[str, Any | None]) -> np.ndarray:
    """A state or action vector of ``profile.layout``, float32 and without poses, from ``JointState`` messages by the
    names of ``RobotProfile.joint_parts``, as ``left_arm``.

    A gripper that is None or left out is 0; its command may hold only an effort. A ``MessageError``: an arm is missing,
    or a message is wrong.
    """
    layout = profile.layout
    vector = np.zeros((len(QUANTITIES), len(layout.joints)), np.float32)
    for name, columns in layout.arms.items():
        arm = joints.get(f"{name}_arm")
        if arm is None:
            raise MessageError(f"{name}_arm: no joint message; the arms are always needed")
        vector[:, columns] = joint_values(arm, profile.arms[name].joints, f"{name}_arm")
    for name, column in layout.grippers.items():
        gripper = joints.get(f"{name}_gripper")
        if gripper is not None:
            required = "position" if len(gripper.position) else "effort"
            values = joint_values(gripper, [profile.grippers[name].joint], f"{name}_gripper", required)
            vector[:, column] = np.concatenate(values)
    return vector.reshape(-1)


def prepare_image(image: np.ndarray, camera: CameraProfile) -> np.ndarray:
    """The part of one camera's raw picture (h, w, 3) that the model gets, turned by 180 degrees if need be; a view."""
    if camera.turned:
        image = image[::-1, ::-1]
    return one_eye(image, camera.eye) if camera.eye else image


def one_eye(image: np.ndarray, eye: Literal["left", "right"]) -> np.ndarray:
    """One eye of a stereo picture, known by being at least twice as wide as high; others come back as they are."""
    height, width = image.shape[:2]
    if width < 2 * height:
        return image
    return image[:, : width // 2] if eye == "left" else image[:, width - width // 2 :]


@functools.cache
def image_backend() -> str:
    """``cv_bridge`` where it is installed and a trial conversion succeeds, else ``rosbags-image``."""
    try:
        trial = subprocess.run([sys.executable, "-c", _CV_BRIDGE_TRIAL], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "rosbags-image"
    return "cv_bridge" if trial.returncode == 0 else "rosbags-image"


@functools.cache
def _converter(backend: str) -> Callable[[Any], np.ndarray]:
    if backend == "cv_bridge":
        from cv_bridge import CvBridge

        bridge = CvBridge()

        return lambda message: bridge.imgmsg_to_cv2(message, "rgb8")
    from rosbags.image import image_to_cvimage

    return lambda message: image_to_cvimage(_without_row_padding(message), "rgb8")


def _decompressed(message: Any) -> np.ndarray | None:
    """A ``CompressedImage``'s picture as it was sent: like image_transport, without turning it as its EXIF data say."""
    import cv2

    image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _without_row_padding(message: Any) -> Any:
    """The image with rows that follow each other at once: rosbags-image 0.10 takes no notice of ``step``."""
    from rosbags.image.image import to_cvtype

    bits, _, _, channels = to_cvtype(message.encoding)
    row = message.width * channels * bits // 8
    if not 0 < row < message.step:
        return message
    rows = np.frombuffer(message.data, np.uint8)[: message.height * message.step].reshape(message.height, message.step)
    kept = {name: getattr(message, name) for name in ("height", "width", "encoding", "is_bigendian")}
    return SimpleNamespace(data=rows[:, :row].tobytes(), **kept)


def decode_image(message: Any, what: str) -> np.ndarray:
    """uint8 (h, w, 3) RGB from an ``Image`` of any usual encoding, a ``CompressedImage`` or a ``VideoPicture``; a
    ``MessageError`` if it is empty, damaged, or of an encoding that has no colours to give."""
    if isinstance(message, VideoPicture):
        return message.rgb()
    raw = hasattr(message, "height")
    if not len(message.data) or (raw and not message.height * message.width):
        raise MessageError(f"{what}: the image is empty")
    if raw and len(message.data) < message.height * message.step:
        expected = f"{message.height} rows of {message.step} bytes expected"
        raise MessageError(f"{what}: {len(message.data)} bytes of data, {expected}")
    if raw and not _COLOURS.fullmatch(message.encoding):
        raise MessageError(
            f"{what}: cannot decode {message.encoding!r}, which does not name its colours, or names them as not every "
            "reader does; have the driver publish rgb8, bgr8, mono8, a Bayer pattern or yuv422"
        )
    try:
        image = _converter(image_backend())(message) if raw else _decompressed(message)
    except Exception as error:  # decoders raise whatever their library raises
        kind = getattr(message, "format", None) or getattr(message, "encoding", "")
        raise MessageError(f"{what}: cannot decode {kind!r}: {error}") from error
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = "nothing" if image is None else f"{image.dtype}{list(image.shape)}"
        raise MessageError(f"{what}: decoded to {found}, expected uint8 (h, w, 3)")
    return image


def robot_frame(
    profile: RobotProfile, images: Mapping[str, Any], joints: Mapping[str, Any | None], taken_ns: int | None = None
) -> RobotFrame:
    """What the robot sensed, from the newest message of each input; a ``MessageError`` names one missing or wrong.

    Images, per camera key, are messages, pictures of a video, or RGB arrays (h, w, 3), of which ``taken_ns`` says when
    they were taken, where that is known. ``joints`` as of ``joint_vector``.
    """
    if missing := [key for key in profile.cameras if images.get(key) is None]:
        raise MessageError(f"no image of {', '.join(missing)}")
    pictures, stamps = {}, {}
    for key, camera in profile.cameras.items():
        source = images[key]
        if not isinstance(source, np.ndarray):
            stamps[key] = stamp_ns(source) - round(camera.delay_s * 1e9)
            source = decode_image(source, key)
        elif taken_ns is not None:
            stamps[key] = taken_ns
        pictures[key] = prepare_image(source, camera)
    state = joint_vector(profile, joints)
    present = {part: joints.get(part) for part in profile.joint_parts()}
    stamps |= {part: stamp_ns(message) for part, message in present.items() if message is not None}
    absent = tuple(part for part, message in present.items() if message is None)
    return RobotFrame(pictures, state, stamps, absent)
