"""All cameras in one H.265 stream over RTP: received at a UDP port in a thread of its own, decoded like packets.

What comes is published as ``FFMPEGPacket``, too, one an access unit: recorders see that instead of the stream.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from pi05_progress.errors import UserError
from pi05_progress.robots.profile import PACKET_TYPE, RobotProfile
from pi05_progress.robots.video_packets import is_key_packet, video_size

from ..inputs import Inputs
from .message_class import message_class
from .packets import QUEUE, PacketStream
from .rtp import AccessUnit, Depacketizer

BUFFER = 4 * 2**20  # bytes that the system may hold; it gives net.core.rmem_max at most
TIMESTAMPS = 35  # Linux's SO_TIMESTAMPNS, which Python does not name: the system tells when a datagram came
_TIMESPEC = struct.Struct("@qq")  # s and ns since 1970
WAIT_S = 0.02  # for a datagram, at most
SILENT_S = 2.0  # until it is told that nothing arrives
REPORT_S = 0.5  # between looks at what went wrong
SHAPE = 0.02  # by which the shape of frames may differ from the profile's, for rounding


class StreamCamera:
    """See the module's docstring; arguments are those of ``open_cameras``.

    Raises:
        UserError: the port cannot be opened.
    """

    def __init__(
        self, node: Node, profile: RobotProfile, port: int, inputs: Inputs, arrived: Callable[[], None],
        hardware: str = "",
    ) -> None:  # fmt: skip
        stream = profile.stream
        self._node, self._port = node, port or stream.port
        self._size, self._sized = stream.size, False  # of frames, and whether a key frame has told it
        self._shape = stream.size[0] / stream.size[1]
        where = f"UDP port {self._port}"
        tiles = {key: stream.tiles[camera.tile] for key, camera in profile.cameras.items() if camera.topic is None}
        for key in tiles:
            inputs.add(key, where, image=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        with contextlib.suppress(OSError):  # another system: pictures are stamped when they are taken from the socket
            self._socket.setsockopt(socket.SOL_SOCKET, TIMESTAMPS, 1)
        self._socket.settimeout(WAIT_S)
        try:
            self._socket.bind(("", self._port))
        except OSError as error:
            self._socket.close()
            text = f"parameter stream_port: {where} cannot be opened ({error.strerror}): does another program use it?"
            raise UserError(text) from error
        self._message = message_class(PACKET_TYPE)
        qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = node.create_publisher(self._message, stream.topic, qos)
        self._depacketizer, self._number = Depacketizer(stream.payload_type), 0  # of the newest access unit
        self._problems: dict[str, int] = {}  # as they were at the last look
        self._stream = PacketStream("stream", where, inputs, arrived, node.get_logger(), tiles, hardware)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="RTP", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began_s, reported_s = time.monotonic(), 0.0
        while not self._ended.is_set():
            try:
                datagram, told, _, sender = self._socket.recvmsg(2**16, 64)
                now_ns, waited_ns = self._node.get_clock().now().nanoseconds, _waited_ns(told)
                came_s = time.monotonic() - waited_ns * 1e-9
                units = self._depacketizer.push(datagram, sender, came_s, now_ns - waited_ns)
            except TimeoutError:
                units = self._depacketizer.take(time.monotonic())
            for unit in units:
                self._hand_on(unit)
            now_s = time.monotonic()
            if now_s - reported_s > REPORT_S:
                reported_s = now_s
                self._stream.report(self._problem(now_s - max(began_s, self._depacketizer.heard_s)), self._problems)

    def _problem(self, silent_s: float) -> str:
        """What is wrong with what arrives; empty if nothing is."""
        before, self._problems = self._problems, dict(self._depacketizer.problems)
        refused, self._depacketizer.refused = self._depacketizer.refused, None
        if refused is not None:
            return (
                f"{refused[0]}:{refused[1]} sends here, too, and is refused: let one robot send; if this one's address "
                "has changed, restart the node"
            )
        if silent_s < SILENT_S:
            return ""
        if strange := [text for text, count in self._problems.items() if count != before.get(text)]:
            return f"nothing arrives but {', '.join(strange)}"
        return (
            f"nothing arrives: does the robot send to this computer, whose firewall must let UDP {self._port} through?"
        )

    def _hand_on(self, unit: AccessUnit) -> None:
        message = self._message(encoding="hevc", pts=unit.number, data=array.array("B", unit.data))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(unit.arrived_ns, 10**9)
        message.header.frame_id, message.flags = "stream", int(is_key_packet(message))
        if message.flags and (size := video_size(unit.data)):
            self._size, self._sized = size, True
            wrong = abs(size[0] / size[1] / self._shape - 1) > SHAPE
            text = f"frames are {size[0]}x{size[1]}, not of the shape that the profile's tiles are cut from"
            self._stream.refuse(text if wrong else "", "frames of another shape")
        elif message.flags and not self._sized:
            text = "its key frames come without parameter sets: let the encoder repeat them before each"
            self._stream.refuse(text, "packets without parameter sets")
        message.width, message.height = self._size
        if self._sized:
            self._publisher.publish(message)
        if self._number and unit.number != self._number + 1:
            self._stream.lost()
        self._number = unit.number
        self._stream.push(message, 0)

    def close(self) -> None:
        """Receive no more."""
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self._stream.close()
        self._node.destroy_publisher(self._publisher)


def _waited_ns(told: list[tuple[int, int, bytes]]) -> int:
    """How long a datagram waited in its socket, as the system tells beside it: long, if this process stood still."""
    for level, kind, data in told:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, TIMESTAMPS, _TIMESPEC.size):
            s, ns = _TIMESPEC.unpack(data)
            return max(0, time.time_ns() - s * 10**9 - ns)
    return 0
