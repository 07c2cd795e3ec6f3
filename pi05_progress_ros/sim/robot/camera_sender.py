"""A simulated camera's frames as its profile says they are sent: whole, compressed, or as packets of a video codec."""

from __future__ import annotations

import array
import random
import socket
import threading
from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import cv2
import mujoco
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import (
    COMPRESSED_TYPE,
    IMAGE_TYPE,
    PACKET_TYPE,
    CameraProfile,
    RobotProfile,
    StreamProfile,
)
from pi05_progress.robots.video_packets import crop

from ...cameras.message_class import message_class
from ...cameras.rtp import packetize
from ..physics.cameras import CameraRig, scaled_sizes
from .states import IMAGE_HZ

PACKET_QUEUE = 60  # packets, two seconds of them, that wait for a subscriber
# Constant quality and no frame that waits for another, as little work as the codec allows, one thread.
ENCODER = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"}
X265 = "log-level=none:keyint={0}:min-keyint={0}:scenecut=0:bframes=0:repeat-headers=1:pools=none:frame-threads=1"


class CameraSender:
    """Publishes one camera's frames as its profile says, by ``publisher`` or by one that the node, or a bag, makes.

    Compressed frames have a ``jpeg_quality`` of 1 to 100.

    Raises:
        UserError: the package of its messages is not installed.
    """

    def __init__(
        self, node: Node, key: str, camera: CameraProfile, jpeg_quality: int = 90, publisher: Any = None
    ) -> None:
        topic, kind = camera.source
        make = {COMPRESSED_TYPE: self._compressed, PACKET_TYPE: self._packet}.get(kind, self._whole)
        self._key, self._camera, self._make, self._kind = key, camera, make, message_class(kind)
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        self._encoder: Any = None
        self._count = 0
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        if kind == PACKET_TYPE:
            qos = QoSProfile(depth=PACKET_QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = publisher or node.create_publisher(self._kind, topic, qos)

    def publish(self, frame: np.ndarray, stamp: Time) -> None:
        """Send one raw frame, uint8 (h, w, 3) RGB."""
        message = self._make(np.ascontiguousarray(frame))
        message.header.stamp, message.header.frame_id = stamp, self._key
        self._publisher.publish(message)

    def _whole(self, frame: np.ndarray) -> Image:
        height, width, _ = frame.shape
        return Image(height=height, width=width, encoding="rgb8", step=width * 3, data=_bytes(frame.data.cast("B")))

    def _compressed(self, frame: np.ndarray) -> CompressedImage:
        data = cv2.imencode(".jpg", frame[..., ::-1], self._quality)[1].tobytes()
        return CompressedImage(format="rgb8; jpeg compressed bgr8", data=_bytes(data))

    def _packet(self, frame: np.ndarray) -> Any:
        height, width, _ = frame.shape
        if self._encoder is None:
            self._encoder = _encoder(width, height, round(self._camera.rate_hz))
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = self._count
        (packet,) = self._encoder.encode(picture)
        self._count += 1
        return self._kind(
            width=width, height=height, encoding="hevc", pts=packet.pts, flags=int(packet.is_keyframe),
            data=_bytes(bytes(packet)),
        )  # fmt: skip


class CameraSenders:
    """Publishes the frames of all cameras of a robot, each by itself or tiled into its stream.

    Args:
        node: see ``CameraSender``.
        profile: the robot.
        scale: share of the real cameras' resolution.
        jpeg_quality: see ``CameraSender``.
        transport: of ``Image`` topics, instead of the profile's.
        port: where to on this machine a stream is sent by RTP; 0: its packets are published, as its receiver does.
    """

    def __init__(
        self, node: Node, profile: RobotProfile, scale: float, jpeg_quality: int = 90, port: int = 0,
        transport: str | None = None,
    ) -> None:  # fmt: skip
        self._profile, self._stream = profile, None
        if stream := profile.stream:
            # Tiles are narrower than what the default cameras see, the head's by half: at twice the size none is.
            self._size = tuple(2 * round(n * min(1.0, 2 * scale) / 2) for n in stream.size)
            one = next(iter(profile.cameras.values()))
            camera = one.model_copy(update={"topic": stream.topic, "type": PACKET_TYPE, "rate_hz": IMAGE_HZ})
            rtp = RtpPublisher(port, stream) if port else None
            self._stream = CameraSender(node, "stream", camera, publisher=rtp)
            return
        self._senders = {}
        for key, camera in profile.cameras.items():
            if transport and camera.type == IMAGE_TYPE:
                camera = camera.model_copy(update={"transport": transport})
            self._senders[key] = CameraSender(node, key, camera, jpeg_quality)

    def publish(self, frames: Mapping[str, np.ndarray], stamp: Time) -> None:
        """Send one frame of every camera, as ``CameraRig`` renders them."""
        if self._stream is not None:
            self._stream.publish(self._tiled(frames), stamp)
            return
        for key, frame in frames.items():
            self._senders[key].publish(frame, stamp)

    def _tiled(self, frames: Mapping[str, np.ndarray]) -> np.ndarray:
        width, height = self._size
        whole = np.zeros((height, width, 3), np.uint8)
        for key, camera in self._profile.cameras.items():
            part = crop(whole, self._profile.stream.tiles[camera.tile])
            part[:] = cv2.resize(frames[key], part.shape[1::-1], interpolation=cv2.INTER_AREA)
        return whole


class RtpPublisher:
    """Sends packets to a UDP port of this machine, as the robot sends its stream to another one."""

    def __init__(self, port: int, stream: StreamProfile) -> None:
        self._to, self._stream = ("127.0.0.1", port), stream
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ssrc, self._sequence = random.getrandbits(32), random.getrandbits(16)

    def publish(self, message: Any) -> None:
        """Send one access unit."""
        timestamp = round(message.pts * self._stream.clock_rate_hz / IMAGE_HZ)
        data, kind = message.data.tobytes(), self._stream.payload_type
        datagrams = packetize(data, self._sequence, timestamp, self._ssrc, kind)
        self._sequence += len(datagrams)
        for datagram in datagrams:
            self._socket.sendto(datagram, self._to)


def _encoder(width: int, height: int, rate_hz: int) -> Any:
    """H.265 with a key frame every second.

    Raises:
        UserError: pictures are too small for it.
    """
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, rate_hz), rate_hz
    encoder.options = ENCODER | {"x265-params": X265.format(rate_hz)}
    try:
        encoder.open()
    except av.error.FFmpegError as error:
        raise UserError(f"{width}x{height} pixels cannot be coded as H.265 ({error}): raise image_scale") from error
    return encoder


