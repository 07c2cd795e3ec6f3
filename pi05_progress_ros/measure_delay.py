"""Measures how late the cameras' stamps are, for delay_s of the robot's profile, while the operator moves the arms.

    python -m pi05_progress_ros.measure_delay --robot teleavatar_v1

It only listens and never commands. Move both arms by teleoperation in the cameras' view, briskly and irregularly, with
pauses, and keep everything else still. Exit status 1: one of the cameras could not be measured. ROS arguments, such as
-p use_sim_time:=true, follow --ros-args.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState

from pi05_progress.errors import UserError
from pi05_progress.robots.joints import MessageError, joint_values
from pi05_progress.robots.messages import decode_image, stamp_ns
from pi05_progress.robots.profile import RobotProfile

from .cameras.cameras import check_cameras, open_cameras
from .command_line import check_ranges, program, read_options
from .inputs import Inputs, Limits
from .ros_session import onlooker, ros_session

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


MODULE = "pi05_progress_ros.measure_delay"


@dataclass(frozen=True)
class Options:
    """Command line."""

    robot: str = "teleavatar"
    """Robot profile: a name, or the path of a YAML file."""
    seconds: float = 20.0
    """How long pictures and joints are taken."""
    stream_port: int = 0
    """UDP port of the robot's video stream, where it has one; 0: as the profile says."""


class Listener:
    """Takes what cameras and arms say."""

    def __init__(self, node: Node, profile: RobotProfile, stream_port: int) -> None:
        self._node = node
        self._profile, self._inputs, self._lock = profile, Inputs(Limits(), profile), threading.Lock()
        self._small: dict[str, np.ndarray] = {}
        self._pictures: dict[str, list[tuple[float, float]]] = {key: [] for key in profile.cameras}
        self._joints: dict[str, list[tuple[float, np.ndarray]]] = {f"{arm}_arm": [] for arm in profile.arms}
        self._cameras = open_cameras(node, profile, self._inputs, self._on_picture, stream_port)
        for name, arm in profile.arms.items():
            on_joints = partial(self._on_joints, name)
            node.create_subscription(JointState, arm.state_topic, on_joints, qos_profile_sensor_data)

    def _on_joints(self, arm: str, message: JointState) -> None:
        stamp_s = (stamp_ns(message) or self._node.get_clock().now().nanoseconds) * 1e-9
        try:
            position = joint_values(message, self._profile.arms[arm].joints, f"{arm}_arm")[0]
        except MessageError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        if not (taken := self._joints[f"{arm}_arm"]) or stamp_s > taken[-1][0]:
            taken.append((stamp_s, position))

    def _on_picture(self) -> None:
        """One of the cameras has a new picture; several threads say so."""
        with self._lock:
            for entry in self._inputs.state():
                taken, stamp_s = self._pictures[entry.name], entry.stamp_ns * 1e-9
                if entry.message is None or (taken and stamp_s <= taken[-1][0]):
                    continue
                try:
                    small = reduced(decode_image(entry.message, entry.name))
                except MessageError as error:
                    self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)
                    continue
                before = self._small.get(entry.name, small)
                self._small[entry.name] = small
                taken.append((stamp_s, float(np.abs(small - before).mean())))

    def measured(self, key: str) -> tuple[float, float]:
        """Delay and correlation of one camera; raises UserError like ``estimate_delay``."""
        moved = [self._joints[arm] for arm in self._profile.seen_arms(key)]
        times = np.unique([stamp for joints in moved for stamp, _ in joints])
        path = np.zeros(len(times))
        for joints in filter(None, moved):
            stamps, positions = zip(*joints, strict=True)
            steps = np.abs(np.diff(positions, axis=0)).sum(axis=1)
            path += np.interp(times, stamps, np.concatenate([[0.0], np.cumsum(steps)]))
        stamps, motion = zip(*self._pictures[key], strict=True) if self._pictures[key] else ((), ())
        delay_s, correlation = estimate_delay(stamps, motion, times, path)
        return delay_s + self._profile.cameras[key].delay_s, correlation

    def close(self) -> None:
        """Listen no more."""
        for camera in self._cameras:
            camera.close()


@program("measure_delay")
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = ["measure_delay", *(sys.argv[1:] if argv is None else argv)]
    options = read_options(
        Options, MODULE, __doc__, remove_ros_args(argv)[1:], lambda o: check_ranges(o, {"seconds": (3.0, 600.0)})
    )
    profile = RobotProfile.load(options.robot)
    check_cameras(profile)
    with (
        ros_session(argv) as stop,
        onlooker("measure_delay") as (node, spin),
        closing(Listener(node, profile, options.stream_port)) as listener,
    ):
        print(f"move both arms, briskly and irregularly, for {options.seconds:g} s", flush=True)
        until_s = time.monotonic() + options.seconds
        while time.monotonic() < until_s and not stop.is_set():
            spin(0.05)
    return _tell(listener, profile)


def _tell(listener: Listener, profile: RobotProfile) -> int:
    status = 0
    for key in profile.cameras:
        try:
            delay_s, correlation = listener.measured(key)
        except UserError as error:
            print(f"{key}: not measured: {error}")
            status = 1
            continue
        early = "" if delay_s > -0.01 else "; a picture before its movement: the clocks are not in step"
        print(f"{key}: delay_s: {max(0.0, delay_s):.3f}  (correlation {correlation:.2f}{early})")
    return status


if __name__ == "__main__":
    sys.exit(main())
