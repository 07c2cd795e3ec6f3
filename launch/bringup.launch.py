"""The policy beside a robot or the simulated one; described in ``pi05_progress_ros/starting/bringup.py``."""

from launch import LaunchDescription
from pi05_progress_ros.starting.bringup import BRINGUP
from pi05_progress_ros.starting.launch_actions import launch_description


def generate_launch_description() -> LaunchDescription:
    """Read by ``ros2 launch``."""
    return launch_description(BRINGUP)
