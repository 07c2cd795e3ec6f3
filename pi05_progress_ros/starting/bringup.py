"""What ``bringup``, ``simulation`` and ``record`` start, with which parameters. See docs/launch.md.

Needs neither ROS nor ``launch``; robot profiles are read only when processes are asked for, so that arguments can be
listed where this package's Python dependencies are missing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    Value,
    absolute_namespace,
    check_domain,
    file_parameters,
    load_profile,
    number,
    transport,
)
from .simulation_choices import EPISODES, RANGES, SIM_TASKS, check_simulable, free_udp_port, parse_fault

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


if TYPE_CHECKING:
    from pi05_progress.robots.profile import RobotProfile

EITHER = ("", *BOOLEANS)
# Parameters of the policy node that are launch arguments, too: argument, else parameter file, else default.
SHARED = ("robot", "checkpoint", "prompt", "publish_commands", "use_sim_time", "autostart")


BRINGUP_ARGUMENTS = (
    Argument("robot", f"{ROBOT}; empty: as params_file says, else {DEFAULT_ROBOT}"),
    Argument("checkpoint", "checkpoint folder; empty: as params_file says, else an untrained model that says so"),
    Argument("prompt", "the task's instruction; empty: as params_file says, else with sim the simulated task's own"),
    Argument("sim", "start the simulated robot, too; it does not leave this machine", "false", BOOLEANS),
    Argument("sim_task", "what is done in the simulation", SIM_TASKS[0], SIM_TASKS),
    Argument("sim_faults", "what goes wrong when the scripted expert works: KIND or KIND:PICK, separated by commas"),
    Argument(
        "sim_episodes",
        "with publish_commands, when the simulation's next episode begins: reset (by /sim/reset) or policy (once "
        "physics has decided, or nobody commands any more; the arms go home by themselves)",
        EPISODES[0],
        EPISODES,
    ),
    Argument("sim_image_scale", "size of simulated images as a share of the real cameras', 0.05 to 1", "0.5"),
    Argument(
        "publish_commands",
        "command the robot with the policy's actions, through the arm relay where the robot needs one; without it the "
        "simulated robot is worked by a scripted expert. Empty: as params_file says, else false",
        choices=EITHER,
    ),
    Argument("record", "record what the robot and the policy publish with rosbag2", "false", BOOLEANS),
    Argument("params_file", "ROS parameter file for the policy node; config/policy_node.yaml is one to copy"),
    NAMESPACE,
    Argument(
        "respawn",
        "start the policy node and the arm relay again when they end; nothing is armed",
        "false",
        BOOLEANS,
    ),
    Argument("use_sim_time", "follow /clock; empty: as params_file says, else as sim", choices=EITHER),
    Argument(
        "autostart",
        "configure and activate the policy node; false leaves that to lifecycle commands. Empty: as params_file says, "
        "else true",
        choices=EITHER,
    ),
    LOG_LEVEL,
)

SIMULATION_ARGUMENTS = (
    Argument("robot", ROBOT, DEFAULT_ROBOT),
    Argument("task", "what lies on the table and is to be done", SIM_TASKS[0], SIM_TASKS),
    Argument("seed", "decides where objects lie and which arm works", "0"),
    Argument(
        "arm_command", "what arms follow on /api; auto: as the profile says", "auto", ("auto", "position", "velocity")
    ),
    Argument("image_scale", "size of images as a share of the real cameras', 0.05 to 1", "0.5"),
    Argument("stream_port", "UDP port of this machine that a video stream goes to; 0: a free one", "0"),
    Argument("images", "render and publish camera images", "true", BOOLEANS),
    Argument("teleoperation", "start in teleoperation instead of API mode", "false", BOOLEANS),
    Argument("expert", "a scripted operator does the task", "false", BOOLEANS),
    Argument("expert_episodes", "how many episodes it does, each with the next seed; 0 for no end", "1"),
    Argument("episodes", "when the next one begins without it: reset (by /sim/reset) or policy", EPISODES[0], EPISODES),
    Argument("faults", "what goes wrong in the expert's: KIND or KIND:PICK, several separated by commas"),
    Argument("lockstep", "step only when /sim/step is called", "false", BOOLEANS),
    Argument("lockstep_step_s", "simulated time of one such step, s", f"{1 / 30:.6f}"),
    LOG_LEVEL,
)


def check_checkpoint(folder: str) -> None:
    """Refuse what is no checkpoint, by a ``UserError``, before anything starts."""
    if folder and not Path(folder, "config.json").is_file():
        what = "there is no config.json" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"checkpoint:={folder}: {what}; a checkpoint is a folder with config.json, params and assets")


def _faults(given: Mapping[str, str], name: str) -> list[str]:
    """The simulated robot's parameter ``faults``; ROS needs one text at least to know the list's kind."""
    faults = [fault.strip() for fault in given[name].split(",")]
    for fault in filter(None, faults):
        try:
            parse_fault(fault, given[name.replace("faults", "task")])
        except ValueError as error:
            raise UserError(f"{name}:={given[name]}: {error}") from error
    return faults


def _policy_values(given: Mapping[str, str], params_file: str, full_name: str) -> dict[str, Any]:
    """The shared parameters of the policy node: the argument, else the parameter file's value, else the default."""
    defaults = {"robot": DEFAULT_ROBOT, "checkpoint": "", "prompt": "", "publish_commands": False, "autostart": True}
    values = {**defaults, "use_sim_time": given["sim"] == "true"}
    for name, value in file_parameters(params_file, full_name, SHARED).items():
        if type(value) is not type(values[name]):
            kind = type(values[name]).__name__
            raise UserError(f"params_file:={params_file}: {name}: {value!r} is refused, expected {kind}")
        values[name] = value
    for name in SHARED:
        if given[name]:
            values[name] = given[name] == "true" if isinstance(values[name], bool) else given[name]
    values["checkpoint"] = os.path.expanduser(values["checkpoint"])
    return values


