"""What ``record`` starts: rosbag2, on the topics of a robot profile and of the policy. Needs no ROS."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pi05_progress.errors import UserError

from ..recording.topics import recorded_topics
from .processes import (
    BOOLEANS,
    DEFAULT_ROBOT,
    LOG_LEVEL,
    NAMESPACE,
    ROBOT,
    Argument,
    Launch,
    Process,
    absolute_namespace,
    load_profile,
    number,
    transport,
)

if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

IMAGE_FORMS = ("raw", "compressed", "none")
COMPRESSIONS = ("none", "zstd_fast", "zstd_small")
PACKAGES = ("ros2bag", "rosbag2_storage_mcap")


def check_rosbag2(environment: Mapping[str, str]) -> None:
    """Refuse to record without rosbag2, by a ``UserError`` that says how to install it."""
    prefixes = [Path(p) for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    index = Path("share/ament_index/resource_index/packages")
    missing = [name for name in PACKAGES if not any((prefix / index / name).exists() for prefix in prefixes)]
    if shutil.which("ros2", path=environment.get("PATH", "")) is None:
        missing.insert(0, "ros2cli")
    if missing:
        apt = " ".join(f"ros-jazzy-{name.replace('_', '-')}" for name in missing)
        raise UserError(
            f"recording needs rosbag2; not found among the sourced packages: {', '.join(missing)}. "
            f"With ROS 2 from apt:  sudo apt install {apt}\n"
            "Without rosbag2, episodes are recorded by  python -m pi05_progress_ros.recorder_node"
        )


def record_process(
    profile: RobotProfile,
    given: Mapping[str, str],
    environment: Mapping[str, str],
    variables: Mapping[str, str],
    *,
    sim_time: bool,
    required: bool,
) -> Process:
    """The recorder; a ``UserError`` if rosbag2 is not installed, or the folder is already there."""
    check_rosbag2(environment)
    given = {argument.name: argument.default for argument in ARGUMENTS} | given
    output = os.path.expanduser(given["output"]) or f"{profile.name}_{time.strftime('%Y_%m_%d-%H_%M_%S')}"
    if Path(output).exists():
        raise UserError(f"output:={output} is already there; recordings are not overwritten")
    command = ["ros2", "bag", "record", "--storage", "mcap", "--output", output, "--disable-keyboard-controls"]
    command += ["--log-level", given["log_level"]]
    if given["compression"] != "none":
        command += ["--storage-preset-profile", given["compression"]]
    if size_mb := number("max_size_mb", given["max_size_mb"], int):
        command += ["--max-bag-size", str(size_mb * 10**6)]
    if duration_s := number("max_duration_s", given["max_duration_s"], int):
        command += ["--max-bag-duration", str(duration_s)]
    if sim_time:
        command.append("--use-sim-time")
    # rosbag2 takes the QoS that publishers offer, so best-effort images need no override.
    images = given["images"]
    topics = recorded_topics(profile, absolute_namespace(given["namespace"]), images, sim=sim_time)
    more = given["topics"].replace(",", " ").split()
    command += ["--topics", *dict.fromkeys([*(topic.name for topic in topics), *more])]
    note = f"recording into {output}"
    if profile.stream and images != "none":
        note += f"; the video stream is recorded while the policy node receives it, from {profile.stream.topic}"
    return Process("recorder", command=tuple(command), environment=variables, required=required, note=note)


ARGUMENTS = (
    Argument("robot", ROBOT, DEFAULT_ROBOT),
    Argument(
        "output", "folder of the bag, which must not exist; empty: named after robot, date and time, where you are"
    ),
    Argument("topics", "further topics, separated by spaces or commas"),
    Argument("images", "which form of Image topics: raw, <topic>/compressed, or none", "raw", IMAGE_FORMS),
    Argument("compression", "of the bag: none, or Zstandard for speed or for size", "none", COMPRESSIONS),
    Argument("max_size_mb", "begin a new file after this many megabytes; 0: one file", "0"),
    Argument("max_duration_s", "begin a new file after this many seconds; 0: one file", "0"),
    Argument("namespace", NAMESPACE.text),
    Argument(
        "use_sim_time", "beside a simulation: stamp by /clock and record what only it publishes", "false", BOOLEANS
    ),
    LOG_LEVEL,
)


def _record(given: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Process, ...]:
    sim_time, variables = given["use_sim_time"] == "true", transport(environment)
    profile = load_profile(given["robot"])
    return (record_process(profile, given, environment, variables, sim_time=sim_time, required=True),)


RECORD = Launch("record", "Records what a robot and its policy publish, with rosbag2.", ARGUMENTS, _record)
