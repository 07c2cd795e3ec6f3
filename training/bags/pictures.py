"""One camera's pictures at the times of frames: the nearest one each, as it is stored: cropped, turned, resized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from pi05_progress.robots.joints import MessageError
from pi05_progress.robots.messages import decode_image, prepare_image
from pi05_progress.robots.video_packets import PacketDecoder, crop, frame_to_rgb
from pi05_progress.units.transforms import resize_with_pad

from .inputs import Source
from .message_types import Stored
from .options import Options
from .samples import GapError, Grid, NotYetError, Track


class Pictures:
    """The pictures of one camera, stored at a size (height, width); used by one thread."""

    def __init__(
        self,
        source: Source,
        options: Options,
        grid: Grid,
        deserialize: Callable[[Stored], Any],
        size: tuple[int, int],
    ) -> None:
        self._source, self._options, self._grid = source, options, grid
        self._deserialize, self._size = deserialize, size
        self.count, self._refused = grid.count, 0
        self._half_ns = round(0.5e9 / grid.fps)
        self._decoder = PacketDecoder() if source.kind == "packets" else None
        self.track: Track[Any, np.ndarray] = Track(self._parse)

    def frames(self, messages: Iterable[tuple[int, Stored]]) -> Iterator[np.ndarray]:
        """One picture (h, w, 3) per frame of the grid, in order, from messages with stamps; else a ``GapError``."""
        index = 0
        for stamp_ns, message in messages:
            self._push(stamp_ns, message)
            while index < self._grid.count and self.track.ready(self._grid.time_ns(index)):
                try:
                    picture = self._choose(index)
                except NotYetError:
                    break
                yield picture
                index += 1
        if self._decoder is not None:
            for stamp_ns, frame in self._decoder.flush():
                self.track.push(stamp_ns, frame)
            self._note_decoder()
        self.track.closed = True
        for rest in range(index, self._grid.count):
            yield self._choose(rest)

    def _push(self, stamp_ns: int, message: Stored) -> None:
        if self._decoder is None:
            self.track.push(stamp_ns, message)
            return
        try:
            for stamp, frame in self._decoder.decode(self._deserialize(message), stamp_ns):
                self.track.push(stamp, frame)
        except MessageError as error:
            self._bad(str(error))
            self._refused += 1
        self._note_decoder()

    def _note_decoder(self) -> None:
        for why in self._decoder.problems:
            self._bad(f"{self._source.name}: {why}")
        self.track.counts.bad = self._refused + sum(self._decoder.problems.values())

    def _bad(self, why: str) -> None:
        self.track.counts.first_problem = self.track.counts.first_problem or why

    def _choose(self, index: int) -> np.ndarray:
        time_ns = self._grid.time_ns(index)
        chosen, before, after = self.track.nearest(time_ns)
        why = self.track.counts.first_problem
        if after is None and not self.track.closed and (chosen is None or time_ns - chosen.stamp > self._half_ns):
            raise NotYetError
        if chosen is None:
            raise GapError(self._source.name, None, None, why)
        if abs(chosen.stamp - time_ns) > self._half_ns:
            ends = (before and before.stamp, after and after.stamp)
            silence = abs(chosen.stamp - time_ns) if None in ends else ends[1] - ends[0]
            if silence > self._options.max_gap_ns:
                raise GapError(self._source.name, *ends, why)
            self.track.counts.held += 1
        self.track.note_use(chosen, time_ns)
        return chosen.value

    def _parse(self, raw: Any) -> np.ndarray:
        if self._decoder is not None:
            image = crop(frame_to_rgb(raw), self._source.box)
        else:
            image = decode_image(self._deserialize(raw), f"{self._source.name} ({self._source.topic})")
        image = prepare_image(image, self._options.profile.cameras[self._source.name])
        if self._options.image_size:
            return resize_with_pad(image, *self._size)
        if image.shape[:2] != self._size:
            raise MessageError(
                f"{self._source.name}: a picture is {image.shape[1]}x{image.shape[0]}, the data set's are "
                f"{self._size[1]}x{self._size[0]}; --image-size brings all to one size"
            )
        return image
