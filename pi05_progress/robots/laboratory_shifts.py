"""Named changes of a laboratory, one table for the simulated robot and for recorded pictures.

A shift says what is different where a policy is tried from where it was trained. The simulator shows all of it; of
recorded pictures only what a change of the picture itself can express (``Shift.in_pictures``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UserError
from ..observation import IMAGE_KEYS, RobotFrame
from .profile import RobotProfile

Colour = tuple[float, float, float]  # red, green, blue
WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
HEAD, LEFT, RIGHT = IMAGE_KEYS
WRISTS = (LEFT, RIGHT)
PIXELS = 112  # across the picture in which shifts of so many pixels are counted


@dataclass(frozen=True)
class PictureChange:
    """What happens to a camera's picture after the light has come in."""

    gain: Colour = WHITE  # of its colours; all 0 is a covered lens
    moved: float = 0.0  # to the right, as a share of its width; the edge is repeated

    def of(self, image: np.ndarray) -> np.ndarray:
        """The changed picture, uint8 (h, w, 3); the given one where nothing changes."""
        if self.gain != WHITE:
            levels = np.clip(np.rint(np.arange(256)[:, None] * np.array(self.gain)), 0, 255).astype(np.uint8)
            image = np.stack([levels[image[..., i], i] for i in range(3)], axis=-1)
        if pixels := round(self.moved * image.shape[1]):
            width = image.shape[1]
            image = np.ascontiguousarray(image[:, np.clip(np.arange(width) - pixels, 0, width - 1)])
        return image


UNCHANGED = PictureChange()


@dataclass(frozen=True)
class Shift:
    """What is different. Cameras are called by the model's inputs; in which direction they are moved, the seed says."""

    light: float = 1.0  # factor of all light
    table: Colour | None = None  # another colour of the table
    object_scale: float = 1.0  # of the sizes of objects
    lens: float = 1.0  # factor of all cameras' fields of view
    poses: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by camera, moved m and turned degrees
    pictures: Mapping[str, PictureChange] = field(default_factory=dict)  # by camera

    @property
    def in_pictures(self) -> bool:
        """Whether recorded pictures can show it: more light is a longer exposure, the rest needs the scene."""
        return replace(self, light=1.0, pictures={}) == Shift()

    def of(self, frame: RobotFrame, profile: RobotProfile) -> RobotFrame:
        """A recorded frame as it would look."""
        images = dict(frame.images)
        for key in images:
            change = self.pictures.get(profile.cameras[key].model_input, UNCHANGED)
            images[key] = replace(change, gain=tuple(self.light * gain for gain in change.gain)).of(images[key])
        return replace(frame, images=images)


LIGHT = 1.25
WRIST_POSE = dict.fromkeys(WRISTS, (0.005, 3.0))
HEAD_POSE = {HEAD: (0.02, 2.0)}
TABLE, BLUE_TABLE = (0.62, 0.55, 0.46), (0.52, 0.58, 0.62)  # another wood, and no wood
SMALLER = 0.9
COVERED = PictureChange(gain=BLACK)

SHIFTS: dict[str, Shift] = {
    "none": Shift(),
    "light": Shift(light=LIGHT),
    "wrist_camera": Shift(poses=WRIST_POSE),
    "head_camera": Shift(poses=HEAD_POSE),
    "table": Shift(table=TABLE),
    "objects": Shift(object_scale=SMALLER),
    "mild": Shift(light=LIGHT, poses=WRIST_POSE | HEAD_POSE, table=TABLE, object_scale=SMALLER),
    "blue_table": Shift(table=BLUE_TABLE),
    "lens": Shift(lens=1.05),
    "dim": Shift(pictures=dict.fromkeys(IMAGE_KEYS, PictureChange(gain=(0.7, 0.7, 0.7)))),
    "warm": Shift(pictures=dict.fromkeys(IMAGE_KEYS, PictureChange(gain=(1.15, 1.0, 0.8)))),
    "left_black": Shift(pictures={LEFT: COVERED}),
    "right_black": Shift(pictures={RIGHT: COVERED}),
    "head_black": Shift(pictures={HEAD: COVERED}),
    **{f"wrist_px{n}": Shift(pictures=dict.fromkeys(WRISTS, PictureChange(moved=n / PIXELS))) for n in (2, 5, 10)},
}


def named_shift(name: str) -> Shift:
    """The shift of a name; a ``UserError`` if none is called so."""
    if name not in SHIFTS:
        raise UserError(f"unknown shift {name!r}; known shifts: {', '.join(SHIFTS)}")
    return SHIFTS[name]


def recorded_shift(name: str) -> Shift:
    """The shift of a name; a ``UserError`` if it is none that recorded pictures can show."""
    if not (shift := named_shift(name)).in_pictures:
        known = ", ".join(key for key, shift in SHIFTS.items() if shift.in_pictures)
        raise UserError(
            f"shift {name} changes the scene, which recorded pictures cannot show; they can show {known}. Record it "
            f"anew: pi05_progress_ros.sim.generate --shift {name}"
        )
    return shift
