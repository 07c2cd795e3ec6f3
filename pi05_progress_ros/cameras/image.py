"""A camera that sends whole pictures, ``Image`` or ``CompressedImage``: the newest is kept, and decoded when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node

from ..inputs import Inputs
from ..parameters import newest_only


class ImageCamera:
    """See the module's docstring; arguments are those of ``open_cameras``, for one camera."""

    def __init__(
        self, node: Node, key: str, topic: str, kind: type, inputs: Inputs, arrived: Callable[[], None]
    ) -> None:
        self._node, self._key, self._inputs, self._arrived = node, key, inputs, arrived
        newest, events = newest_only()
        self._subscription = node.create_subscription(kind, topic, self._on_image, newest, event_callbacks=events)
        inputs.add(key, self._subscription.topic_name, image=True)

    def _on_image(self, message: Any) -> None:
        self._inputs.store(self._key, message, self._node.get_clock().now().nanoseconds)
        self._arrived()

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)
