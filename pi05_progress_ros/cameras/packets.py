"""A camera that sends packets of a video codec: all are decoded, in order, in a thread of the camera's own.

Threads: ``push``, ``lost`` and ``close`` are called by the executor's, which fills the queue under a lock; the decoder
belongs to the other one. Decoding does not hold Python's lock.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import stamp_ns
from pi05_progress.robots.video_packets import Box, PacketDecoder, VideoPicture

from ..inputs import Inputs, News
from .subscription import PacketSubscription

QUEUE = 150  # packets, five seconds of them, that may wait to be decoded


@dataclass(frozen=True)
class Report:
    """What is wrong with what brings packets; see ``PacketStream.report``."""

    why: str = ""
    problems: Mapping[str, int] = field(default_factory=dict)


class PacketStream:
    """Packets in, the newest picture among the inputs. No ROS is needed here.

    Args:
        name: of the stream.
        topic: for messages to people.
        inputs: where pictures are stored.
        tiles: per input that is stored, its part of a picture; all of it as the stream's own, if not given.
        arrived: called by the decoding thread when one was.
        logger: for what goes wrong.
        hardware: see ``PacketDecoder``.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        inputs: Inputs,
        arrived: Callable[[], None],
        logger: RcutilsLogger,
        tiles: Mapping[str, Box] | None = None,
        hardware: str = "",
    ) -> None:
        self._where, self._inputs, self._arrived = f"{name} ({topic})", inputs, arrived
        self._tiles: Mapping[str, Box | None] = tiles or {name: None}
        self._logger, self._news, self._decoder = logger, News(), PacketDecoder(hardware)
        self._packets, self._pictures, self._told = 0, 0, Report()
        self._refused, self._refused_as = "", ""  # why packets are not decoded at present, and how they are counted
        self._reported = Report()
        self._changed = threading.Condition()  # guards the two below
        self._waiting: deque[tuple[Any, int] | str | Report] = (
            deque()
        )  # a message and when it came, or why packets are lost
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"packets of {name}", daemon=True)
        self._thread.start()

    # --- called by the executor's thread ---

    def push(self, message: Any, now_ns: int) -> None:
        """A packet has come; ``now_ns`` is the node's clock, which stands in for a stamp left empty."""
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self._waiting.clear()
                self._waiting.append("packets dropped because decoding does not keep up")
            self._waiting.append(self._refused_as if self._refused else (message, now_ns))
            self._changed.notify_all()

    def refuse(self, why: str, counted: str = "packets of more than one sender") -> None:
        """Decode no packets from now on for this reason, or with "" those from the next key frame on."""
        self._refused, self._refused_as = why, counted

    def lost(self) -> None:
        """Packets have been lost before they came here."""
        self._wait("packets lost on the way")

    def report(self, why: str, problems: Mapping[str, int]) -> None:
        """What is wrong with what brings packets, or "", and how often each of its problems has happened so far."""
        if (report := Report(why, problems)) != self._told:
            self._told = report
            self._wait(report)

    def _wait(self, item: str | Report) -> None:
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread, once it has decoded the present packet."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return
                item = self._waiting.popleft()
            before, refused = self._problems(), ""
            try:
                found = self._decode(item)
            except MessageError as error:
                found, refused = [], str(error)
            except Exception:  # whatever a library raises: the camera lives on and says so
                self._logger.error(f"{self._where}: {traceback.format_exc()}")
                self._decoder.lose("packets that cannot be decoded")
                found = []
            if found:
                self._pictures += 1
                for name, box in self._tiles.items():
                    self._inputs.store(name, VideoPicture(*found[-1], box), item[1])
                self._arrived()
            self._note(refused, before)

    def _problems(self) -> dict[str, int]:
        return {**self._decoder.problems, **self._reported.problems}

    def _decode(self, item: tuple[Any, int] | str | Report) -> list[tuple[int, Any]]:
        if isinstance(item, Report):
            self._reported = item
            return []
        if isinstance(item, str):
            self._decoder.lose(item)
            return []
        message, now_ns = item
        self._packets += 1
        return self._decoder.decode(message, stamp_ns(message) or now_ns)

    def _note(self, refused: str, before: dict[str, int]) -> None:
        """Say what is wrong with the packet just taken, and what has been wrong so far."""
        problems = self._problems()
        why = refused or self._refused or self._reported.why
        why = why or ("the video waits for its next key frame" if self._decoder.waiting else "")
        facts = {"packets": self._packets, "pictures": self._pictures, "encoding": self._decoder.encoding}
        facts["decoder"] = self._decoder.decoder
        for name in self._tiles:
            self._inputs.note(name, why, facts | problems)
        new = list(filter(None, [refused, self._reported.why]))
        counted = [f"{text}, {n} so far" for text, n in problems.items() if n != before.get(text)]
        new += [f"{text}: {why}" if why else text for text in counted]
        if not new and self._news.over():
            self._logger.info(f"{self._where}: the video is sound again")
        for text in self._news.among(new) if new else ():
            self._logger.warning(f"{self._where}: {text}")


class PacketCamera:
    """Subscribes to packets; arguments are those of ``open_cameras``, for one camera."""

    def __init__(
        self, node: Node, key: str, topic: str, kind: type, inputs: Inputs, arrived: Callable[[], None],
        hardware: str = "",
    ) -> None:  # fmt: skip
        self._node, name = node, node.resolve_topic_name(topic)
        inputs.add(key, name, image=True)
        self._number: int | None = None  # by which its sender's middleware counts the newest packet; some do not
        self._broken = False  # whether that count has been broken since the last look at the senders
        self._stream = PacketStream(key, name, inputs, arrived, node.get_logger(), hardware=hardware)
        try:
            self._subscription = PacketSubscription(
                node, kind, topic, self._on_packet, self._on_lost, looked=self._on_look
            )
        except BaseException:
            self._stream.close()
            raise

    def _on_packet(self, message: Any, info: Mapping[str, Any]) -> None:
        number = info.get("publication_sequence_number")
        if number is not None and self._number is not None and number != self._number + 1:
            self._stream.lost()
            self._broken = True
            if len(senders := self._subscription.senders()) > 1:
                self._refuse(senders)
        self._number = number
        self._stream.push(message, self._node.get_clock().now().nanoseconds)

    def _on_lost(self, _: Any) -> None:
        if self._number is None:  # otherwise the count tells it, and where it was
            self._stream.lost()

    def _on_look(self, senders: list[str]) -> None:
        """A sender that was killed is named for some time, but breaks the count only once."""
        mixed = len(senders) > 1 and (self._broken or self._number is None)
        self._broken = False
        self._refuse(senders if mixed else [])

    def _refuse(self, senders: list[str]) -> None:
        text = f"{len(senders)} publishers send its packets ({', '.join(senders)}): stop all but one"
        self._stream.refuse(text if senders else "")

    def close(self) -> None:
        """Listen no more."""
        self._subscription.close()
        self._stream.close()
