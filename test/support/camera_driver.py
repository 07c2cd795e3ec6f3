"""Passes pictures on, from topics below /driver to those of the robot's cameras: all but those that a file names."""

import contextlib
import sys
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


def main(lost, *topics):
    """``lost``: path of the file; it holds topics that are lost now."""
    rclpy.init()
    node = rclpy.create_node("camera_driver")
    for topic in topics:
        publisher = node.create_publisher(Image, topic, qos_profile_sensor_data)

        def pass_on(message, topic=topic, publisher=publisher):
            if topic not in Path(lost).read_text():
                publisher.publish(message)

        node.create_subscription(Image, f"/driver{topic}", pass_on, qos_profile_sensor_data, raw=True)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
