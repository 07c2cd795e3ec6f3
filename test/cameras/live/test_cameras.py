"""The policy node beside the simulated robot, whose cameras send other things than whole pictures."""

import math
import threading

import pytest
from conftest import PATIENCE_S, wait_for
from diagnostic_msgs.msg import DiagnosticArray
from fake_robot import parameters, start_node
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader
from video_packets import decoded, messages, moving

from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
from pi05_progress.files.config_files import config_file
from pi05_progress.robots.message_store import message_store
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.robots.video_packets import frame_to_rgb
from pi05_progress_msgs.msg import TaskProgress
from pi05_progress_msgs.srv import StartEpisode, StopEpisode
from pi05_progress_ros.cameras.cameras import open_cameras
from pi05_progress_ros.cameras.packets import PacketCamera
from pi05_progress_ros.inputs import Inputs, Limits
from pi05_progress_ros.parameters import QosOverrides
from pi05_progress_ros.starting.simulation_choices import free_udp_port

MIXED = f"""
extends: {config_file("teleavatar.yaml")}
name: mixed
cameras:
  head_camera: {{transport: compressed}}
  left_color: {{transport: ffmpeg}}
"""


# One with packets on every topic is a node's in test_recorded_playback.py, too.
@pytest.mark.parametrize("robot", [pytest.param("teleavatar_v1", marks=pytest.mark.long), "teleavatar_v2", "mixed"])
def test_the_node_publishes_progress_from_packets_and_again_after_their_sender_was_restarted(
    start, ros, tmp_path, robot
):
    if robot == "mixed":
        (tmp_path / "mixed.yaml").write_text(MIXED)
        robot = tmp_path / "mixed.yaml"
    port = free_udp_port()

    def simulated():
        return start("pi05_progress_ros.sim.robot_node", *parameters(profile=robot, image_scale=0.1, stream_port=port))

    listener, heard, diagnostics = ros.create_node("listener"), [], {}
    listener.create_subscription(TaskProgress, "/task_progress", heard.append, 50)
    listener.create_subscription(
        DiagnosticArray, "/diagnostics", lambda array: diagnostics.update({s.name: s for s in array.status}), 10
    )
    sender, node = simulated(), start_node(start, prompt="rise", robot=robot, use_sim_time="true", stream_port=port)

    def until(condition, what):
        def spin():
            assert node.poll() is None and sender.poll() is None, node.log() + sender.log()
            ros.spin_once(listener, timeout_sec=0.02)

        wait_for(condition, spin, what)

    def good():
        return any(math.isfinite(message.progress) for message in heard)

    until(good, "progress")

    def figures():
        return {value.key: value.value for name, s in diagnostics.items() if "left_color" in name for value in s.values}

    until(lambda: int(figures().get("pictures", 0)) > 0, "diagnostics")
    assert figures()["encoding"] == "hevc"
    if "mixed" in str(robot):
        return
    until(lambda: heard[-1].header.stamp.sec >= 3, "a clock that can jump back")
    sender.terminate()  # a kill may leave FastDDS's shared memory locked
    sender.wait(PATIENCE_S)
    sender = simulated()
    until(lambda: "the clock jumped back" in node.log(), "the restarted robot")
    heard.clear()
    until(good, "progress again")


class Listening(QosOverrides, Node):
    """As all nodes here are: the QoS of its topics are parameters."""


def packets(made):
    """The same as messages of ROS."""
    sent = []
    for packet in made:
        fields = {name: getattr(packet, name) for name in ("width", "height", "encoding", "pts", "flags")}
        sent.append(FFMPEGPacket(**fields, data=packet.data.tobytes()))
        sent[-1].header.stamp.sec = packet.header.stamp.sec
    return sent


