"""The node with its policy on a server: the same in front of the robot, and a killed server stops it."""

import os
import signal
import time

from conftest import wait_for
from fake_robot import HERE, FakeRobot, start_node
from test_serving_client import free_port

from pi05_progress_msgs.msg import TaskProgress


def start_server(start, port, *arguments):
    path = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
    given = ["--policy", "serving_policies:swing", "--port", str(port), *arguments]
    server = start("pi05_progress.serving", *given, PYTHONPATH=path)
    wait_for(lambda: "listening on" in server.log(), 60, what=f"a server: {server.log()}")
    return server


def test_a_killed_server_means_unknown_and_nothing_commanded_until_it_is_back(start, ros):
    port = free_port()
    server = start_server(start, port)
    uri = f"ws://127.0.0.1:{port}"
    node = start_node(start, prompt="swing", publish_commands="true", policy="websocket", server_uri=uri)
    robot = FakeRobot(ros, node)
    robot.until(lambda: robot.good() and robot.moved(), "progress and motion over the network", 60)
    message = robot.progress[-1]
    assert (message.model_id, round(message.progress_raw, 3)) == ("scripted", 0.5)
    assert message.lower < message.progress < message.upper
    assert message.inference_ms < 500
    assert "Task progress: 50.0%" in server.log()

    server.kill()
    killed = time.monotonic()
    robot.until(robot.unknown, "UNKNOWN", 5)
    assert time.monotonic() - killed < 1.5
    robot.run(0.3)
    assert robot.last_enable == 0.0, "the robot is paused"
    robot.run(1.5)
    assert (robot.targets, robot.grippers) == ([], [])
    assert [value for _, value in robot.enables if value > 0] == []
    assert robot.progress
    assert all(m.status == TaskProgress.UNKNOWN for m in robot.progress)
    assert f"no policy server at {uri}: Connection refused" in node.log()
    assert "Traceback" not in node.log()
    assert robot.statuses()["inference"].startswith(f"no policy server at {uri}")

    server = start_server(start, port)
    robot.until(lambda: robot.good() and robot.moved(), "recovery", 15)
    node.send_signal(signal.SIGTERM)
    assert node.wait(10) == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
