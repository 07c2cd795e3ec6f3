"""Publishers of commands come and go in a thread of their own, while the node's executor waits for its callbacks."""

import sys
import threading

import pytest

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.commanding.publishers import CommandPublishers


@pytest.fixture
def hasty_threads():
    """Threads that take turns as often as on a busy machine, where they meet in every way."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_publishers_that_go_do_not_disturb_the_executor(ros, hasty_threads):
    from rclpy.executors import SingleThreadedExecutor

    node, executor = ros.create_node("commander"), SingleThreadedExecutor()
    executor.add_node(node)
    node.create_timer(0.0005, lambda: None)
    profile, gone = RobotProfile.load("teleavatar"), threading.Event()

    def come_and_go():
        for _ in range(500):
            CommandPublishers(node, profile).destroy()
        gone.set()

    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    while thread.is_alive():
        executor.spin_once(timeout_sec=0.01)
    assert gone.is_set()
