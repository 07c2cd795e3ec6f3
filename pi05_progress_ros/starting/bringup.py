"""What ``bringup`` and ``simulation`` start, with which parameters. See docs/launch.md.

Needs neither ROS nor ``launch``; robot profiles are read only when processes are asked for, so that arguments can be
listed where this package's Python dependencies are missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi05_progress.errors import UserError

from .domains import check_domain
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
    file_parameters,
    load_profile,
    number,
    transport,
)
from .rosbag import record_process
from .simulation_choices import EPISODES, RANGES, SIM_TASKS, check_simulable, free_udp_port, parse_fault

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
            parse_fault(fault)
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
