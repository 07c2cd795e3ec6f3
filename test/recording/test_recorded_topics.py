"""What is recorded, by the recorder node and by rosbag2 alike."""

import pytest

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.recording.episodes import Topic, Traffic, message_class
from pi05_progress_ros.recording.topics import recorded_topics
from pi05_progress_ros.starting.bringup import RECORD


@pytest.mark.parametrize("name", ["teleavatar", "teleavatar_v1", "teleavatar_v2"])
@pytest.mark.parametrize("images", ["raw", "compressed"])
def test_every_type_is_one_that_is_installed(name, images):
    for topic in recorded_topics(RobotProfile.load(name), "/robot", images, sim=True):
        package, _, kind = topic.type.split("/")
        assert message_class(topic.type).__name__ == kind
        assert message_class(topic.type).__module__.startswith(package)


@pytest.mark.parametrize("commands", ["teleoperation", "policy", "none"])
def test_an_episode_needs_cameras_states_and_the_commands_asked_for(commands):
    profile = RobotProfile.load("teleavatar")
    required = {topic.name for topic in recorded_topics(profile, commands=commands) if topic.required}
    seen = {camera.topic for camera in profile.cameras.values()}
    seen |= {part.state_topic for part in (*profile.arms.values(), *profile.grippers.values())}
    moved = {
        "teleoperation": {p.teleoperation_topic for p in (*profile.arms.values(), *profile.grippers.values())},
        "policy": {arm.target_topic for arm in profile.arms.values()}  # the relay turns them into commands
        | {gripper.command_topic for gripper in profile.grippers.values()},
        "none": set(),
    }
    assert required == seen | moved[commands]


def test_rosbag2_records_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("pi05_progress_ros.starting.bringup.check_rosbag2", lambda environment: None)
    (recorder,) = RECORD.processes({"output": str(tmp_path / "bag"), "namespace": "/a", "use_sim_time": "true"}, {})
    listed = recorder.command[recorder.command.index("--topics") + 1 :]
    topics = recorded_topics(RobotProfile.load("teleavatar"), "/a", sim=True)
    assert list(listed) == [topic.name for topic in topics]


def test_what_is_wrong_with_a_rate_is_said_once_and_again_when_it_is_something_else():
    topic = Topic("/camera", object, required=True, expected_hz=(30.0, 30.0))
    traffic = Traffic([topic])
    said = []
    for rate_hz in (0.0, 10.0, 12.0, 60.0, 61.0, 30.0):
        topic.rate_hz = rate_hz
        said += [change[1] for change in traffic.changes()]
    assert said == [
        "/camera is silent",
        "/camera is at 10 Hz, expected 30 Hz or more",
        "/camera is at 60 Hz, expected 30 Hz or less: is there a second sender?",
        "/camera is at 30 Hz again",
    ]
