"""The chunk as paths of the fingertips: over DDS, and nothing is computed for nobody."""

import numpy as np
import pytest
from conftest import wait_for
from fake_robot import HOME, PROFILE, FakeRobot, start_node, to_s
from nav_msgs.msg import Path

from pi05_progress.files.config_files import config_file
from pi05_progress.robots.kinematics import fingertips
from pi05_progress_ros.commanding.chunks import Chunk
from pi05_progress_ros.node.results import FingertipPaths

TOPIC = "/policy_node/fingertip_path/"
ARMS = tuple(PROFILE.arms)


def points(path):
    return np.array([[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in path.poses])


@pytest.mark.long  # the node's start; what the node calls is looked at below
def test_a_path_is_where_the_rows_of_the_chunk_bring_the_fingertips(start, ros):
    robot = FakeRobot(ros, start_node(start, prompt="swing"))
    paths = {arm: [] for arm in ARMS}
    for arm, heard in paths.items():
        robot.node.create_subscription(Path, TOPIC + arm, heard.append, 10)

    def pairs(arm):
        chunks = {(c.header.stamp.sec, c.header.stamp.nanosec // 1000): c for c in robot.chunks}
        found = ((p, chunks.get((p.header.stamp.sec, p.header.stamp.nanosec // 1000))) for p in paths[arm])
        return [(path, chunk) for path, chunk in found if chunk is not None]

    robot.until(lambda: all(map(pairs, ARMS)), "a path of each arm and its chunk")
    for at, arm in enumerate(ARMS):
        path, chunk = pairs(arm)[-1]
        rows = np.reshape(chunk.values, (chunk.horizon, -1))
        np.testing.assert_allclose(points(path), fingertips(rows, PROFILE.layout, "grasp")[:, at], atol=1e-5)
        assert np.ptp(points(path), axis=0).max() > 0.005, "it swings"
        assert {pose.header.frame_id for pose in path.poses} == {path.header.frame_id} == {"base_link"}
        times = [to_s(pose.header.stamp) - to_s(path.header.stamp) for pose in path.poses]
        np.testing.assert_allclose(times, chunk.dt * np.arange(chunk.horizon), atol=1e-4)


class Unseen(Chunk):
    """A chunk at which nobody may look."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was looked at")


def row():
    arms = [[*HOME[arm], 0.0] for arm in ARMS]
    return np.concatenate(arms)


def test_nothing_is_computed_while_nobody_subscribes_and_only_what_somebody_looks_at_is_sent(ros):
    node, viewer, heard = ros.create_node("policy_node"), ros.create_node("viewer"), []
    paths = FingertipPaths(node, PROFILE)
    unseen, seen = Unseen(0.0, 0.1, row()[None]), Chunk(5.0, 0.1, np.stack([row()] * 3))
    paths.publish(unseen)
    subscription = viewer.create_subscription(Path, TOPIC + "right", heard.append, 10)

    def spin():
        paths.publish(seen)
        ros.spin_once(viewer, timeout_sec=0.05)

    wait_for(lambda: heard, spin, "a path")
    tip = fingertips(row(), PROFILE.layout, "grasp")[1]
    np.testing.assert_allclose(points(heard[0]), [tip] * 3, atol=1e-9)
    viewer.destroy_subscription(subscription)
    wait_for(lambda: not node.count_subscribers(TOPIC + "right"), what="the subscription's end")
    wait_for(lambda: not any(p.get_subscription_count() for p in node.publishers), what="that it is noticed")
    paths.publish(unseen)
    paths.destroy()
    assert not [name for name, _ in node.get_publisher_names_and_types_by_node("policy_node", "/") if TOPIC in name]


@pytest.mark.parametrize("lacking", ["the geometry", "a point between the fingers", "the file"])
def test_without_a_geometry_of_the_hands_no_path_is_there_and_that_is_said_once(ros, tmp_path, capfd, lacking):
    file, text = tmp_path / "mine.yaml", config_file("arm_geometry.yaml").read_text(encoding="utf-8")
    if lacking != "the file":
        file.write_text(text.replace("grasp: pads", "palm: pads"), encoding="utf-8")
    geometry = None if lacking == "the geometry" else PROFILE.geometry.model_copy(update={"file": str(file)})
    node = ros.create_node("policy_node")
    paths = FingertipPaths(node, PROFILE.model_copy(update={"geometry": geometry}))
    for _ in range(3):
        paths.publish(Chunk(5.0, 0.1, row()[None]))
    assert not [name for name, _ in node.get_topic_names_and_types() if "fingertip" in name]
    said = capfd.readouterr()
    assert (said.out + said.err).count("the chunk is not published as paths of the fingertips: ") == 1
