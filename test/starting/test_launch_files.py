"""The launch files with the real launch, wherever that is installed: they start what the entry point starts."""

import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from ament_prefix import ROOT, make_prefix
from conftest import PATIENCE_S, wait_for

from pi05_progress.errors import UserError

pytest.importorskip("launch.actions")  # not "launch": that is a folder of this checkout, too
pytest.importorskip("launch_ros.actions")

from pi05_progress_ros.run import LAUNCHES
from pi05_progress_ros.starting.processes import write_parameters
from pi05_progress_ros.starting.supervisor import command_line

LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushROSNamespace
path, pushed, *given = sys.argv[1:]
service = LaunchService(noninteractive=True)
arguments = [tuple(word.split(":=", 1)) for word in given]
source = PythonLaunchDescriptionSource(path)
include = IncludeLaunchDescription(source, launch_arguments=arguments)
group = GroupAction([PushROSNamespace(pushed), include]) if pushed else include
service.include_launch_description(LaunchDescription([group]))
sys.exit(service.run())
"""
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE")


def environment(prefix, **more):
    """Variables under which a launch finds this package; discovery as a user has it."""
    paths = [str(prefix), *filter(None, os.environ.get("AMENT_PREFIX_PATH", sys.prefix).split(os.pathsep))]
    env = {**os.environ, "AMENT_PREFIX_PATH": os.pathsep.join(paths), **more}
    env["PATH"] = os.pathsep.join([str(prefix / "bin"), env["PATH"]])
    for name in VARIABLES:
        env.pop(name, None)
    return env


class Started:
    """A launch in a process group of its own, as a terminal makes one."""

    def __init__(self, folder, name, given, env, pushed=""):
        self.log = folder / "launch.log"
        words = [f"{key}:={value}" for key, value in given.items()]
        with self.log.open("w") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(ROOT / f"launch/{name}.launch.py"), pushed, *words],
                env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip

    def end(self):
        """Ctrl-C."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGINT)
        return self.popen.wait(PATIENCE_S)


def options(words, files):
    """What ROS understands of a node's arguments: names, parameters, remappings, log level."""
    found = {"remappings": set(), "parameters": {}}
    for word, value in pairwise(words):
        if word == "-r" and value.startswith(("__node:=", "__ns:=")):
            found[value.split(":=")[0]] = value.split(":=")[1]
        elif word == "-r":
            found["remappings"].add(value)
        elif word == "--log-level":
            found["log_level"] = value
        elif word == "--params-file":
            for key, section in yaml.safe_load(files[value]).items():
                found["parameters"].setdefault(key, {}).update(section["ros__parameters"])
    return found


def as_the_launch_starts_it(folder, name, given, count, pushed=""):
    """Start a launch file with recorders in the place of programs: what each of them was given."""
    prefix, records = make_prefix(folder / "prefix", recorders=True), folder / "records"
    records.mkdir()
    variables = environment(prefix, RECORDS=str(records))
    started = Started(folder, name, given, variables, pushed)
    try:
        wait_for(lambda: len(list(records.glob("*.json"))) == count or started.popen.poll() is not None)
    finally:
        status = started.end()
    found = {path.stem: json.loads(path.read_text()) for path in records.glob("*.json")}
    assert (status, len(found)) == (0, count), started.log.read_text()
    return variables, found


