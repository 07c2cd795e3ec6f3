"""How late a camera's stamps are: when its pictures move, compared with when the arm did. No ROS in here."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pi05_progress.errors import UserError

LAGS_S = np.arange(-0.2, 1.0 + 1e-9, 0.005)
SIZE = (80, 60)  # to which pictures are reduced: noise goes, movement stays
MIN_PICTURES = 60
MIN_PATH_RAD = 0.5  # that the arm's joints have to go together
MIN_CORRELATION = 0.5
PEAK_S, RIVAL = 0.15, 0.9  # another delay, farther away than this, that explains the pictures as well


def reduced(picture: np.ndarray) -> np.ndarray:
    """Brightness, float32, of a picture (h, w, 3), small."""
    return cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA).mean(axis=2, dtype=np.float32)


def estimate_delay(
    stamps_s: Sequence[float], motion: Sequence[float], joint_stamps_s: Sequence[float], path_rad: Sequence[float]
) -> tuple[float, float]:
    """How much later pictures are stamped than what they show, s, and the correlation that says so.

    Args:
        stamps_s: of pictures, rising.
        motion: of each, how much it differs from the one before; the first is not looked at.
        joint_stamps_s: of joint states of the same arm, rising.
        path_rad: how far its joints have gone since the beginning, at each.

    Raises:
        UserError: it cannot be told from these; what the operator should do is.
    """
    stamps, path = np.asarray(stamps_s), np.asarray(path_rad)
    if len(stamps) < MIN_PICTURES or not len(path):
        raise UserError(f"{len(stamps)} pictures and {len(path)} joint states came, {MIN_PICTURES} pictures are needed")
    if path[-1] - path[0] < MIN_PATH_RAD:
        raise UserError(
            f"its arm moved by {path[-1] - path[0]:.2f} rad only: move it briskly, now and then, in its view"
        )
    # Between two pictures is what happened between their stamps; where joints are not known yet, or no more, nothing.
    moves = [np.diff(np.interp(stamps - lag, joint_stamps_s, path)) for lag in LAGS_S]
    found = np.array([_correlation(move, np.asarray(motion)[1:]) for move in moves])
    best = int(found.argmax())
    if found[best] < MIN_CORRELATION:
        raise UserError(
            f"its pictures do not move with its arm (correlation {found[best]:.2f}, {MIN_CORRELATION} is needed): "
            "move the arm in its view, and nothing else"
        )
    if (found[np.abs(LAGS_S - LAGS_S[best]) > PEAK_S] > RIVAL * found[best]).any() or best in (0, len(found) - 1):
        raise UserError("several delays explain its pictures: move the arm irregularly, with pauses")
    before, peak, after = found[best - 1 : best + 2]
    bend = before - 2 * peak + after
    step_s = LAGS_S[1] - LAGS_S[0]
    return float(LAGS_S[best] + (step_s * (before - after) / (2 * bend) if bend else 0.0)), float(peak)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0
