"""What is live, held against how training episodes began: what differs, its likely cause, and the remedy. No ROS.

Every cause is tried as an explanation: the one under which what is live fits the data best is named.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..observation import RobotFrame
from ..robots.profile import RobotProfile
from ..units.transforms import proprioception_to_model, resize_with_pad
from .starts import SIZE, Starts, unlikeness

UNLIKE = 0.4  # a picture that differs less is like the data: other resolutions alone make up to that
EXPLAINS = 0.6  # of the difference at most is left under a likely cause
DARK = 8.0  # of 255: mean of a picture that shows nothing
MOVED_PX = (7, 12)  # rows and columns of the small pictures, a fifth: how far a camera's turn is looked for
GRIPPER_SHARE = 0.25  # of its opening at the starts: how far a gripper may be from them


def unlike_pictures(frame: RobotFrame, profile: RobotProfile, starts: Starts) -> dict[str, str]:
    """What is wrong with each camera that was trained with, by its key in the profile; empty texts are well."""
    key_of = {model: key for key, model in profile.layout.cameras.items() if key in frame.images}
    data = {key_of[of]: i for i, of in enumerate(starts.cameras) if of in key_of}
    return {key: _unlike_picture(resize_with_pad(frame.images[key], *SIZE), key, data, starts) for key in data}


def _unlike_picture(picture: np.ndarray, key: str, data: Mapping[str, int], starts: Starts) -> str:
    middle, spread = starts.middle[data[key]].astype(float), starts.spread[data[key]].astype(float)
    differs = unlikeness(picture, middle, spread)
    if differs <= max(UNLIKE, 1.5 * starts.unlike[data[key]]):
        return ""
    if picture.mean() < DARK < middle.mean() / 2:
        return "it is dark: uncover the lens, look at the driver"
    bright = picture.mean() / max(middle.mean(), 1.0)
    gains = np.clip(middle.mean((0, 1)) / np.maximum(picture.mean((0, 1)), 1.0), 0.2, 5.0)
    exposed = f"it is exposed otherwise, {bright:.2f} times as bright as in the data (red, green, blue "
    exposed += f"{', '.join(f'{1 / gain:.2f}' for gain in gains)}): set exposure, white balance and light as they were"
    changed = {
        exposed: np.minimum(picture * gains, 255),
        "it is upside down: mount it as it was, or change `turned` in the profile": picture[::-1, ::-1],
        "it is mirrored: switch that off in its driver": picture[:, ::-1],
    }
    causes = {cause: unlikeness(of, middle, spread) for cause, of in changed.items()}
    for other, i in data.items():
        if other != key:
            cause = f"it shows what {other} showed: swap their topics in the profile, or their cables"
            causes[cause] = unlikeness(picture, starts.middle[i], starts.spread[i])
    (x, y), moved = min(_moved(picture, middle, spread), key=lambda found: found[1])
    x, y = (round(100 * pixels / SIZE[1]) for pixels in (x, -y))
    causes[f"it was moved: what it shows is shifted by {x} % of its width to the right and {y} % up"] = moved
    cause = min(causes, key=causes.__getitem__)
    unknown = "it looks unlike the training data: was it moved, or are light, table or background others?"
    return cause if causes[cause] < EXPLAINS * differs else unknown


def _moved(picture: np.ndarray, middle: np.ndarray, spread: np.ndarray) -> list[tuple[tuple[int, int], float]]:
    """How unlike it is where it is shifted by some pixels to the right and down, of the parts that overlap."""
    found, (h, w) = [], SIZE
    for y, x in itertools.product(*(range(-most, most + 1) for most in MOVED_PX)):
        to = slice(max(y, 0), h + min(y, 0)), slice(max(x, 0), w + min(x, 0))
        of = slice(max(-y, 0), h + min(-y, 0)), slice(max(-x, 0), w + min(-x, 0))
        found.append(((x, y), unlikeness(picture[to], middle[of], spread[of])))
    return found


def unlike_joints(frame: RobotFrame, profile: RobotProfile, starts: Starts) -> list[str]:
    """What is wrong with the numbers of joints and grippers."""
    arms, grippers = np.split(proprioception_to_model(frame.state, profile.layout), [len(starts.arms[0])])
    found = [_unlike_arms(arms, profile, starts)] if starts.distance(arms)[0] > starts.far_rad else []
    for i, (side, value) in enumerate(zip(profile.layout.grippers, grippers, strict=True)):
        if f"{side}_gripper" not in frame.absent:
            found.append(_unlike_gripper(f"{side}_gripper", float(value), starts.grippers[:, i]))
    return [text for text in found if text]


def _unlike_arms(arms: Float[np.ndarray, " a"], profile: RobotProfile, starts: Starts) -> str:
    sizes = [len(arm.joints) for arm in profile.arms.values()]
    columns = np.split(np.arange(len(arms)), np.cumsum(sizes)[:-1])
    swapped = np.concatenate([arms[column] for column in columns[::-1]])
    if len(set(sizes)) == 1 and starts.distance(swapped)[0] <= starts.far_rad:
        return "the arms are swapped: exchange their topics in the profile"
    if starts.distance(np.deg2rad(arms))[0] <= starts.far_rad:
        return "the arms' positions are in degrees: have the driver publish rad"
    ordered, home = arms.copy(), starts.home
    for column in columns:  # the order in which the arm's numbers are closest to a start
        if len(column) < 9:
            orders = np.array(list(itertools.permutations(column)))
            ordered[column] = arms[orders[np.abs(arms[orders] - home[column]).max(axis=1).argmin()]]
    if starts.distance(ordered)[0] <= starts.far_rad:
        wrong = [str(name) for name, one, other in zip(starts.joints, arms, ordered, strict=False) if one != other]
        return f"joints come in another order ({', '.join(wrong)}): name them as the profile does"
    distance, joint = starts.distance(arms)
    return (
        f"{joint} is {distance:.2f} rad from where episodes of the training data begin (limit {starts.far_rad:.2f}): "
        "move the arms there by ~/go_to_start"
    )


def _unlike_gripper(name: str, value: float, starts: Float[np.ndarray, " n"]) -> str:
    low, high = float(starts.min()), float(starts.max())
    slack = max(1e-3, GRIPPER_SHARE * float(np.abs(starts).max()))
    if low - slack <= value <= high + slack:
        return ""
    middle, where = float(np.median(starts)), f"its position is {value:.4g}, at the starts {low:.4g} to {high:.4g}"
    if low - slack <= -value <= high + slack:
        return f"{name} has the wrong sign ({where}): turn it round in the driver"
    scale = value / middle if middle else 0.0
    if scale > 0 and not 0.2 < scale < 5:
        return f"{name} has another scale, {scale:.3g} times that of the data ({where}): correct its unit in the driver"
    return f"{name} is not as at the starts ({where}): open or close it as there, or correct its scale"


def unlike_task(task: str, tasks: Sequence[str]) -> str:
    """Why an instruction is none that was trained on; empty if it is one."""
    if task in tasks:
        return ""
    plain = {" ".join(re.findall(r"\w+", known.lower())): known for known in tasks}
    same = plain.get(" ".join(re.findall(r"\w+", task.lower())))
    close = difflib.get_close_matches(task, list(tasks), 3, 0.0)
    if same is not None:
        return f"{task!r} is written otherwise than in the training data: {same!r}"
    return f"{task!r} was not trained on; the most similar instructions are {', '.join(map(repr, close))}"
