"""Recording with rosbag2; described in ``pi05_progress_ros/starting/bringup.py``."""

from launch import LaunchDescription
from pi05_progress_ros.starting.bringup import RECORD
from pi05_progress_ros.starting.launch_actions import launch_description


def generate_launch_description() -> LaunchDescription:
    """Read by ``ros2 launch``."""
    return launch_description(RECORD)
