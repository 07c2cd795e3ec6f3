"""The node with its policy on a server: the same in front of the robot, and a server that fails in any way stops it."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import PATIENCE_S, keeps_promise, wait_for
from fake_robot import PROFILE, FakeRobot, said_s, start_node
from node_policies import DT_S, HORIZON
from places import SUPPORT
from serving_helpers import free_port
from serving_policies import Swing
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from pi05_progress.serving.teleavatar import make_reply, read_request
from pi05_progress.serving.wire import pack, unpack
from pi05_progress_msgs.msg import TaskProgress

TIMEOUT_S = 2.0  # of the node
FAR_RAD = 0.5  # what the first joint, which swings not at all, would do after an answer that is not to be used


def start_server(start, port, *arguments):
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    given = ["--policy", "serving_policies:swing", "--port", str(port), *arguments]
    server = start("pi05_progress.serving", *given, PYTHONPATH=path)
    wait_for(lambda: "listening on" in server.log(), what=f"a server: {server.log()}")
    return server


def test_a_killed_server_means_unknown_and_nothing_commanded_until_it_is_back(start, ros):
    port = free_port()
    server = start_server(start, port)
    uri = f"ws://127.0.0.1:{port}"
    node = start_node(start, prompt="swing", publish_commands="true", policy="websocket", server_uri=uri)
    robot = FakeRobot(ros, node)
    robot.until(robot.moving, "progress and motion over the network")
    message = robot.progress[-1]
    assert (message.model_id, round(message.progress_raw, 3)) == ("scripted", 0.5)
    assert message.lower < message.progress < message.upper
    assert message.inference_ms > 0
    assert "Task progress: 50.0%" in server.log()

    def told_after_s():
        known, killed_s = len(node.log()), time.time()
        server.kill()
        robot.until(lambda: robot.unknown() and "progress unknown: " in node.log()[known:], "UNKNOWN")
        return said_s(node.log()[known:], "progress unknown: ") - killed_s

    def recover():
        nonlocal server
        server = start_server(start, port)
        robot.until(robot.moving, "recovery")

    keeps_promise(1.5, told_after_s, recover)
    robot.held(1.5)
    robot.until(lambda: robot.progress, "a heartbeat")
    assert all(m.status == TaskProgress.UNKNOWN for m in robot.progress)
    refused = f"no policy server at {uri}"
    robot.until(lambda: f"{refused}: Connection refused" in node.log(), "the reason")
    assert "Traceback" not in node.log()
    robot.until(lambda: robot.statuses().get("inference", "").startswith(refused), "the reason in the diagnostics")

    recover()
    node.send_signal(signal.SIGTERM)
    assert node.wait(PATIENCE_S) == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == 0


class FakeServer:
    """Answers with the known trajectory, but for what ``fault`` says."""

    def __init__(self):
        self.fault, self.policy = None, Swing()

    @contextlib.contextmanager
    def running(self):
        with serve(self.handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            self.uri = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
            yield self
            self.fault = None
            server.shutdown()
            thread.join()

    def handle(self, connection):
        facts = {"model_id": "scripted", "robot": "teleavatar", "action_horizon": HORIZON, "action_dt_s": DT_S}
        changed = {"another model": {"model_id": "other"}, "endless steps": {"action_dt_s": 1e9}}
        connection.send(pack(facts | changed.get(self.fault, {})))
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                self.answer(connection, make_reply(self.policy.infer(*read_request(unpack(message), PROFILE))))

    def answer(self, connection, reply):
        far = pack(reply | {"actions": reply["actions"] + np.float32(FAR_RAD)})
        match self.fault:
            case "frozen":
                while self.fault == "frozen":
                    time.sleep(0.02)
            case "late answer":
                self.fault = None
                time.sleep(TIMEOUT_S + 0.2)
                connection.send(far)
            case "surplus answer":
                self.fault = None
                connection.send(pack(reply))
                connection.send(far)
            case "short chunk":
                connection.send(pack(reply | {"actions": reply["actions"][:3]}))
            case "actions not finite":
                connection.send(pack(reply | {"actions": reply["actions"] * np.float32(np.nan)}))
            case "progress of 1.7":
                connection.send(pack(reply | {"progress": 1.7}))
            case "another model" | "endless steps":
                connection.close()
            case _:
                connection.send(pack(reply))


LASTING = {
    "frozen": "did not answer within 2 s",
    "short chunk": "the policy's actions are (3, 16), expected (30, 16)",
    "actions not finite": "the policy's actions are not finite",
    "another model": "now serves model_id 'other' instead of 'scripted'",
    "endless steps": "the server tells action_dt_s 1000000000.0; expected seconds above 0",
}
PASSING = {
    "progress of 1.7": "no progress (said once): the policy's progress is outside [0, 1] (progress 1.7",
    "surplus answer": "sent something that nobody asked for",
    "late answer": "did not answer within 2 s",
}


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(("surplus answer", "short chunk", "frozen"), id="short"),
        pytest.param(
            ("late answer", "actions not finite", "progress of 1.7", "another model", "endless steps"),
            id="long",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_server_that_answers_wrongly_or_not_means_unknown_and_nothing_commanded(start, ros, faults):
    with FakeServer().running() as server:
        node = start_node(
            start, prompt="swing", publish_commands="true", policy="websocket", server_uri=server.uri,
            server_timeout_s=TIMEOUT_S,
        )  # fmt: skip
        robot = FakeRobot(ros, node)
        robot.until(robot.moving, "progress and motion over the network")
        first_joint = robot.targets[-1][2][0]
        for fault in faults:
            robot.forget()
            server.fault = fault
            robot.until(robot.unknown, f"UNKNOWN after: {fault}")
            robot.until(lambda fault=fault: (LASTING | PASSING)[fault] in node.log(), f"a word about: {fault}")
            if fault in LASTING:
                robot.held(1.2)
                robot.until(lambda: robot.progress, "a heartbeat")
                assert all(m.status == TaskProgress.UNKNOWN for m in robot.progress), fault
            server.fault = None
            robot.until(robot.moving, f"recovery from: {fault}")
            far = [p[0] for _, side, p in robot.targets if side == "left" and abs(p[0] - first_joint) > FAR_RAD / 10]
            assert not far, f"commanded after: {fault}"
        assert "Traceback" not in node.log()
        node.send_signal(signal.SIGTERM)
        assert node.wait(PATIENCE_S) == 0
