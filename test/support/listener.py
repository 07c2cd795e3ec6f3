"""Listens to the topic /heard, and says so."""

import rclpy
from std_msgs.msg import String

from pi05_progress_ros.ros_session import ros_session

with ros_session([]):
    node = rclpy.create_node("listener")
    node.create_subscription(String, "/heard", lambda _: print("heard", flush=True), 10)
    rclpy.spin(node)