CASES = [
    ("bringup", {}),
    ("bringup", {"sim": "true", "sim_task": "place_in_basket", "sim_image_scale": "0.25"}),
    ("bringup", {"sim": "true", "publish_commands": "true", "namespace": "robot1", "log_level": "warn"}),
    ("bringup", {"robot": "teleavatar_v2", "publish_commands": "true", "prompt": "fold the towel: 'twice'"}),
    ("bringup", {"prompt": "42", "autostart": "false", "use_sim_time": "true", "params_file": "FILE"}),
    ("bringup", {"sim": "true", "record": "true"}),
    ("simulation", {"faults": "missed_grasp:0,gives_up", "expert": "true", "seed": "3", "image_scale": "1"}),
    ("record", {"output": "bag", "topics": "/tf /rosout", "compression": "zstd_fast", "namespace": "a/b"}),
]


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_the_launch_starts_exactly_what_the_entry_point_starts(tmp_path, name, given):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {blend_s: 0.1, robot: teleavatar_v2}\n")
    given = {key: str(file) if value == "FILE" else value for key, value in given.items()}
    make_prefix(tmp_path / "described", recorders=True)
    processes = LAUNCHES[name].processes(given, environment(tmp_path / "described"))
    variables, found = as_the_launch_starts_it(tmp_path, name, given, len(processes))
    for process in processes:
        record = found[process.executable or process.command[0]]
        ours = {**variables, **process.environment}
        assert {v: record["environment"].get(v) for v in VARIABLES} == {v: ours.get(v) for v in VARIABLES}
        command = command_line(process, tmp_path / "ours.yaml")
        if process.command:
            dated = re.compile(r"_\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d$")
            assert [dated.sub("", w) for w in record["arguments"]] == [dated.sub("", w) for w in command[1:]]
            continue
        write_parameters(process, tmp_path / "ours.yaml")
        paths = [word for before, word in pairwise(command) if before == "--params-file"]
        expected = options(command, {path: Path(path).read_text() for path in paths})
        assert options(record["arguments"], record["files"]) == expected


def test_a_namespace_pushed_by_an_including_launch_file_is_taken(tmp_path):
    _, found = as_the_launch_starts_it(tmp_path, "bringup", {"publish_commands": "true"}, 2, pushed="fleet/one")
    assert all("__ns:=/fleet/one" in record["arguments"] for record in found.values())


def test_a_mistyped_argument_is_pointed_out(tmp_path):
    as_the_launch_starts_it(tmp_path, "bringup", {"publish_comands": "true"}, 1)
    text = (tmp_path / "launch.log").read_text()
    assert "unknown argument publish_comands has no effect; did you mean publish_commands?" in text


def test_what_the_user_has_set_is_left_alone(tmp_path):
    prefix = make_prefix(tmp_path / "described", recorders=True)
    env = {**environment(prefix), "FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in LAUNCHES["bringup"].processes({}, env)[0].environment


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sim": "yes"}, "Valid options are: ['true', 'false']"),
        ({"checkpoint": "/nowhere"}, "checkpoint:=/nowhere: no such folder"),
        ({"robot": "nobody"}, "unknown robot profile 'nobody'"),
        ({"sim": "true", "sim_image_scale": "7"}, "sim_image_scale:=7: expected 0.05 to 1"),
    ],
    ids=str,
)
def test_wrong_arguments_end_the_launch_with_the_reason(tmp_path, given, message):
    started = Started(tmp_path, "bringup", given, environment(make_prefix(tmp_path / "prefix")))
    assert started.popen.wait(PATIENCE_S) == 1
    assert message in started.log.read_text()
    assert "process started" not in started.log.read_text()


def test_a_simulation_in_the_production_robots_domain_is_refused(tmp_path):
    env = environment(make_prefix(tmp_path / "prefix"), ROS_DOMAIN_ID="29")
    started = Started(tmp_path, "simulation", {}, env)
    assert started.popen.wait(PATIENCE_S) == 1
    assert "production robot's" in started.log.read_text()
    with pytest.raises(UserError):
        LAUNCHES["simulation"].processes({}, env)


def test_a_simulation_that_cannot_start_ends_the_policy_too(tmp_path):
    env = environment(make_prefix(tmp_path / "prefix"), MUJOCO_GL="nothing")
    started = Started(tmp_path, "bringup", {"sim": "true"}, env)
    assert started.popen.wait(PATIENCE_S) == 0
    text = started.log.read_text()
    assert "invalid value for environment variable MUJOCO_GL: nothing" in text
    assert re.search(r"process has died.*exit code 1", text)
    assert "policy_node-2]: process has finished" in text or "policy_node-2]: process has died" in text
