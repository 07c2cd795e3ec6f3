"""The recorder over DDS: episodes by services and buttons, read back by two readers, also after a kill."""

import functools
import resource

import pytest
from conftest import PATIENCE_S, wait_for
from fake_robot import PROFILE, FakeRobot, parameters, set_parameter
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image, Joy

from pi05_progress.errors import UserError
from pi05_progress.robots.message_store import message_store
from pi05_progress_msgs.msg import EpisodeEvent
from pi05_progress_msgs.srv import MarkMilestone, StartEpisode, StopEpisode
from pi05_progress_ros.recording.bag_writer import PARTIAL, learn_type

NODE = "pi05_progress_ros.recorder_node"


class Bench(FakeRobot):
    """The made-up robot in front of a recorder, with its services and buttons."""

    def __init__(self, ros, process):
        super().__init__(ros, process)
        self.events = []
        self.node.create_subscription(EpisodeEvent, "/episode_event", self.events.append, 50)
        self.joy = self.node.create_publisher(Joy, PROFILE.marks.topic, 10)
        create = self.node.create_client
        self.clients = {
            "start_episode": create(StartEpisode, "/recorder/start_episode"),
            "stop_episode": create(StopEpisode, "/recorder/stop_episode"),
            "mark_milestone": create(MarkMilestone, "/recorder/mark_milestone"),
        }

    def call(self, name, **fields):
        client = self.clients[name]
        self.until(client.service_is_ready, name)
        future = client.call_async(client.srv_type.Request(**fields))
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def press(self, button):
        for down in (0, 1, 1, 0):
            buttons = [0] * 6
            buttons[button] = down
            self.joy.publish(Joy(buttons=buttons))
            self.run(0.1)

    def listened_to(self):
        recorded = (*self.images.values(), *self.arms.values())
        both = self.joy.get_subscription_count() == 2  # it records the buttons and obeys them
        return both and all(publisher.get_subscription_count() for publisher in recorded)


@pytest.fixture
def bench(start, ros, tmp_path):
    def run(**values):
        recorder = start(NODE, *parameters(output=str(tmp_path / "bags"), **values))
        robot = Bench(ros, recorder)
        robot.until(robot.listened_to, "a listening recorder")
        return recorder, robot, tmp_path / "bags"

    return run


def read(path):
    """Messages per topic, and the episode's events, by rosbags."""
    store, counts, events = message_store(), {}, []
    with Reader(path) as reader:
        for connection, _, data in reader.messages():
            counts[connection.topic] = counts.get(connection.topic, 0) + 1
            message = store.deserialize_cdr(data, connection.msgtype)
            if connection.topic == "/episode_event":
                events.append((message.event, message.outcome, message.label, message.task))
    return counts, events


def test_services_record_an_episode_that_two_readers_open(bench):
    _, robot, folder = bench()
    assert robot.call("stop_episode").message == "no episode is being recorded"
    assert not robot.call("mark_milestone", label="grasped").accepted
    refused = robot.call("start_episode", task=" ")
    assert (refused.accepted, refused.episode_id) == (False, "")
    begun = robot.call("start_episode", task="stack the cubes")
    assert begun.accepted
    assert "is being recorded: end it first" in robot.call("start_episode", task="again").message
    robot.sent.clear()
    robot.until(lambda: robot.sent["/left_arm/joint_states"] >= 200 and robot.sent["/head/image_raw"] >= 60, "messages")
    sent = dict(robot.sent)
    assert not robot.call("mark_milestone", label="").accepted
    assert robot.call("mark_milestone", label="grasped").accepted
    assert "expected 0 (unknown), 1 (success) or 2 (failure)" in robot.call("stop_episode", outcome=7).message
    ended = robot.call("stop_episode", outcome=1, note="well done")
    assert ended.accepted
    assert ended.episode_id == begun.episode_id
    path = folder / begun.episode_id
    assert str(path) in ended.message
    counts, events = read(path)
    task = "stack the cubes"
    assert events == [(0, 0, "", task), (2, 0, "grasped", task), (1, 1, "well done", task)]
    for topic in ("/left_arm/joint_states", *(camera.topic for camera in PROFILE.cameras.values())):
        assert counts[topic] >= 0.8 * sent[topic]
    assert counts["/fsm_state"] > 0
    with open(path / f"{path.name}.mcap", "rb") as file:  # the format's own reader, definitions from the file
        found = {channel.topic: schema for schema, channel, _ in make_reader(file).iter_messages()}
    assert found["/head/image_raw"].name == "sensor_msgs/msg/Image"
    assert b"uint32 height" in found["/head/image_raw"].data
    assert b"string episode_id" in found["/episode_event"].data
    assert [e.event for e in robot.events] == [0, 2, 1]
    assert not robot.call("stop_episode", outcome=1).accepted
    assert not list((folder / PARTIAL).iterdir())


def test_buttons_start_and_stop_on_their_rising_edges(bench):
    recorder, robot, folder = bench()
    marks = PROFILE.marks

    def refused():  # the first presses may come before the recorder has matched their publisher
        robot.press(marks.start_button)
        return "the start button has no effect: no task" in recorder.log()

    robot.until(refused, "the reason")
    assert set_parameter(robot.ros, robot.node, "task", "stack", robot.spin, node_name="recorder")
    robot.press(marks.start_button)
    robot.until(lambda: robot.events, "the start")
    robot.press(marks.stop_button)
    robot.until(lambda: [e.event for e in robot.events] == [0, 1], "both events")
    (path,) = [p for p in folder.iterdir() if p.name != PARTIAL]
    assert read(path)[1] == [(0, 0, "", "stack"), (1, 0, "", "stack")]