def _bytes(data: bytes | memoryview) -> array.array:
    """As message fields take them without a copy per byte."""
    made = array.array("B")
    made.frombytes(data)
    return made


class ImagePublisher:
    """A thread that renders snapshots of the world and publishes them, so that physics and states keep their rates.

    Of those that wait the newest two are kept, so that a late one is no gap.
    """

    def __init__(self, model: mujoco.MjModel, profile: RobotProfile, scale: float, senders: CameraSenders) -> None:
        self._model, self._profile, self._senders = model, profile, senders
        self._sizes = scaled_sizes(scale)
        self._changed = threading.Condition()  # guards the three below
        self._waiting: deque[tuple[Time, np.ndarray]] = deque(maxlen=2)
        self._busy = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="cameras")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, stamp: Time, snapshot: np.ndarray) -> None:
        """Have this state rendered next."""
        with self._changed:
            self._waiting.append((stamp, snapshot))
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until all that was offered is published; False if that took too long or the thread has ended."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._ended or not (self._busy or self._waiting), timeout_s)
            return done and not self._ended

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        rig = CameraRig(self._model, self._sizes, self._profile)
        try:
            while True:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._ended or self._waiting)
                    if self._ended:
                        return
                    (stamp, snapshot), self._busy = self._waiting.popleft(), True
                self._senders.publish(rig.render(snapshot), stamp)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            rig.close()