def _simulated_robot(
    profile: RobotProfile, parameters: Mapping[str, Value], log_level: str, environment: Mapping[str, str]
) -> Process:
    try:
        check_simulable(profile)
    except UserError as error:
        raise UserError(f"robot:={profile.name}: {error}") from error
    check_domain(number("ROS_DOMAIN_ID", environment.get("ROS_DOMAIN_ID") or "0", int), force=False)
    return Process(
        "simulated_robot",
        executable="simulated_robot",
        module="pi05_progress_ros.sim.robot_node",
        parameters=parameters,
        log_level=log_level,
        environment=transport(environment, sim=True),
    )


def _bringup(given: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Process, ...]:
    namespace, sim, level = absolute_namespace(given["namespace"]), given["sim"] == "true", given["log_level"]
    variables = transport(environment, sim)
    policy = Process(
        "policy_node",
        "policy_node",
        "pi05_progress_ros.policy_node",
        namespace=namespace,
        log_level=level,
        environment=variables,
        respawn=given["respawn"] == "true",
    )
    params_file = os.path.expanduser(given["params_file"])  # shells leave name:=~/x alone
    values = _policy_values(given, params_file, policy.full_name)
    profile = load_profile(values["robot"])
    check_checkpoint(values["checkpoint"])
    faults = _faults(given, "sim_faults")
    if any(faults) and (not sim or values["publish_commands"]):
        why = "publish_commands makes the policy work in its place" if sim else "sim is false"
        raise UserError(f"sim_faults:={given['sim_faults']}: these are the scripted expert's, and {why}")
    if given["sim_episodes"] != EPISODES[0] and not (sim and values["publish_commands"]):
        raise UserError(f"sim_episodes:={given['sim_episodes']}: it needs sim and publish_commands")
    processes = []
    if sim:
        parameters: dict[str, Value] = {
            "profile": values["robot"],
            "task": given["sim_task"],
            "image_scale": number("sim_image_scale", given["sim_image_scale"], float, RANGES["image_scale"]),
            "expert": not values["publish_commands"],
            "expert_episodes": 0,
            "episodes": given["sim_episodes"],
            "faults": faults,
        }
        if profile.stream:
            parameters["stream_port"] = values["stream_port"] = free_udp_port()
        processes.append(_simulated_robot(profile, parameters, level, environment))
    # The simulated robot says once a second what the present episode asks for; instructions differ between episodes.
    follows = (("~/set_task", "/sim/task"),) if sim and not values["prompt"] else ()
    processes.append(replace(policy, parameters=values, params_file=params_file, remappings=follows))
    if values["publish_commands"] and profile.arm_command == "relay":
        shared = {name: values[name] for name in ("robot", "use_sim_time")}
        shared |= file_parameters(params_file, policy.full_name, ("max_joint_speed",))
        module = "pi05_progress_ros.arm_relay_node"
        processes.append(
            replace(policy, name="arm_relay", executable="arm_relay_node", module=module, parameters=shared)
        )
    if given["record"] == "true":
        asked = {name: given[name] for name in ("namespace", "log_level")}
        sim_time = values["use_sim_time"]
        processes.append(record_process(profile, asked, environment, variables, sim_time=sim_time, required=False))
    return tuple(processes)


def _simulation(given: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Process, ...]:
    profile = load_profile(given["robot"])
    parameters: dict[str, Value] = {name: given[name] for name in ("task", "arm_command", "episodes")}
    parameters["profile"] = given["robot"]
    parameters["stream_port"] = number("stream_port", given["stream_port"], int, (0, 65535))
    for name, between in RANGES.items():
        parameters[name] = number(name, given[name], type(between[1]), between)
    for name in ("images", "teleoperation", "expert", "lockstep"):
        parameters[name] = given[name] == "true"
    parameters["faults"] = _faults(given, "faults")
    return (_simulated_robot(profile, parameters, given["log_level"], environment),)


BRINGUP = Launch("bringup", "The policy beside a robot, or beside the simulated one.", BRINGUP_ARGUMENTS, _bringup)
SIMULATION = Launch("simulation", "The simulated robot alone.", SIMULATION_ARGUMENTS, _simulation)