@pytest.mark.parametrize("together", [True, False])
def test_pictures_of_two_senders_are_never_mixed(ros, together):
    node, topic, inputs, seen = Listening("listening"), "/left/color/image_raw/ffmpeg", Inputs(Limits()), []
    # No count, and the other begins where the one left off: the decoder itself would notice nothing.
    videos = [messages(moving(20, seed=n), gop=10, pts=lambda _: 0, first_stamp=100 + 100 * n) for n in range(2)]
    whole, sent = decoded(videos[0]) | decoded(videos[1]), [packets(video) for video in videos]

    def arrived():
        message = inputs.state()[0].message
        seen.append((message.stamp_ns // 10**9, frame_to_rgb(message.frame)))

    camera = PacketCamera(node, "left_color", topic, FFMPEGPacket, inputs, arrived)
    senders = [ros.create_node(name) for name in ("one", "other")]
    publishers, at = [senders[0].create_publisher(FFMPEGPacket, topic, 10), None], 0

    def spin():
        nonlocal at
        for video, publisher in zip(sent, publishers, strict=True):
            if publisher and publisher.get_subscription_count():
                publisher.publish(video[at % 20])
        at += 1
        ros.spin_once(node, timeout_sec=0.02)
        ros.spin_once(node, timeout_sec=0.02)

    wait_for(lambda: seen and at % 10 == 5, spin, "pictures of the one")
    if together:
        publishers[1] = senders[1].create_publisher(FFMPEGPacket, topic, 10)
        said = "2 publishers send its packets (/one, /other): stop all but one"
        wait_for(lambda: inputs.state()[0].why == said, spin, said)
    senders[0].destroy_publisher(publishers[0])
    publishers = [None, publishers[1] or senders[1].create_publisher(FFMPEGPacket, topic, 10)]
    wait_for(lambda: seen[-1][0] >= 200, spin, "pictures of the other")
    camera.close()
    node.destroy_node()
    assert not [stamp for stamp, picture in seen if (picture != whole[stamp]).any()]


def test_cameras_that_were_opened_are_closed_if_another_cannot_be(ros):
    node, profile = Listening("listening"), RobotProfile.load("teleavatar_v1")
    *_, last = profile.cameras
    broken = profile.cameras | {last: profile.cameras[last].model_copy(update={"topic": "/no topic"})}
    with pytest.raises(Exception, match="topic name must not contain"):
        open_cameras(node, profile.model_copy(update={"cameras": broken}), Inputs(Limits()), lambda: None)
    assert not list(node.subscriptions)
    node.destroy_node()
    assert not any(thread.name.startswith("packets of") for thread in threading.enumerate())


def test_packets_are_asked_for_as_their_publishers_offer_them_now(ros):
    node, sender = Listening("listening"), ros.create_node("sending")
    inputs, arrived, topic = Inputs(Limits()), [], "/left/color/image_raw/ffmpeg"
    camera = PacketCamera(node, "left_color", topic, FFMPEGPacket, inputs, lambda: arrived.append(1))
    sent = packets(messages(moving(20), gop=1))

    def delivered(reliability):
        publisher = sender.create_publisher(FFMPEGPacket, topic, QoSProfile(depth=10, reliability=reliability))
        arrived.clear()

        def spin():
            if not publisher.get_subscription_count() or len(arrived) < 3:
                publisher.publish(sent[len(arrived)])
            ros.spin_once(node, timeout_sec=0.05)

        def asked():
            return {info.qos_profile.reliability for info in node.get_subscriptions_info_by_topic(topic)}

        wait_for(lambda: len(arrived) >= 3 and asked() == {reliability}, spin, f"packets, {reliability}")
        sender.destroy_publisher(publisher)

    delivered(ReliabilityPolicy.BEST_EFFORT)
    delivered(ReliabilityPolicy.RELIABLE)
    camera.close()
    assert node.get_subscriptions_info_by_topic(topic) == []
    node.destroy_node()
    assert not any(thread.name.startswith("packets of") for thread in threading.enumerate())


def test_packets_are_recorded_as_they_come(start, ros, tmp_path):
    robot, profile, heard = "teleavatar_v1", RobotProfile.load("teleavatar_v1"), []
    client = ros.create_node("client")

    def until(condition, what):
        wait_for(condition, lambda: ros.spin_once(client, timeout_sec=0.05), what)

    def call(kind, name, **fields):
        service = client.create_client(kind, f"/recorder/{name}")
        until(service.service_is_ready, name)
        future = service.call_async(kind.Request(**fields))
        until(future.done, f"an answer of {name}")
        return future.result()

    client.create_subscription(FFMPEGPacket, profile.cameras["right_color"].topic, heard.append, 50)
    start("pi05_progress_ros.sim.robot_node", *parameters(profile=robot, image_scale=0.1))
    recorder = start(
        "pi05_progress_ros.recorder_node", *parameters(robot=robot, output=tmp_path / "bags", commands="none")
    )
    until(lambda: len(heard) > 5, "packets")
    assert call(StartEpisode, "start_episode", task="stack").accepted, recorder.log()
    heard.clear()
    until(lambda: len(heard) > 60, "packets of two seconds")
    answer = call(StopEpisode, "stop_episode", outcome=1)
    assert answer.accepted, answer.message
    found = {camera.topic: [] for camera in profile.cameras.values()}
    with AnyReader([tmp_path / "bags" / answer.episode_id], default_typestore=message_store()) as reader:
        for connection, _, data in reader.messages(c for c in reader.connections if c.topic in found):
            found[connection.topic].append(reader.deserialize(data, connection.msgtype))
    for topic, sent in found.items():
        counts = [message.pts for message in sent]
        assert counts == list(range(counts[0], counts[0] + len(counts))), topic
        assert len(decoded(sent)) > 0, topic