def test_what_was_written_is_readable_after_a_kill(bench, start, tmp_path):
    recorder, robot, folder = bench()
    name = robot.call("start_episode", task="stack").episode_id
    robot.size = (320, 240)
    left = folder / PARTIAL / name / f"{name}.mcap"

    def readable():
        """How many messages can be read from what is on the disk by now."""
        count = 0
        with open(left, "rb") as file, pytest.raises(Exception):  # noqa: B017 (the end is missing)
            for record in StreamReader(file).records:
                count += isinstance(record, Message)
        return count

    wait_for(lambda: readable() > 300, lambda: robot.run(0.5), "300 messages on the disk")
    recorder.kill()
    recorder.wait()
    assert readable() > 300
    assert not (folder / name).exists(), "it does not look finished"
    again = start(NODE, *parameters(output=str(folder)))
    wait_for(lambda: f"left by a recorder that was killed, readable but without index: {name}" in again.log())


def test_it_warns_of_silent_and_slow_topics_and_completes_the_episode_at_its_end(bench):
    recorder, robot, folder = bench()
    robot.silent = {"head_camera"}
    name = robot.call("start_episode", task="stack").episode_id
    robot.until(lambda: "/head/image_raw is silent" in recorder.log(), "the warning")
    robot.silent = set()
    robot.until(lambda: "/head/image_raw is at" in recorder.log(), "the good news")
    recorder.terminate()
    assert recorder.wait(PATIENCE_S) == 0
    assert read(folder / name)[1][-1] == (1, 0, "aborted: the recorder was stopped", "stack")


def test_it_says_which_commands_are_silent_and_which_topic_has_two_senders(bench):
    recorder, robot, _ = bench()
    robot.sent.clear()
    robot.until(lambda: robot.sent["/left_arm/joint_states"] >= 200, "time for a look at the rates")
    begun = robot.call("start_episode", task="stack")
    silent = [arm.teleoperation_topic for arm in PROFILE.arms.values()]
    assert begun.accepted
    assert "WARNING: nothing comes on" in begun.message
    assert all(topic in begun.message for topic in silent)
    assert PROFILE.arms["left"].state_topic not in begun.message
    robot.until(lambda: f"{silent[0]} is silent" in recorder.log(), "the warning")
    head, publisher = robot.images["head_camera"], robot.node.create_publisher(Image, "/head/image_raw", 10)

    def send_more():
        for each in (publisher, head) * 5:
            each.publish(Image(width=1, height=1, encoding="rgb8", step=3, data=b"abc"))
        robot.run(0.01)

    wait_for(lambda: "is there a second sender?" in recorder.log(), send_more, "the warning")
    assert "/head/image_raw is at" in recorder.log()
    ended = robot.call("stop_episode", outcome=1)
    assert f"NOTHING came on {silent[0]}" in ended.message


def test_definitions_come_from_the_installed_packages_with_all_they_consist_of(tmp_path, monkeypatch):
    files = {
        "odd_msgs/msg/Odd.msg": "std_msgs/Header header\nInner[] parts\nInner[2] two\nother_msgs/Far far\n",
        "odd_msgs/msg/Inner.msg": "float32 x\nstring<=5 name\n",
        "other_msgs/msg/Far.msg": "geometry_msgs/Pose pose\n",
    }
    for name, text in files.items():
        path = tmp_path / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / name.split("/")[0]).touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    store = message_store()
    learn_type(store, "odd_msgs/msg/Odd")
    text = store.generate_msgdef("odd_msgs/msg/Odd")[0]
    assert "odd_msgs/Inner" in text and "other_msgs/Far" in text and "geometry_msgs/Pose" in text
    with pytest.raises(UserError, match="source the workspace that has the package"):
        learn_type(store, "odd_msgs/msg/Missing")


def test_it_does_not_fill_the_disk(bench):
    recorder, robot, folder = bench()
    name = robot.call("start_episode", task="stack").episode_id
    robot.run(1.0)
    assert set_parameter(robot.ros, robot.node, "min_free_gb", 10_000.0, robot.spin, node_name="recorder")
    robot.until(lambda: "the episode is ended before the disk is full: only " in recorder.log(), "the reason")
    robot.until((folder / name).exists, "the complete bag")
    assert read(folder / name)[1][-1][:2] == (1, 0), "of unknown outcome"
    answer = robot.call("start_episode", task="stack")
    assert not answer.accepted
    assert "min_free_gb is 10000" in answer.message


def test_a_write_that_fails_ends_the_episode_and_keeps_what_there_is(ros, start, tmp_path):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
    recorder = start(NODE, *parameters(output=str(tmp_path)), before=limit)
    robot = Bench(ros, recorder)
    robot.until(robot.listened_to, "a listening recorder")
    robot.size = (320, 240)
    name = robot.call("start_episode", task="stack").episode_id
    robot.until(lambda: "ended: writing failed: [Errno 27] File too large" in recorder.log(), "the reason")
    assert (tmp_path / PARTIAL / name).exists()
    assert not (tmp_path / name).exists()
    robot.until(lambda: robot.events and robot.events[-1].event == EpisodeEvent.STOP, "the event")
    assert recorder.poll() is None


def test_wrong_parameters_are_named(start):
    wrong = [
        ({"images": "blue"}, "parameter images: 'blue' is refused, expected one of raw, compressed"),
        ({"topics": "['/x:nothing/msg/Y']"}, "message type 'nothing/msg/Y' is not installed"),
        (
            {"commands": "anybody"},
            "parameter commands: 'anybody' is refused, expected one of teleoperation, policy, none",
        ),
        ({"topics": "['x']"}, "expected /NAME:PACKAGE/msg/TYPE"),
    ]
    nodes = [(start(NODE, *parameters(**values)), text) for values, text in wrong]

    for node, text in nodes:
        assert node.wait(PATIENCE_S) == 1
        assert text in node.log()
