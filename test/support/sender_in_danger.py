"""Sends to a listener, as the policy node does, and commands meanwhile; prints its longest pause between two commands.

Usage: sender_in_danger.py commands|nothing: whether its transports are those of a program that commands.
"""

import sys
import threading
import time

from rclpy.node import Node
from std_msgs.msg import String

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.participants import NodeApart
from pi05_progress_ros.commanding.publishers import CommandPublishers
from pi05_progress_ros.ros_session import ros_session

with ros_session([], commands=sys.argv[1] == "commands") as stop:
    node = Node("sender")
    progress = node.create_publisher(String, "/heard", 10)
    commands = CommandPublishers(NodeApart(node, "commands"), RobotProfile.load("teleavatar"))
    paused_s = 0.0

    def command():
        global paused_s
        before_s = time.monotonic()
        while not stop.is_set():
            commands.enable(True, at_once=True)
            time.sleep(0.01)
            now_s = time.monotonic()
            paused_s, before_s = max(paused_s, now_s - before_s), now_s

    thread = threading.Thread(target=command)
    while not progress.get_subscription_count():
        time.sleep(0.02)
    thread.start()
    print("sends", flush=True)
    while not stop.is_set():
        progress.publish(String(data="progress"))
        time.sleep(0.05)
    thread.join()
    print(f"paused for {paused_s:.3f} s", flush=True)
