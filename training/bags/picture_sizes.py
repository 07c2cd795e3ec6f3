"""How large each camera's pictures are, from the first of them that is sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.profile import RobotProfile

from .faults import BagError
from .inputs import Source
from .reading import Bag, Stored


class PictureSizes:
    """Sizes of pictures, cropped and turned as the profile says.

    Args:
        bag: the recording, open.
        profile: of its cameras.

    Attributes:
        sizes: (height, width) by camera, of those of which a picture was read.
    """

    def __init__(self, bag: Bag, profile: RobotProfile) -> None:
        self._bag, self._profile = bag, profile
        self.sizes: dict[str, tuple[int, int]] = {}

    def find(self, cameras: Mapping[str, Source]) -> None:
        """Look for a sound picture of these cameras, by topic, whose messages are whole pictures."""
        waiting = set(cameras)
        while waiting:  # those that are found leave, so that the others' search reads no more of theirs
            for message in self._bag.messages(waiting):
                if self.read(cameras[message.topic], message) is not None:
                    waiting.discard(message.topic)
                    break
            else:
                return

    def read(self, source: Source, message: Stored) -> Any | None:
        """The message of a camera, None if it is damaged; its size is kept if it is the first.

        Raises:
            BagError: no message of the topic can be read, as its type is unknown.
        """
        try:
            picture = self._bag.deserialize(message)
            if source.name not in self.sizes:
                self.sizes[source.name] = self._size(source, picture)
        except MessageError:
            return None  # the second pass passes over it and says so
        except BagError:
            if self._bag.topics[source.topic].type in self._bag.type_problems:
                raise
            return None
        return picture

    def _size(self, source: Source, message: object) -> tuple[int, int]:
        if source.kind == "compressed":
            height, width = decode_image(message, source.name).shape[:2]
        else:
            height, width = int(message.height), int(message.width)
        if height <= 0 or width <= 0:
            raise MessageError(f"{source.name}: the picture is {width}x{height}")
        camera = self._profile.cameras[source.name]
        whole = np.broadcast_to(np.uint8(0), (height, width, 3))  # no memory: only its size is looked at
        return prepare_image(whole, camera).shape[:2]
