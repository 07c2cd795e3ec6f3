"""What the node publishes of a policy that has a temporal head, and of one that has none."""

import dataclasses
from types import SimpleNamespace

import numpy as np
from made_up_streams import FPS, STAGES, TASK, random_head, stream
from rclpy.clock import Clock

from pi05_progress.estimate.temporal import TemporalHead
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.node.inference import Result
from pi05_progress_ros.node.results import Results

PROFILE = RobotProfile.load("teleavatar")


def published(head):
    """Messages about an episode."""
    sent, of = [], stream()
    outlets = {"task_progress": sent.append}
    node = SimpleNamespace(
        create_publisher=lambda kind, topic, depth: SimpleNamespace(publish=outlets.get(topic, lambda message: None)),
        get_clock=Clock,
    )
    policy = SimpleNamespace(model_id="m", durations_s={}, temporal_head=head, action_dt_s=0.2)
    results = Results(node, PROFILE, policy)
    features = TemporalHead(random_head()).project(of.answers.features)
    for i, seen in enumerate(features):
        given = dataclasses.replace(of.answers.output(i), progress_features=seen)
        results.publish(Result(given, TASK, round(i / FPS * 1e9), 5.0, 0))
    return sent


def test_stages_and_time_remaining_come_from_the_head():
    *_, last = published(random_head())
    assert last.stage_count == 2
    assert last.stage == STAGES[TASK][last.stage_index]
    assert last.time_remaining_valid
    assert last.reason == ""


def test_a_reason_is_published_with_unknown_and_with_failed():
    *_, last = published(random_head(unlike=0.0))
    assert (last.status, last.reason) == (last.UNKNOWN, "unlike the data")
    assert np.isnan(last.progress)
    *_, last = published(random_head(alarms={"hopeless": 0.0}))
    assert (last.status, last.reason) == (last.FAILED, "episodes that went like this did not succeed")


def test_without_a_head_there_are_no_stages():
    *_, last = published(b"")
    assert (last.stage_index, last.stage_count, last.stage, last.reason) == (-1, 0, "", "")
