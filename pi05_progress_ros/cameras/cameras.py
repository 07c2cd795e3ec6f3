"""The cameras of a profile as subscriptions that store their newest pictures among the inputs."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import PACKET_TYPE, RobotProfile

from ..inputs import Inputs
from .image import ImageCamera
from .message_class import message_class
from .packets import PacketCamera
from .stream import StreamCamera

Camera = ImageCamera | PacketCamera | StreamCamera


def check_cameras(profile: RobotProfile, hardware: str = "") -> None:
    """Whether pictures of these cameras can be had here, their video decoded by this hardware, if any is named.

    Raises:
        UserError: not of one of them; it is named, with what is missing.
    """
    for key, camera in profile.cameras.items():
        topic, kind = camera.source
        if topic is None:
            topic, kind = "stream", PACKET_TYPE
            if profile.stream.codec != "hevc":
                raise UserError(f"camera {key}: a stream of {profile.stream.codec} is not understood, only one of hevc")
        try:
            message_class(kind)
            if kind == PACKET_TYPE:
                from av.codec.hwaccel import HWDeviceType

                if hardware and hardware not in HWDeviceType.__members__:
                    known = ", ".join(name for name in HWDeviceType.__members__ if name != "none")
                    raise UserError(f"parameter hardware_decoding: PyAV knows no {hardware!r}, but {known}")
        except UserError as error:
            raise UserError(f"camera {key} ({topic}): {error}") from error
        except ImportError as error:
            text = f"its packets are decoded by PyAV, which cannot be imported ({error}): pip install av"
            raise UserError(f"camera {key} ({topic}): {text}") from error


def open_cameras(
    node: Node, profile: RobotProfile, inputs: Inputs, arrived: Callable[[], None], stream_port: int = 0,
    hardware: str = "",
) -> list[Camera]:  # fmt: skip
    """Subscribe to all cameras; ``arrived`` is called, by any thread, when one has a new picture.

    Where they come in one stream, it is received at ``stream_port``; 0: at the profile's. Video is decoded by
    ``hardware`` where that is there, see ``PacketDecoder``.
    """
    cameras: list[Camera] = []
    try:
        for key, camera in profile.cameras.items():
            topic, kind = camera.source
            if topic is None:
                if not any(isinstance(made, StreamCamera) for made in cameras):
                    cameras.append(StreamCamera(node, profile, stream_port, inputs, arrived, hardware))
                continue
            given = (node, key, topic, message_class(kind), inputs, arrived)
            cameras.append(PacketCamera(*given, hardware) if kind == PACKET_TYPE else ImageCamera(*given))
    except BaseException:
        for made in cameras:
            made.close()
        raise
    return cameras
