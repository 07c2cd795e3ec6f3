"""``bringup.launch.py sim:=true`` for real, by launch_testing, wherever that is installed."""

import math
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path

import pytest
from ament_prefix import ROOT, make_prefix
from conftest import PATIENCE_S

actions = pytest.importorskip("launch.actions")  # not "launch": that is a folder of this checkout, too
pytest.importorskip("launch_ros.actions")
testing = pytest.importorskip("launch_testing")


@pytest.mark.launch_test
def generate_test_description():
    prefix = make_prefix(Path(tempfile.mkdtemp(prefix="pi05_progress_")) / "prefix")
    paths = [str(prefix), os.environ.get("AMENT_PREFIX_PATH", sys.prefix)]
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_testing.actions import ReadyToTest

    from launch import LaunchDescription

    source = PythonLaunchDescriptionSource(str(ROOT / "launch/bringup.launch.py"))
    arguments = {"sim": "true", "sim_image_scale": "0.1", "namespace": "robot1"}
    return LaunchDescription(
        [
            actions.SetEnvironmentVariable("AMENT_PREFIX_PATH", os.pathsep.join(paths)),
            actions.IncludeLaunchDescription(source, launch_arguments=arguments.items()),
            ReadyToTest(),
        ]
    )


class TestWhileItRuns(unittest.TestCase):
    def test_progress_is_published_in_the_namespace_from_fresh_images(self):
        import rclpy

        from pi05_progress_msgs.msg import TaskProgress
        from pi05_progress_ros.starting.processes import use_image_transport

        use_image_transport()
        rclpy.init()
        node, messages = rclpy.create_node("listener"), []
        node.create_subscription(TaskProgress, "/robot1/task_progress", messages.append, 10)
        end_s = time.monotonic() + PATIENCE_S
        good = []
        while len(good) < 10 and time.monotonic() < end_s:
            rclpy.spin_once(node, timeout_sec=0.1)
            good = [m for m in messages if math.isfinite(m.progress_raw)]
        node.destroy_node()
        rclpy.try_shutdown()
        self.assertGreaterEqual(len(good), 10)
        stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in good]
        self.assertEqual(stamps, sorted(set(stamps)))
        self.assertTrue(good[-1].task.startswith("stack the red cube"))
        self.assertEqual(good[-1].model_id, "untrained")


@testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_both_ended_in_order(self, proc_info):
        from launch_testing.asserts import assertExitCodes

        assertExitCodes(proc_info)
