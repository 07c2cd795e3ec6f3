"""The Foxglove layout shows topics that exist, and fields that their messages have. It cannot be opened in a test."""

import importlib
import json
import re

import pytest
import yaml
from conftest import wait_for
from fake_robot import PROFILE, start_node
from places import ROOT

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.kinematics import ROOT_FRAME

NODES = yaml.safe_load((ROOT / "test/data/public/nodes.yaml").read_text(encoding="utf-8"))
SIMULATED = NODES["/simulated_robot"]["publishers"]  # test/public has them looked for
LAYOUT = json.loads(config_file("foxglove_layout.json").read_text())
PANELS = LAYOUT["configById"]
# What Foxglove reads from each type of panel, beside a title; a misspelt setting would be ignored in silence.
SETTINGS = {
    "Image": "imageMode",
    "3D": "cameraState followMode followTf scene transforms topics layers",
    "Plot": "paths showLegend legendDisplay showPlotValuesInLegend showXAxisLabels showYAxisLabels isSynced xAxisVal "
    "sidebarDimension timeWindowMode followingViewWidth minYValue maxYValue",
    "StateTransitions": "paths isSynced",
    "Gauge": "path minValue maxValue colorMode colorMap gradient reverse",
    "Indicator": "path style fallbackColor fallbackLabel rules",
    "DiagnosticSummary": "topicToRender minLevel hardwareIdFilter pinnedIds sortByLevel",
    "RawMessages": "topicPath diffEnabled diffMethod diffTopicPath showFullMessageForDiff",
    "Parameters": "",
    "Publish": "topicName datatype buttonText buttonTooltip advancedView value",
    "RosOut": "searchTerms minLogLevel topicToRender",
    "Tab": "activeTabIdx tabs",
}


def panels_of(tree):
    """Every panel of a tree of splits, those in tabs included."""
    if isinstance(tree, dict):
        assert set(tree) == {"direction", "first", "second", "splitPercentage"}
        assert tree["direction"] in ("row", "column")
        assert 0 < tree["splitPercentage"] < 100
        return panels_of(tree["first"]) + panels_of(tree["second"])
    inside = [panel for tab in PANELS[tree].get("tabs", []) for panel in panels_of(tab["layout"])]
    return [tree, *inside]


def paths():
    """Every message path and topic that the layout names, with the panel that does."""
    found = []
    for panel, config in PANELS.items():
        values = [path["value"] for path in config.get("paths", [])]
        values += [config.get(key) for key in ("path", "topicPath", "topicToRender", "topicName")]
        values += [config.get("imageMode", {}).get("imageTopic"), *config.get("topics", {})]
        found += [(panel, value) for value in values if value]
    return found


def test_the_file_is_a_layout_as_foxglove_exports_them():
    assert set(LAYOUT) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    shown = panels_of(LAYOUT["layout"])
    assert sorted(shown) == sorted(PANELS), "every panel is shown once"
    for panel, config in PANELS.items():
        kind, name = re.fullmatch(r"(\w+)!(\w+)", panel).groups()
        assert name
        assert set(config) <= {*SETTINGS[kind].split(), "foxglovePanelTitle"}, panel


def test_it_shows_what_there_is_to_see():
    shown = {value for _, value in paths()}
    fields = ("progress", "lower", "upper", "progress_raw", "rate", "status")
    assert {f"/task_progress.{field}" for field in fields} <= shown
    assert {"/task_progress/percent.data", "/action_chunk", "/diagnostics"} <= shown
    assert {camera.topic for camera in PROFILE.cameras.values()} <= shown
    assert "Parameters!node" in PANELS
    seen = {topic for topic, options in PANELS["3D!robot"]["topics"].items() if options["visible"]}
    assert seen == {"/robot_description", *(f"/policy_node/fingertip_path/{arm}" for arm in PROFILE.arms)}
    assert PANELS["3D!robot"]["followTf"] == ROOT_FRAME


def test_status_numbers_have_the_names_of_the_message():
    from pi05_progress_msgs.msg import TaskProgress

    states = PANELS["StateTransitions!status"]["paths"][0]["customStates"]["states"]
    rules = PANELS["Indicator!status"]["rules"]
    for numbered in ({s["label"]: s["value"] for s in states}, {r["label"]: r["rawValue"] for r in rules}):
        assert len(numbered) == 6
        assert all(getattr(TaskProgress, name) == int(number) for name, number in numbered.items())


@pytest.fixture
def topics(start, ros):
    """Name to type of every topic of the running node, once those of the layout are there, and of the simulation."""
    process = start_node(start, prompt="stack")
    node = ros.create_node("looker")
    named = {value.partition(".")[0] for _, value in paths()} - SIMULATED.keys()

    def there():
        assert process.poll() is None, process.log()
        return named <= {name for name, _ in node.get_topic_names_and_types()}

    wait_for(there, what=f"the topics {sorted(named)}")
    yield SIMULATED | {name: types[0] for name, types in node.get_topic_names_and_types()}
    node.destroy_node()


def message_class(name):
    package, _, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), message)


def test_every_topic_and_field_exists_in_the_running_node(topics):
    for panel, value in paths():
        topic, *fields = value.split(".")
        kind = message_class(topics[topic])
        for index, field in enumerate(fields):
            types = kind.get_fields_and_field_types()
            assert field in types, f"{panel}: {value}: {topics[topic]} has {', '.join(types)}"
            if index < len(fields) - 1:
                kind = message_class(types[field].replace("/", "/msg/"))
        if panel.startswith("Image!"):
            assert topics[topic] == "sensor_msgs/msg/Image"
    publish = PANELS["Publish!task"]
    assert topics[publish["topicName"]] == publish["datatype"]
    assert set(json.loads(publish["value"])) == set(message_class(publish["datatype"]).get_fields_and_field_types())
