"""The tool that measures delays, beside cameras that send what they saw a while ago."""

import re
import time

import numpy as np
from conftest import wait_for
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState

from pi05_progress.robots.profile import RobotProfile

PROFILE, DELAY_S = RobotProfile.load("teleavatar"), 0.15
TEXTURE = np.random.default_rng(0).integers(0, 255, (30, 400), np.uint8).repeat(4, 0).repeat(4, 1)


def test_delays_are_measured_over_ros_while_the_arms_move_and_nothing_is_commanded(start, ros):
    node = ros.create_node("moving")
    cameras = {
        key: node.create_publisher(Image, camera.topic, qos_profile_sensor_data)
        for key, camera in PROFILE.cameras.items()
    }
    arms = [(arm, node.create_publisher(JointState, arm.state_topic, 10)) for arm in PROFILE.arms.values()]
    knots = np.cumsum(np.random.default_rng(2).normal(size=4000) * (np.random.default_rng(3).random(4000) < 0.6))
    program = start("pi05_progress_ros.measure_delay", "--seconds", "8")
    began_ns, sent, publishers = node.get_clock().now().nanoseconds, 0.0, []

    def position(at_ns):
        return 0.1 * np.interp((at_ns - began_ns) * 4e-9, np.arange(4000), knots)

    def spin():
        nonlocal sent, publishers
        now_ns = node.get_clock().now().nanoseconds
        for arm, publisher in arms:
            message = JointState(name=list(arm.joints), position=[position(now_ns)] * 7)
            message.header.stamp = Time(nanoseconds=now_ns).to_msg()
            publisher.publish(message)
        if time.monotonic() - sent > 1 / 30:
            sent, at = time.monotonic(), 600 + int(400 * position(now_ns - round(DELAY_S * 1e9)))
            picture = np.repeat(TEXTURE[:, at % 1400 : at % 1400 + 160, None], 3, axis=2)
            for publisher in cameras.values():
                message = Image(height=120, width=160, step=480, encoding="rgb8", data=picture.tobytes())
                message.header.stamp = Time(nanoseconds=now_ns).to_msg()
                publisher.publish(message)
        publishers += [t for t, _ in node.get_publisher_names_and_types_by_node("measure_delay", "/")] if sent else []
        ros.spin_once(node, timeout_sec=0.01)

    def spin_while_it_is_there():
        try:
            spin()
        except Exception as error:  # the node is not there yet, or no more
            assert "ode" in repr(error), error

    wait_for(lambda: program.poll() is not None, spin_while_it_is_there, "the end of the program")
    said = program.log()
    found = re.findall(r"(\w+): delay_s: ([\d.]+)  \(correlation", said)
    assert program.poll() == 0 and [key for key, _ in found] == list(PROFILE.cameras), said
    assert all(abs(float(delay) - DELAY_S) < 0.03 for _, delay in found), said
    assert not [topic for topic in publishers if topic not in ("/rosout", "/parameter_events")]
