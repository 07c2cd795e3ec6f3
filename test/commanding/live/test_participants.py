"""What commands the robot has a participant of its own and no shared memory, where a killed program leaves locks."""

import mmap
import os
import re
import signal
import struct
import time
from pathlib import Path

import pytest
from conftest import PATIENCE_S, keeps_promise, wait_for
from fake_robot import PROFILE, FakeRobot, start_node
from places import SUPPORT

from pi05_progress_ros.ros_session import BUILTIN

RELAY = "pi05_progress_ros.arm_relay_node"
PORTS = re.compile(r"/dev/shm/fastrtps_port\d+(?=_el$)")
PSHARED = 0x80  # kind of a mutex that is shared between processes, in glibc


def own_ports(process):
    """FastDDS's queues in shared memory at which a process listens: two for each participant that has any."""
    opened = (os.path.realpath(path) for path in Path(f"/proc/{process.pid}/fd").iterdir())
    return sorted({found[0] for found in map(PORTS.search, opened) if found})


def participants(infos):
    """Of endpoints: what their identifiers begin with is the same for all of a participant."""
    return {bytes(info.endpoint_gid)[:12] for info in infos}


def test_commands_have_a_participant_of_their_own_and_only_cameras_have_shared_memory(start, ros):
    node = start_node(start, prompt="swing", publish_commands="true")
    robot = FakeRobot(ros, node)
    grippers = [gripper.command_topic for gripper in PROFILE.grippers.values()]
    commanded = (*PROFILE.target_topics().values(), *grippers, PROFILE.enable_topic)

    def of(ask, topics):
        infos = (info for topic in topics for info in ask(topic))
        return participants(info for info in infos if info.node_name.startswith("policy_node"))

    writers, readers = robot.node.get_publishers_info_by_topic, robot.node.get_subscriptions_info_by_topic
    pictures = [camera.topic for camera in PROFILE.cameras.values()]
    robot.until(lambda: all(map(writers, commanded)) and robot.good(), "publishers of all commands, and progress")

    def found():
        told = of(writers, ["/task_progress", "/action_chunk", "/diagnostics"])
        return of(writers, commanded), told, of(readers, pictures)

    robot.until(lambda: all(found()), "the names of all their nodes")  # which are discovered after the topics
    commands, others, cameras = found()
    assert len(commands) == len(others) == len(cameras) == len(commands | others | cameras) / 3 == 1
    assert len(own_ports(node)) == 2


def test_the_relay_has_no_shared_memory_unless_the_user_has_chosen_transports(start):
    relays = [start(RELAY), start(RELAY, "--ros-args", "-r", "__ns:=/other", **{BUILTIN: "DEFAULT"})]
    for relay in relays:
        wait_for(
            lambda relay=relay: "arm_relay" in Path(f"/proc/{relay.pid}/cmdline").read_text() and sockets(relay) > 3
        )
    assert own_ports(relays[0]) == []
    wait_for(lambda: own_ports(relays[1]), what="shared memory")


def sockets(process):
    """How many a process has."""
    return sum(
        os.path.realpath(p).rpartition("/")[2].startswith("socket:") for p in Path(f"/proc/{process.pid}/fd").iterdir()
    )


def die_with_locks(process):
    """End a process at once as if it had just taken the locks of its ports, which nobody gives back."""
    process.send_signal(signal.SIGSTOP)
    for port in own_ports(process):
        with open(port, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for at in range(0, len(memory) - 24, 8):
                lock, count, owner, users, kind = struct.unpack_from("<IIIIi", memory, at)
                if kind == PSHARED and lock < 3 and count < 2 and owner < 1 << 22 and users < 3:
                    struct.pack_into("<IIII", memory, at, 2, 0, process.pid, 1)  # taken, and waited for
    process.kill()


@pytest.mark.long
@pytest.mark.parametrize("transports", ["commands", "nothing"])
def test_a_program_that_dies_with_its_locks_stops_no_commands(start, transports):
    def paused_s():
        listener = start("listener", PYTHONPATH=str(SUPPORT))
        sender = start("sender_in_danger", transports, PYTHONPATH=str(SUPPORT))
        wait_for(lambda: "sends" in sender.log(), what="a sender that is heard")
        wait_for(lambda: "heard" in listener.log(), what="a listener")
        die_with_locks(listener)
        time.sleep(4.0)  # FastDDS gives up at each lock after a second, and forgets the dead after three
        sender.send_signal(signal.SIGINT)
        assert sender.wait(PATIENCE_S) == 0, sender.log()
        return float(re.search(r"paused for ([\d.]+) s", sender.log())[1])

    if transports == "commands":
        keeps_promise(0.5, paused_s, lambda: None)
    else:
        assert paused_s() > 0.9  # else the test above would show nothing
