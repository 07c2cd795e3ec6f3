"""The example of a node that reacts to progress, beside a node that publishes it."""

import subprocess
import sys

from conftest import wait_for
from monitor_messages import progress
from places import ROOT

from pi05_progress_msgs.msg import TaskProgress


def test_it_speaks_once_per_change_and_ends_when_the_task_is_done(ros, tmp_path):
    node, log = ros.create_node("policy"), tmp_path / "said"
    publisher = node.create_publisher(TaskProgress, "/task_progress", 10)
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, ROOT / "examples/react_to_progress.py"], stdout=said)

    def publish(status):
        publisher.publish(progress(status=status))
        ros.spin_once(node, timeout_sec=0.05)

    try:
        wait_for(lambda: "not getting anywhere" in log.read_text(), spin=lambda: publish(TaskProgress.STALLED))
        wait_for(lambda: process.poll() is not None, spin=lambda: publish(TaskProgress.SUCCEEDED))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert [line.split("' ")[1].split(":")[0] for line in log.read_text().splitlines()] == [
        "is not getting anywhere",
        "is done (42%)",
    ]
