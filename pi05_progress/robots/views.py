"""Which part of a camera's picture the model gets: crops of a stream, one eye of a stereo picture, turned pictures."""

from __future__ import annotations

from typing import Literal

import numpy as np


def crop(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """A view of the part of a picture (h, w, 3) within ``box``: fractions (left, top, right, bottom)."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    rows = slice(round(top * height), round(bottom * height))
    return image[rows, round(left * width) : round(right * width)]


def one_eye(image: np.ndarray, eye: Literal["left", "right"]) -> np.ndarray:
    """One eye of a stereo picture, known by being at least twice as wide as high; others come back as they are."""
    height, width = image.shape[:2]
    if width < 2 * height:
        return image
    return image[:, : width // 2] if eye == "left" else image[:, width - width // 2 :]


def turned(image: np.ndarray) -> np.ndarray:
    """A view of the picture turned by 180 degrees."""
    return image[::-1, ::-1]
