"""The documentation of the node against the code: topics, parameters, diagnostics."""

import json
import re

import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from places import ROOT

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.commands import Situation
from pi05_progress_ros.commanding.robot_state import RELAY_TOPIC
from pi05_progress_ros.commanding.state_machine import State
from pi05_progress_ros.inputs import Input
from pi05_progress_ros.node.watch import InferenceStats, commands_status, inference_status, input_statuses

NODE = (ROOT / "docs/node.md").read_text()


def table(header):
    """Cells of the rows of the table whose head begins with ``header``."""
    rows = NODE[NODE.index(f"| {header} ") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code(cell):
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_parameter_is_documented_with_its_default_and_range():
    text = config_file("policy_node.yaml").read_text()  # a test of its own holds it against the declarations
    declared = yaml.safe_load(text)["/**"]["ros__parameters"]
    documented = {code(name)[0]: (default, limits) for name, default, limits, _ in table("parameter")}
    assert list(documented) == list(declared)
    ranges = re.findall(r"((?:^    # .*\n)+)    (\w+):", text, re.MULTILINE)
    limits = {name: re.search(r"; (\S+ to [0-9.]+)$", comment.strip()) for comment, name in ranges}
    for name, value in declared.items():
        default, documented_range = documented[name]
        expected = (value or "empty") if isinstance(value, str) else json.dumps(value)
        assert default.strip("`") == expected, name
        assert documented_range == (limits[name][1] if limits[name] else ""), name


def test_every_topic_is_documented():
    profile = RobotProfile.load("teleavatar")
    inputs = {camera.topic for camera in profile.cameras.values()} | {profile.fsm_topic, profile.mode_topic}
    inputs |= (
        {profile.enable_topic}
        | {profile.arms[s].state_topic for s in profile.arms}
        | {profile.grippers[s].state_topic for s in profile.arms}
    )
    inputs |= {"~/set_task", RELAY_TOPIC}
    assert {topic for row in table("it subscribes to") for topic in code(row[0])} == inputs
    outputs = {profile.arms[s].target_topic for s in profile.arms} | {
        profile.grippers[s].command_topic for s in profile.arms
    }
    outputs |= {profile.enable_topic, "task_progress", "task_progress/percent", "action_chunk", "/diagnostics"}
    outputs |= {"episode_event", *(f"~/fingertip_path/{side}" for side in profile.arms)}
    assert {topic for row in table("it publishes") for topic in code(row[0])} == outputs


def test_every_diagnostic_value_is_documented():
    documented = {code(name)[0]: code(values) for name, values, _ in table("entry")}
    facts = {key: "" for key in ("model_id", "checkpoint", "robot", "task", "task_status")}
    made: list[DiagnosticStatus] = [
        *input_statuses("policy_node", [Input("<name>", "/topic", True, 1.0)], []),
        inference_status("policy_node", InferenceStats(), "", facts),
        commands_status("policy_node", True, Situation(State.LOOKING, "", False, (), False)),
    ]
    assert {status.name: [pair.key for pair in status.values] for status in made} == documented


def test_links_between_the_pages_lead_somewhere():
    folder = ROOT
    for page in [*folder.glob("docs/*.md"), folder / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
