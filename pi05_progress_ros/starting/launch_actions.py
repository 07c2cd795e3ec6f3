"""The translation of a ``Launch`` into ROS's ``launch``; the files in ``launch/`` are nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial

from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction, Shutdown
from launch.logging import get_logger
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

from .processes import PACKAGE, RESPAWN_S, Launch, Process


def launch_description(launch: Launch) -> LaunchDescription:
    """What ``generate_launch_description`` returns."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.text,
            choices=list(argument.choices) or None,
        )
        for argument in launch.arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=partial(_start, launch=launch))])


def _start(context: LaunchContext, launch: Launch) -> list[Action]:
    values = {a.name: context.launch_configurations[a.name] for a in launch.arguments}
    for name, meant in mistyped(context.launch_configurations, values):
        get_logger("launch.user").warning(f"unknown argument {name} has no effect; did you mean {meant}?")
    pushed = context.launch_configurations.get("ros_namespace", "")  # of a launch file that includes this one
    if not values.get("namespace", "absent"):
        values["namespace"] = pushed
    processes = launch.processes(values, context.environment)
    notes = [LogInfo(msg=process.note) for process in processes if process.note]
    return [*notes, *map(action, processes)]


def mistyped(found: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Arguments that resemble a known one, and that one. Others may be of a launch file that includes this one."""
    strange = [name for name in found if name not in known and not name.startswith("ros_")]
    near = [(name, difflib.get_close_matches(name, known, 1, 0.8)) for name in strange]
    return [(name, matches[0]) for name, matches in near if matches]


def action(process: Process) -> Action:
    """What starts one process."""
    required = process.required and not process.respawn
    ending = [Shutdown(reason=f"{process.name} has ended")] if required else None
    if process.command:
        return ExecuteProcess(
            cmd=list(process.command),
            name=process.name,
            output="screen",
            additional_env=dict(process.environment),
            on_exit=ending,
        )
    parameters: list[object] = [process.params_file] if process.params_file else []
    parameters.append({name: ParameterValue(value) for name, value in process.parameters.items()})
    return Node(
        package=PACKAGE,
        executable=process.executable,
        name=process.name,
        namespace=process.namespace,
        parameters=parameters,
        remappings=list(process.remappings),
        ros_arguments=["--log-level", process.log_level],
        output="both",
        additional_env=dict(process.environment),
        on_exit=ending,
        respawn=process.respawn,
        respawn_delay=RESPAWN_S,
    )
